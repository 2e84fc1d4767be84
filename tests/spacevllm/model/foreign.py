"""Tiny checkpoints as others publish them: SigLIP with 3 layers (2 once LLaVA has cut it), Qwen2 with 2 and GQA."""

from __future__ import annotations

import json

import torch
from safetensors.torch import save_file
from tiny import instance
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from spacevllm.model.tokenizer import build_tiny_tokenizer, prompt_texts

# 58 // 8 = 7 cells a side, pooled to 4: as uneven as 384 // 14 = 27 and 14
SIGLIP = {"image_size": 58, "patch_size": 8, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
QWEN2 = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
QWEN2 |= {"num_key_value_heads": 2, "max_position_embeddings": 2048, "initializer_range": 0.1, "eos_token_id": 2}


def tokenizer():
    return build_tiny_tokenizer(
        list(prompt_texts(instance(k, t) for k in range(3) for t in ("stvg", "rec", "qa"))), 400
    )


def siglip(layers=3):
    torch.manual_seed(1)
    model = SiglipVisionModel(SiglipVisionConfig(**SIGLIP, num_hidden_layers=layers)).eval()
    for weight in model.parameters():  # biases and norms too: what is all zeros or ones proves nothing
        torch.nn.init.normal_(weight, std=0.2)
    return model


def onevision(tie=False):
    """transformers' own model, its tower cut from ``siglip()`` as LLaVA-NeXT cuts it."""
    tower, text = siglip(), QWEN2 | {"vocab_size": len(tokenizer()) + 11, "tie_word_embeddings": tie}
    text |= {"model_type": "qwen2", "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0}}
    config = LlavaOnevisionConfig(
        vision_config=SIGLIP | {"model_type": "siglip_vision_model", "num_hidden_layers": 2, "vision_use_head": False},
        text_config=text,
        tie_word_embeddings=tie,
        image_grid_pinpoints=[[58, 58]],
    )
    torch.manual_seed(2)
    model = LlavaOnevisionForConditionalGeneration(config).eval()
    for name, weight in model.named_parameters():
        if name.endswith("bias") or "norm" in name:
            torch.nn.init.normal_(weight, mean=float(name.endswith("norm.weight")), std=0.2)
    cut = {n: w for n, w in tower.state_dict().items() if not n.startswith(("head", "encoder.layers.2"))}
    model.model.vision_tower.load_state_dict(cut)
    return model


def released(name):
    """A tensor's name in the files of llava-hf/llava-onevision-qwen2-*-hf."""
    name = name.replace("model.vision_tower.", "vision_tower.vision_model.")
    name = name.replace("model.language_model.", "language_model.model.").replace("lm_head", "language_model.lm_head")
    return name.replace("model.multi_modal", "multi_modal").replace("model.image_newline", "image_newline")


def llava_next(name):
    """A tensor's name in the files of lmms-lab/LLaVA-Video-7B-Qwen2."""
    name = name.replace("model.vision_tower.", "model.vision_tower.vision_tower.vision_model.")
    name = name.replace("model.multi_modal_projector.linear_1", "model.mm_projector.0")
    return name.replace("model.multi_modal_projector.linear_2", "model.mm_projector.2").replace("language_model.", "")


def write_onevision(folder, model, names="released"):
    """``names``: of the released files, of what transformers saves now, or of the module's state_dict."""
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    if names != "saved":
        rename = released if names == "released" else str
        weights = {rename(n): w.contiguous() for n, w in state(model).items()}
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def write_llava_video(folder, model, dtype=torch.bfloat16, **changes):
    """Two shards with their index, the flat config.json, the tokenizer, and the tower's config below the folder."""
    text = model.config.text_config
    config = {key: getattr(text, key) for key in (*QWEN2, "vocab_size", "tie_word_embeddings", "rms_norm_eps")}
    config |= {"architectures": ["LlavaQwenForCausalLM"], "model_type": "llava", "torch_dtype": "bfloat16"}
    config |= {"rope_theta": 1000000.0, "rope_scaling": None, "use_sliding_window": False, "sliding_window": 131072}
    config |= {"mm_vision_tower": "siglip", "mm_vision_select_layer": -2, "mm_projector_type": "mlp2x_gelu"}
    config |= {"mm_newline_position": "grid", "mm_spatial_pool_mode": "bilinear", "mm_spatial_pool_stride": 2}
    config |= {"mm_resampler_type": None, "mm_use_im_start_end": False, "add_faster_video": False}
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config | changes))
    siglip().config.save_pretrained(folder / "siglip")
    tokenizer().save_pretrained(folder)
    weights = [(llava_next(name), weight.to(dtype).contiguous()) for name, weight in state(model).items()]
    shards = {"model-00001-of-00002.safetensors": weights[::2], "model-00002-of-00002.safetensors": weights[1::2]}
    for shard, part in shards.items():
        save_file(dict(part), folder / shard, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: shard for shard, part in shards.items() for name, _ in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def state(model):
    """The weights that files hold: one of a tied pair."""
    tied = model.config.tie_word_embeddings
    return {n: w for n, w in model.state_dict().items() if not (tied and n == "lm_head.weight")}
