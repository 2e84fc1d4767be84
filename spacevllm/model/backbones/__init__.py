"""The video MLLMs that SpaceVLLM can stand on, one file a family, one line here."""

from __future__ import annotations

from spacevllm.model.backbones.base import Family, Layout
from spacevllm.model.backbones.llava_onevision import LLAVA_ONEVISION
from spacevllm.model.backbones.qwen3_vl import QWEN3_VL
from spacevllm.model.configuration import SpaceVLLMConfig

FAMILIES: dict[str, Family] = {"llava_onevision": LLAVA_ONEVISION, "qwen3_vl": QWEN3_VL}

__all__ = ["FAMILIES", "family_of", "layout_of"]


def family_of(config: SpaceVLLMConfig) -> Family:
    """By the ``model_type`` of its backbone's configuration.

    Raises:
        ValueError: there is none of that name.
    """
    name = config.backbone.model_type
    if name not in FAMILIES:
        raise ValueError(f"no backbone of model_type {name!r}; there are {', '.join(FAMILIES)}")
    return FAMILIES[name]


def layout_of(config: SpaceVLLMConfig) -> Layout:
    """How its prompts are laid out."""
    return family_of(config).layout(config)
