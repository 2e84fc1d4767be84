"""The model that training starts from, and which of its parts learn."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from pipelines.train.config import Part, TrainJobConfig
from spacevllm.data.instance import Instance
from spacevllm.model.configuration import tiny_config
from spacevllm.model.lora import add_lora
from spacevllm.model.modeling import SpaceVLLM, build
from spacevllm.model.processing import SpaceVLLMProcessor
from spacevllm.model.tokenizer import build_tiny_tokenizer, prompt_texts
from spacevllm.predictor import Predictor

TOKENIZER_INSTANCES = 4000  # the vocabulary of the tiny world is seen in far fewer

ModelMaker = Callable[[], SpaceVLLM]

_PREFIXES: tuple[tuple[str, Part], ...] = (
    ("model.vision_tower.", "tower"),
    ("model.multi_modal_projector.", "projector"),
    ("model.image_newline", "projector"),
    ("queries.", "queries"),
    ("space_decoder.", "decoder"),
)


def part_of(name: str) -> Part:
    """The part that a parameter of ``SpaceVLLM`` belongs to, adapters included."""
    return next((part for prefix, part in _PREFIXES if name.startswith(prefix)), "llm")


def prepare_model(config: TrainJobConfig, instances: Sequence[Instance]) -> tuple[ModelMaker, SpaceVLLMProcessor]:
    """How each worker makes the model it starts from, and the processor.

    Args:
        instances: a tiny tokenizer is trained on what some of them say; not read for a pretrained model.
    """
    section = config.model
    if section.init != "tiny":
        processor = Predictor.load(section.init).processor
        return lambda: Predictor.load(section.init).model, processor
    some = instances[:: 1 + len(instances) // TOKENIZER_INSTANCES]
    tokenizer = build_tiny_tokenizer(prompt_texts(some), section.vocab_size)
    model_config = tiny_config(len(tokenizer), section.vision, section.text, **section.fields)
    return lambda: build(model_config), SpaceVLLMProcessor(tokenizer, model_config)


def choose_trained(model: SpaceVLLM, config: TrainJobConfig) -> SpaceVLLM:
    """``model`` itself, with adapters where configured, and gradients only where something is learned."""
    if config.lora:
        add_lora(model, config.lora.rank, config.lora.alpha, config.lora.dropout)
    for name, parameter in model.named_parameters():
        part = part_of(name)
        adapted = part == "llm" and config.lora is not None
        parameter.requires_grad_(part not in config.train.freeze and (not adapted or "lora_" in name))
        if not parameter.requires_grad and config.train.autocast and not hasattr(parameter, "ds_id"):
            parameter.data = parameter.data.to(torch.bfloat16)
    if config.train.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    return model
