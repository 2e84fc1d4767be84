"""Shapes of published models, for plans that are made before their weights are there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from transformers import Qwen3VLConfig

from spacevllm.model.configuration import SpaceVLLMConfig

Shape = Literal["llava_video_7b", "qwen3_vl_4b"]

# config.json of Qwen/Qwen3-VL-4B-Instruct
_QWEN3_4B: dict[str, Any] = {
    "vocab_size": 151936,
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 262144,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 5000000.0,
        "mrope_section": [24, 20, 20],
        "mrope_interleaved": True,
    },
    "tie_word_embeddings": True,
}
_TOWER_4B: dict[str, Any] = {
    "depth": 24,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_heads": 16,
    "out_hidden_size": 2560,
    "deepstack_visual_indexes": [5, 11, 17],
}


def shape_config(shape: Shape, fields: Mapping[str, Any]) -> SpaceVLLMConfig:
    """The configuration of a model of that shape. fields: of ``SpaceVLLMConfig``, that differ from the paper's."""
    if shape == "llava_video_7b":
        return SpaceVLLMConfig(**fields)
    backbone = Qwen3VLConfig(text_config=_QWEN3_4B, vision_config=_TOWER_4B, tie_word_embeddings=True)
    return SpaceVLLMConfig(backbone_config=backbone, **fields)
