"""A model of some ten thousand weights and clips of noise for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from spacevllm.data.instance import Instance
from spacevllm.model.backbones.qwen3_vl import VISION_END, VISION_START
from spacevllm.model.collate import ClipSample
from spacevllm.model.configuration import SpaceVLLMConfig, tiny_config
from spacevllm.model.modeling import SpaceVLLM, build
from spacevllm.model.processing import SpaceVLLMProcessor
from spacevllm.model.tokenizer import build_tiny_tokenizer, prompt_texts
from spacevllm.tube import ABSENT

VIDEO_PAD = "<|video_pad|>"
WORDS = ("the red circle", "a blue square while it moves left", "what grows while the cow stands still?")


def instance(k: int, task: str = "stvg", question: str = "") -> Instance:
    spans = {"begin_s": 2.0, "end_s": 5.0, "begin_frame": 16, "end_frame": 40} if task in ("stvg", "vtg") else {}
    boxes = {"box_frames": list(range(57)), "boxes": [[10.0 + f, 20.0, 50.0 + f, 80.0] for f in range(57)]}
    qa = {"answer": "two", "options": ["one", "two"]} if task == "qa" else {}
    return Instance(
        id=f"{task}-{k}",
        task=task,  # type: ignore[arg-type]
        source="test",
        split="train",
        media="clip.png" if task == "rec" else "clip.mp4",
        media_type="image" if task == "rec" else "video",
        question=question or WORDS[k % 3],
        fps_num=8,
        num_frames=1 if task == "rec" else 57,
        width=160,
        height=120,
        duration_s=0.0 if task == "rec" else 57 / 8,
        **spans,
        **qa,
        **({"box_frames": [0], "boxes": [[10.0, 20.0, 50.0, 80.0]]} if task == "rec" else boxes),
    )


def absent(k: int) -> Instance:
    """A question about what is not in the video."""
    there = replace(instance(k), id=f"absent-{k}", answer=ABSENT, begin_s=None, end_s=None, box_frames=[], boxes=[])
    return replace(there, begin_frame=None, end_frame=None)


def clip(instances: list[Instance], seed: int = 0, size: tuple[int, int] = (32, 32)) -> ClipSample:
    """size: (height, width) of its frames; 32x32 fits both families."""
    image = instances[0].media_type == "image"
    indices = np.array([0]) if image else np.arange(8) * 8
    frames = np.random.default_rng(seed).integers(0, 255, (len(indices), *size, 3), np.uint8)
    return ClipSample(frames, indices, indices / 8, instances[0].duration_s, instances[0].media_type, instances)


def text_clip(k: int) -> ClipSample:
    """A question about no video and no image."""
    asked = Instance(f"text-{k}", "qa", "test", "train", "", "text", WORDS[k % 3], "two circles", num_frames=0)
    nothing = np.zeros(0)
    return ClipSample(np.zeros((0, 32, 32, 3), np.uint8), nothing.astype(int), nothing, 0.0, "text", [asked])


def make(seed: int = 0, backbone: str = "llava_onevision", **fields: object) -> tuple[SpaceVLLM, SpaceVLLMProcessor]:
    torch.manual_seed(seed)
    if backbone == "qwen3_vl":
        words = tokenizer(VISION_START, VISION_END)
        config = SpaceVLLMConfig(**{"backbone_config": qwen3_vl_config(len(words)), **QWEN3_VL_FIELDS, **fields})
        return build(config).eval(), SpaceVLLMProcessor(words, config)
    words = tokenizer()
    vision = {"image_size": 32, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    if fields.get("tower_frames") == 1:
        vision["num_channels"] = 3
    text = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "initializer_range": 0.2}
    config = tiny_config(len(words), vision, text, **fields)
    return build(config).eval(), SpaceVLLMProcessor(words, config)


BACKBONES = ("llava_onevision", "qwen3_vl")
QWEN3_VL_FIELDS = {
    "num_frames": 8,
    "frame_tokens": 6,  # of 16 pixels: 32x48 is 2x3
    "queries_in_text_tasks": True,
    "decoder_hidden_size": 256,
    "wordings": "one",
    "system_prompt": "",
}


def tokenizer(*special_tokens: str) -> PreTrainedTokenizerFast:
    tasks = ("stvg", "vtg", "rec", "qa")
    texts = list(prompt_texts(instance(k, t) for k in range(3) for t in tasks))
    return build_tiny_tokenizer(texts, 400, special_tokens)


def qwen3_vl_config(vocab_size: int) -> Qwen3VLConfig:
    """Deepstack behind three of four language layers, grouped heads, M-RoPE in three uneven sections."""
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [4, 2, 2], "mrope_interleaved": True}
    text = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}
    text |= {"num_key_value_heads": 2, "head_dim": 16, "initializer_range": 0.2, "vocab_size": vocab_size}
    vision = {"depth": 4, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "patch_size": 8}
    vision |= {"out_hidden_size": 48, "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1, 2]}
    return Qwen3VLConfig(
        text_config=text | {"rope_parameters": rope, "tie_word_embeddings": True},
        vision_config=vision | {"initializer_range": 0.2},
        tie_word_embeddings=True,
    )


def write_qwen3_vl(folder: Path) -> Path:
    """A Qwen3-VL of random weights in its published layout: config, tokenizer, shards with their index."""
    torch.manual_seed(5)
    words = tokenizer(VISION_START, VISION_END, VIDEO_PAD)
    config = qwen3_vl_config(len(words))
    config.video_token_id = words.convert_tokens_to_ids(VIDEO_PAD)
    model = Qwen3VLForConditionalGeneration(config).eval()
    for name, weight in model.named_parameters():
        if name.endswith("bias") or "norm" in name:  # what is all zeros or ones proves nothing
            torch.nn.init.normal_(weight, mean=float("norm" in name and name.endswith("weight")), std=0.2)
    model.save_pretrained(folder, max_shard_size="100KB")
    words.save_pretrained(folder)
    return folder
