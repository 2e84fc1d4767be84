"""The model that training starts from: random weights with a tokenizer of its own, or a folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pipelines.train.config import TrainJobConfig
from spacevllm.data.instance import Instance
from spacevllm.model.configuration import tiny_config
from spacevllm.model.modeling import SpaceVLLM, build
from spacevllm.model.processing import SpaceVLLMProcessor
from spacevllm.model.tokenizer import build_tiny_tokenizer, prompt_texts
from spacevllm.predictor import Predictor

TOKENIZER_INSTANCES = 4000  # the vocabulary of the tiny world is seen in far fewer

ModelMaker = Callable[[], SpaceVLLM]


def prepare_model(config: TrainJobConfig, instances: Sequence[Instance]) -> tuple[ModelMaker, SpaceVLLMProcessor]:
    """How each worker makes the model it starts from, and the processor.

    Args:
        instances: a tiny tokenizer is trained on what some of them say; not read for a pretrained model.
    """
    section = config.model
    if section.init != "tiny":
        loaded = Predictor.load(section.init)
        return lambda: Predictor.load(section.init).model, loaded.processor
    some = instances[:: 1 + len(instances) // TOKENIZER_INSTANCES]
    tokenizer = build_tiny_tokenizer(prompt_texts(some), section.vocab_size)
    model_config = tiny_config(len(tokenizer), section.vision, section.text, **section.fields)
    return lambda: build(model_config), SpaceVLLMProcessor(tokenizer, model_config)
