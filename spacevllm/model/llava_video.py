"""LLaVA-NeXT folders, ``lmms-lab/LLaVA-Video-7B-Qwen2`` first of all, converted once to SpaceVLLM's own.

Facts (LLaVA-NeXT's ``siglip_encoder.py`` and ``llava_arch.py``, transformers' OneVision converter): the tower drops
SigLIP's last layer and its head and takes the output of the last layer left, before ``post_layernorm``, whatever
``mm_vision_select_layer`` says; the files hold those 26 layers and ``post_layernorm``. Weights keep their bytes and
get other names.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from transformers import LlavaOnevisionConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen2Tokenizer

from spacevllm.model.backbones import family_of
from spacevllm.model.checkpoints import (
    LM_HEAD,
    check_tokenizer,
    expected_shapes,
    fresh_modules,
    read_tables,
    ties_words,
)
from spacevllm.model.configuration import SpaceVLLMConfig
from spacevllm.model.modeling import NEW_MODULES
from spacevllm.model.weights import CheckpointError, check_fit, copy_renamed, read_json, weight_files, write_index

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


class ImportPlan(NamedTuple):
    """config: of the result. files: the source's shards. names: of each tensor, source → result. parameters: without
    the fresh modules'. size: bytes of the shards."""

    config: SpaceVLLMConfig
    files: list[Path]
    names: dict[str, str]
    parameters: int
    size: int


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
    config = config_from_llava_video(read_json(source / "config.json"), source)
    files = weight_files(source)
    stored = read_tables(files, family_of(config).names)
    expected = {n: s for n, s in expected_shapes(config).items() if n.split(".")[0] not in NEW_MODULES}
    if ties_words(config):  # a copy of the embeddings, which some files hold
        stored.pop(LM_HEAD, None)
        del expected[LM_HEAD]
    check_fit(source, expected, {name: entry.shape for name, entry in stored.items()})
    read_tokenizer(source, config.text.vocab_size)
    size = sum(entry.end - entry.begin for entry in stored.values())
    parameters = sum(torch.Size(entry.shape).numel() for entry in stored.values())
    return ImportPlan(config, files, {entry.name: name for name, entry in stored.items()}, parameters, size)


def import_llava_video(
    plan: ImportPlan, out: str | Path, seed: int = 0, advance: Callable[[int], None] = lambda count: None
) -> None:
    """Writes ``out``, a folder that ``SpaceVLLM.from_pretrained`` reads; it appears when it is complete.

    Shards are streamed: memory holds the fresh modules and a few MiB.

    Args:
        seed: of queries and space decoder. advance: called with 1 for each shard written.

    Raises:
        CheckpointError: ``out`` is there already.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"{out} is there already: choose another folder or remove it")
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    count = len(plan.files) + 1
    shards = [partial / f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
    for file, shard in zip(plan.files, shards, strict=False):
        copy_renamed(file, shard, plan.names)
        advance(1)
    save_file(fresh_modules(plan.config, seed), shards[-1], metadata={"format": "pt"})
    advance(1)
    write_index(partial, shards)
    plan.config.architectures = ["SpaceVLLM"]
    plan.config.save_pretrained(partial)
    read_tokenizer(plan.files[0].parent, plan.config.text.vocab_size).save_pretrained(partial)
    os.replace(partial, out)


def read_tokenizer(folder: Path, vocab_size: int) -> PreTrainedTokenizerFast:
    """From ``tokenizer.json``, or from ``vocab.json`` and ``merges.txt``, which older folders hold.

    Raises:
        FileNotFoundError: neither is there. CheckpointError: it does not go with the model.
    """
    if (folder / "tokenizer.json").is_file():
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    elif all((folder / name).is_file() for name in ("vocab.json", "merges.txt")):
        tokenizer = Qwen2Tokenizer.from_pretrained(folder)
    else:
        raise FileNotFoundError(f"{folder} has no tokenizer: neither tokenizer.json nor vocab.json with merges.txt")
    return check_tokenizer(tokenizer, vocab_size, folder)


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
