"""A tiny model that has learnt nothing: for trying commands and measuring what surrounds a model."""

from __future__ import annotations

from pathlib import Path

import torch

from spacevllm.data.moving_shapes import MovingShapesConfig, make_scene, make_still, scene_instances, still_instances
from spacevllm.model.configuration import tiny_config
from spacevllm.model.modeling import build
from spacevllm.model.processing import SpaceVLLMProcessor
from spacevllm.model.tokenizer import build_tiny_tokenizer, prompt_texts
from spacevllm.predictor import Predictor

SCENES = 16  # whose words the tokenizer is made of


def save_untrained(folder: str | Path, seed: int = 0) -> Predictor:
    """Writes it to ``folder``, the same weights for the same seed; ``Predictor.load`` reads it."""
    world = MovingShapesConfig(seed=seed)
    scenes = [make_scene(world, "train", index) for index in range(SCENES)]
    stills = [make_still(world, "train", index, 0) for index in range(SCENES)]
    instances = [i for scene in scenes for i in scene_instances(scene, "scene")]
    instances += [i for still in stills for i in still_instances(still, "still")]
    tokenizer = build_tiny_tokenizer(prompt_texts(instances))
    config = tiny_config(len(tokenizer))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(config)
    predictor = Predictor(model, SpaceVLLMProcessor(tokenizer, config))
    predictor.save(folder)
    return predictor
