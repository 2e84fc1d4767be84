"""Model folders in: SpaceVLLM's own, and a backbone's to start from: ``llava-hf/llava-onevision-qwen2-*-hf``, Qwen3-VL.

Names of weights have changed with transformers' versions; ``canonical`` brings all of them to the module's own.
LLaVA-NeXT's folders (``lmms-lab/LLaVA-Video-7B-Qwen2``) are converted once: see ``llava_video``.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedTokenizerFast
from transformers.utils import logging

from spacevllm.model.backbones import family_of
from spacevllm.model.configuration import OWN_FIELDS, SpaceVLLMConfig
from spacevllm.model.folder import need_tokenizer, read_tree
from spacevllm.model.modeling import NEW_MODULES, SpaceVLLM
from spacevllm.model.processing import END_OF_TURN
from spacevllm.model.weights import CheckpointError, Stored, check_fit, read_json, read_table, weight_files

_NOT_WEIGHTS = re.compile(r"\.(position_ids|rotary_emb\.inv_freq)$")  # computed; older files hold them
_BACKBONE = "backbone."
LM_HEAD = "backbone.lm_head.weight"
_OF_THE_CLASS = ("model_type", "architectures", "transformers_version")


def canonical(name: str, names: Sequence[tuple[str, str]]) -> str | None:
    """A tensor's name in ``SpaceVLLM.state_dict()`` from its name in any known file; None where it is no weight.

    Args:
        names: of the backbone's ``Family``.
    """
    if _NOT_WEIGHTS.search(name):
        return None
    if name.split(".")[0] in NEW_MODULES:
        return name
    name = name.removeprefix(_BACKBONE)
    for pattern, replacement in names:
        name = re.sub(pattern, replacement, name)
    return _BACKBONE + name


def read_config(folder: Path, fields: Mapping[str, Any] | None = None) -> SpaceVLLMConfig:
    """The configuration in a model folder, SpaceVLLM's or a backbone's; what the latter lacks is the paper's.

    Args:
        fields: of ``SpaceVLLMConfig`` or of its backbone, that shall differ from the folder's.

    Raises:
        CheckpointError: another kind of model, or not JSON. FileNotFoundError: no ``config.json``.
    """
    tree = read_tree(folder)
    known = {key: value for key, value in tree.items() if key not in _OF_THE_CLASS}
    if tree["model_type"] != "spacevllm":
        known = {"backbone_config": {"model_type": tree["model_type"], **known}}
    fields = dict(fields or {})
    if isinstance(known.get("backbone_config"), dict):  # fields of the backbone's own
        known["backbone_config"] |= {name: fields.pop(name) for name in list(fields) if name not in OWN_FIELDS}
    return SpaceVLLMConfig(**known | fields)


def load_model(
    folder: str | Path,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    fields: Mapping[str, Any] | None = None,
    reading: AbstractContextManager[Any] | None = None,
) -> SpaceVLLM:
    """A SpaceVLLM folder, or a backbone's to start from: there queries and space decoder are fresh, which a warning
    says.

    Args:
        dtype: of the weights in memory, whatever the files hold.
        seed: of the fresh modules, so that all workers start from the same.
        fields: of ``SpaceVLLMConfig``, that shall differ from the folder's; new modules that they add are fresh.
        reading: entered while the model is made and its weights are read, for who wants them cut into shards.

    Raises:
        CheckpointError: damaged files, or weights that do not fit; the message lists them.
        FileNotFoundError: no model folder; the message says what is missing.
    """
    folder = Path(folder)
    config = read_config(folder, fields)
    stored = read_tables(weight_files(folder), family_of(config).names)
    is_spacevllm = read_json(folder / "config.json")["model_type"] == "spacevllm"
    fresh = {} if is_spacevllm and not fields else fresh_modules(config, seed)
    fresh = {name: weight for name, weight in fresh.items() if name not in stored}
    found = {name: entry.shape for name, entry in stored.items()} | {n: tuple(w.shape) for n, w in fresh.items()}
    check_fit(folder, expected_shapes(config), found, {LM_HEAD} if ties_words(config) else ())
    if fresh:
        modules = sorted({name.split(".")[0] for name in fresh})
        warnings.warn(
            f"{folder} lacks weights of {' and '.join(modules)}: they start at random (seed {seed}); train before "
            f"asking for boxes",
            stacklevel=2,
        )
    logging.disable_progress_bar()  # every stage shows one line of its own
    with ExitStack() as stack:
        files = {file: stack.enter_context(safe_open(file, "pt")) for file in {e.file for e in stored.values()}}
        mapped = {name: files[entry.file].get_tensor(entry.name) for name, entry in stored.items()}
        stack.enter_context(reading or nullcontext())
        return SpaceVLLM.from_pretrained(None, config=config, state_dict=mapped | fresh, dtype=dtype)


def ties_words(config: SpaceVLLMConfig) -> bool:
    """Whether the LM head is the word embeddings, so that files need not hold it."""
    return bool(config.backbone.tie_word_embeddings)


def read_tables(files: Sequence[Path], names: Sequence[tuple[str, str]]) -> dict[str, Stored]:
    """Canonical name → tensor, over all files; names: of the backbone's ``Family``.

    Raises:
        CheckpointError: a damaged file, or two tensors for one name.
    """
    stored: dict[str, Stored] = {}
    for file in files:
        for entry in read_table(file).values():
            name = canonical(entry.name, names)
            if name in stored:
                twin = stored[name]
                raise CheckpointError(f"{file}: {entry.name} is also in {twin.file.name}, as {twin.name}")
            if name:
                stored[name] = entry
    return stored


def expected_shapes(config: SpaceVLLMConfig) -> dict[str, tuple[int, ...]]:
    """Name → shape of every weight of a model of this configuration; takes no memory."""
    with torch.device("meta"):
        return {name: tuple(weight.shape) for name, weight in SpaceVLLM(config).state_dict().items()}


def load_tokenizer(folder: Path, config: SpaceVLLMConfig) -> PreTrainedTokenizerFast:
    """``tokenizer.json`` of a model folder.

    Raises:
        FileNotFoundError: there is none. CheckpointError: it does not go with the model.
    """
    need_tokenizer(folder)
    return check_tokenizer(PreTrainedTokenizerFast.from_pretrained(folder), config, folder)


def check_tokenizer(
    tokenizer: PreTrainedTokenizerFast, config: SpaceVLLMConfig, where: object
) -> PreTrainedTokenizerFast:
    """``tokenizer`` itself; raises CheckpointError unless it has the tokens of the model's prompts and the embeddings
    hold it."""
    tokens, size = tokenizer.get_vocab(), config.text.vocab_size
    for needed in (END_OF_TURN, *family_of(config).special_tokens):
        if needed not in tokens:
            raise CheckpointError(
                f"{where}: the tokenizer has no {needed}: it is not that of {config.backbone.model_type}"
            )
    if max(tokens.values()) >= size:
        raise CheckpointError(f"{where}: the tokenizer's ids reach {max(tokens.values())}, vocab_size is {size}")
    return tokenizer


def fresh_modules(config: SpaceVLLMConfig, seed: int) -> dict[str, Tensor]:
    """Queries and space decoder as an untrained model has them, fp32, by their names in ``SpaceVLLM.state_dict()``."""
    generator, std = torch.Generator().manual_seed(seed), config.text.initializer_range
    return {
        name: torch.zeros(shape) if name.endswith("bias") else std * torch.randn(shape, generator=generator)
        for name, shape in expected_shapes(config).items()
        if name.split(".")[0] in NEW_MODULES
    }
