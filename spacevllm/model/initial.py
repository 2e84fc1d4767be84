"""A SpaceVLLM to start from: a backbone's trained weights under their names here, new queries, a new space decoder.

Weights keep their bytes; shards are streamed, so that memory holds the fresh modules and a few MiB.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerFast, Qwen2Tokenizer

from spacevllm.model.backbones import family_of
from spacevllm.model.checkpoints import (
    LM_HEAD,
    check_tokenizer,
    expected_shapes,
    fresh_modules,
    read_config,
    read_tables,
    ties_words,
)
from spacevllm.model.configuration import SpaceVLLMConfig
from spacevllm.model.folder import read_tree
from spacevllm.model.modeling import NEW_MODULES
from spacevllm.model.weights import CheckpointError, check_fit, copy_renamed, weight_files, write_index


class ImportPlan(NamedTuple):
    """config: of the result. files: the source's shards. names: of each tensor, source → result. parameters: without
    the fresh modules'. size: bytes of the shards."""

    config: SpaceVLLMConfig
    files: list[Path]
    names: dict[str, str]
    parameters: int
    size: int


def plan_init(source: str | Path, fields: Mapping[str, Any] | None = None) -> ImportPlan:
    """Of a backbone's folder, as it was published; reads everything but the weights themselves.

    Args:
        fields: of ``SpaceVLLMConfig``, that shall differ from the paper's.

    Raises:
        CheckpointError: a SpaceVLLM already, damaged files, or weights that do not fit; the message lists them.
        FileNotFoundError: no model folder; the message says what is missing.
    """
    source = Path(source)
    if read_tree(source)["model_type"] == "spacevllm":
        raise CheckpointError(f"{source} is a SpaceVLLM already: training starts from it as it is")
    return plan_for(read_config(source, fields), source)


def plan_for(config: SpaceVLLMConfig, source: Path) -> ImportPlan:
    """The same for a configuration that was made of ``source``'s."""
    files = weight_files(source)
    stored = read_tables(files, family_of(config).names)
    expected = {n: s for n, s in expected_shapes(config).items() if n.split(".")[0] not in NEW_MODULES}
    if ties_words(config):  # a copy of the embeddings, which some files hold
        stored.pop(LM_HEAD, None)
        del expected[LM_HEAD]
    check_fit(source, expected, {name: entry.shape for name, entry in stored.items()})
    read_tokenizer(source, config)
    size = sum(entry.end - entry.begin for entry in stored.values())
    parameters = sum(torch.Size(entry.shape).numel() for entry in stored.values())
    return ImportPlan(config, files, {entry.name: name for name, entry in stored.items()}, parameters, size)


def write_initial(
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
    read_tokenizer(plan.files[0].parent, plan.config).save_pretrained(partial)
    os.replace(partial, out)


def read_tokenizer(folder: Path, config: SpaceVLLMConfig) -> PreTrainedTokenizerFast:
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
    return check_tokenizer(tokenizer, config, folder)
