"""A model of some ten thousand weights and clips of noise for it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from spacevllm.data.instance import Instance
from spacevllm.model.collate import ClipSample
from spacevllm.model.configuration import tiny_config
from spacevllm.model.modeling import SpaceVLLM, build
from spacevllm.model.processing import SpaceVLLMProcessor
from spacevllm.model.tokenizer import build_tiny_tokenizer, prompt_texts
from spacevllm.tube import ABSENT

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


def clip(instances: list[Instance], seed: int = 0) -> ClipSample:
    image = instances[0].media_type == "image"
    indices = np.array([0]) if image else np.arange(8) * 8
    frames = np.random.default_rng(seed).integers(0, 255, (len(indices), 32, 32, 3), np.uint8)
    return ClipSample(frames, indices, indices / 8, instances[0].duration_s, instances[0].media_type, instances)


def text_clip(k: int) -> ClipSample:
    """A question about no video and no image."""
    asked = Instance(f"text-{k}", "qa", "test", "train", "", "text", WORDS[k % 3], "two circles", num_frames=0)
    nothing = np.zeros(0)
    return ClipSample(np.zeros((0, 32, 32, 3), np.uint8), nothing.astype(int), nothing, 0.0, "text", [asked])


def make(seed: int = 0, **fields: object) -> tuple[SpaceVLLM, SpaceVLLMProcessor]:
    torch.manual_seed(seed)
    tasks = ("stvg", "vtg", "rec", "qa")
    tokenizer = build_tiny_tokenizer(list(prompt_texts(instance(k, t) for k in range(3) for t in tasks)), 400)
    vision = {"image_size": 32, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    if fields.get("tower_frames") == 1:
        vision["num_channels"] = 3
    text = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "initializer_range": 0.2}
    config = tiny_config(len(tokenizer), vision, text, **fields)
    return build(config).eval(), SpaceVLLMProcessor(tokenizer, config)
