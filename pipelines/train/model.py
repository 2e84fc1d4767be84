"""The model that training starts from, and which of its parts learn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast
from transformers.integrations import HfDeepSpeedConfig

from pipelines.core.models import is_remote, local_model, pinned
from pipelines.train.config import TrainJobConfig
from pipelines.train.engine import load_deepspeed, settings
from pipelines.train.optimizer import part_of
from spacevllm.config import ConfigError
from spacevllm.data.instance import Instance
from spacevllm.model.backbones import family_of
from spacevllm.model.checkpoints import load_model, load_tokenizer, read_config
from spacevllm.model.configuration import SpaceVLLMConfig, tiny_config
from spacevllm.model.fields import check_fields
from spacevllm.model.lora import add_lora
from spacevllm.model.modeling import SpaceVLLM, build
from spacevllm.model.processing import SpaceVLLMProcessor
from spacevllm.model.shapes import shape_config
from spacevllm.model.tokenizer import build_tiny_tokenizer, prompt_texts

TOKENIZER_INSTANCES = 4000  # the vocabulary of the tiny world is seen in far fewer

ModelMaker = Callable[[], SpaceVLLM]


def prepare_model(config: TrainJobConfig, instances: Sequence[Instance]) -> tuple[ModelMaker, SpaceVLLMProcessor]:
    """How each worker makes the model it starts from, and the processor.

    Args:
        instances: a tiny tokenizer is trained on what some of them say; not read for a pretrained model.

    Raises:
        FileNotFoundError: ``model.init`` is no model folder. CheckpointError: it is damaged. ConfigError: it has not
            what the criterion teaches.
    """
    section = config.model
    if section.init == "tiny":
        processor = tiny_processor(config, instances)
        return lambda: build(processor.config), processor
    place = pinned(section.init) if is_remote(section.init) else str(Path(section.init).absolute())
    folder = Path(local_model(place))
    model_config = _configured(config, section.fields, lambda: read_config(folder, section.fields))
    processor = SpaceVLLMProcessor(load_tokenizer(folder, model_config), model_config)
    return lambda: _load(config, Path(local_model(place))), processor  # elsewhere, from another folder


def shape_only(config: TrainJobConfig, instances: Sequence[Instance]) -> tuple[ModelMaker, SpaceVLLMProcessor]:
    """The same for a plan: models without weights. Where ``model.init`` is not there, ``model.shape``'s, with a
    tokenizer of ``instances``' words."""
    section, folder = config.model, Path(config.model.init)
    if section.init == "tiny":
        processor = tiny_processor(config, instances)
    elif folder.exists():
        _, processor = prepare_model(config, instances)
    else:
        model_config = _configured(config, section.fields, lambda: shape_config(section.shape, section.fields))
        tokenizer = tiny_tokenizer(config, instances, family_of(model_config).special_tokens)
        processor = SpaceVLLMProcessor(tokenizer, model_config)

    def make_model() -> SpaceVLLM:
        with torch.device("meta"):
            return build(processor.config)

    return make_model, processor


def tiny_tokenizer(
    config: TrainJobConfig, instances: Sequence[Instance], special_tokens: Sequence[str] = ()
) -> PreTrainedTokenizerFast:
    """Trained on what some of the instances say."""
    some = instances[:: 1 + len(instances) // TOKENIZER_INSTANCES]
    return build_tiny_tokenizer(prompt_texts(some), config.model.vocab_size, special_tokens)


def tiny_processor(config: TrainJobConfig, instances: Sequence[Instance]) -> SpaceVLLMProcessor:
    """Of the tiny configuration, with a tokenizer that is trained here."""
    section, tokenizer = config.model, tiny_tokenizer(config, instances)

    def make_config() -> SpaceVLLMConfig:
        return tiny_config(len(tokenizer), section.vision, section.text, **section.fields)

    return SpaceVLLMProcessor(tokenizer, _configured(config, section.fields, make_config))


def _configured(
    config: TrainJobConfig, fields: Mapping[str, Any], make_config: Callable[[], SpaceVLLMConfig]
) -> SpaceVLLMConfig:
    """The model's configuration, if it can be made with these ``fields`` and has what the criterion teaches."""
    check_fields(fields, "model.fields.")
    try:
        made = make_config()
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"model.fields: {error}") from None
    if config.criterion.presence and not made.presence_head:
        raise ConfigError("criterion.presence teaches the presence head: set model.fields.presence_head to true")
    return made


def _load(config: TrainJobConfig, folder: Path) -> SpaceVLLM:
    """In fp32; at ZeRO-3 each worker keeps only its share, from the first weight on."""
    reading = sharded(config) if config.workers.zero_stage == 3 else None
    return load_model(folder, torch.float32, config.train.seed, config.model.fields, reading)


@contextmanager
def sharded(config: TrainJobConfig) -> Iterator[None]:
    """transformers cuts what it loads while DeepSpeed's configuration lives in an object of this class."""
    load_deepspeed(config.workers.use_gpu)
    alive = HfDeepSpeedConfig(settings(config))
    yield
    del alive


def choose_trained(model: SpaceVLLM, config: TrainJobConfig) -> SpaceVLLM:
    """``model`` itself, with adapters where configured, and gradients only where something is learned."""
    if config.lora:
        add_lora(model, config.lora.rank, config.lora.alpha, config.lora.dropout)
    for name, parameter in model.named_parameters():
        part = part_of(name)
        untaught = part == "presence" and not config.criterion.presence  # weight decay or a cast would move it
        adapted = part == "llm" and config.lora is not None
        parameter.requires_grad_(part not in config.train.freeze and not untaught and (not adapted or "lora_" in name))
        frozen = not parameter.requires_grad and not untaught
        if frozen and config.train.autocast and not hasattr(parameter, "ds_id"):
            parameter.data = parameter.data.to(torch.bfloat16)
    if config.train.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    return model
