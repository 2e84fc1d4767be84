"""LLaVA-NeXT folders, ``lmms-lab/LLaVA-Video-7B-Qwen2`` first of all, converted once to SpaceVLLM's own.

Facts (LLaVA-NeXT's ``siglip_encoder.py`` and ``llava_arch.py``, transformers' OneVision converter): the tower drops
SigLIP's last layer and its head and takes the output of the last layer left, before ``post_layernorm``, whatever
``mm_vision_select_layer`` says; the files hold those 26 layers and ``post_layernorm``. Weights keep their bytes and
get other names.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import LlavaOnevisionConfig, Qwen2Config

from spacevllm.model.configuration import SpaceVLLMConfig
from spacevllm.model.initial import ImportPlan, plan_for
from spacevllm.model.weights import CheckpointError, read_json

SO400M = "google/siglip-so400m-patch14-384"
_NEEDED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
_TEXT = (*_NEEDED, "num_key_value_heads", "hidden_act", "max_position_embeddings", "initializer_range", "rms_norm_eps",
         "tie_word_embeddings", "use_sliding_window", "sliding_window", "max_window_layers", "attention_dropout",
         "rope_theta", "rope_scaling", "bos_token_id", "eos_token_id", "pad_token_id")  # fmt: skip
# what the weights were made for, and nothing else fits; a key that is absent has the first value
_FIXED: dict[str, tuple[Any, ...]] = {
    "mm_projector_type": ("mlp2x_gelu",),
    "mm_resampler_type": (None,),
    "mm_use_im_start_end": (False,),
    "add_faster_video": (False, None),
}
# how frames are laid out: weights load anyway, but have seen another layout
_LAYOUT: dict[str, tuple[Any, ...]] = {
    "mm_newline_position": ("grid",),
    "mm_spatial_pool_mode": ("bilinear", None),
    "mm_spatial_pool_stride": (2, None),
}


def config_from_llava_video(tree: Mapping[str, Any], folder: Path) -> SpaceVLLMConfig:
    """LLaVA-NeXT's ``config.json`` as ours.

    Args:
        folder: where a vision tower of another name is looked for.

    Raises:
        CheckpointError: another architecture, or a key that is needed and not there.
    """
    missing = [key for key in (*_NEEDED, "mm_vision_tower") if key not in tree]
    if missing:
        raise CheckpointError(
            f"{folder}/config.json is not that of a LLaVA-NeXT model on Qwen2: no {', '.join(missing)}"
        )
    for key, fitting in _FIXED.items():
        if tree.get(key, fitting[0]) not in fitting:
            raise CheckpointError(f"{folder}/config.json: {key} is {tree[key]!r}, only {fitting[0]!r} can be imported")
    for key, known in _LAYOUT.items():
        if tree.get(key) not in known:
            warnings.warn(
                f"{folder}/config.json: {key} is {tree.get(key)!r}; SpaceVLLM lays frames out as with {known[0]!r}, "
                f"which these weights have not seen",
                stacklevel=2,
            )
    text = Qwen2Config(**{key: tree[key] for key in _TEXT if key in tree})
    backbone = LlavaOnevisionConfig(
        text_config=text,
        vision_config=_vision_config(str(tree["mm_vision_tower"]), folder),
        tie_word_embeddings=text.tie_word_embeddings,
    )
    return SpaceVLLMConfig(backbone_config=backbone, dtype=tree.get("torch_dtype"))


def plan_import(source: str | Path) -> ImportPlan:
    """Reads everything but the weights themselves.

    Raises:
        CheckpointError: damaged files, another architecture, or weights that do not fit it; the message lists them.
        FileNotFoundError: no model folder; the message says what is missing.
    """
    source = Path(source)
    if not (source / "config.json").is_file():
        raise FileNotFoundError(f"{source} is not a model folder: it has no config.json")
    return plan_for(config_from_llava_video(read_json(source / "config.json"), source), source)


def _vision_config(name: str, folder: Path) -> dict[str, Any] | None:
    """The tower without its last layer and its head; None: SigLIP-so400m's, our default."""
    if name == SO400M:
        return None
    local = folder / name / "config.json"  # an absolute name stays one
    if not local.is_file():
        raise CheckpointError(f"{folder}/config.json: mm_vision_tower {name!r} is neither {SO400M} nor a folder there")
    tree = read_json(local)
    tree = tree.get("vision_config", tree)
    if tree.get("model_type") != "siglip_vision_model":
        raise CheckpointError(f"{local}: model_type {tree.get('model_type')!r} is not siglip_vision_model")
    return tree | {"num_hidden_layers": tree["num_hidden_layers"] - 1, "vision_use_head": False}
