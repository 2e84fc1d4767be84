"""The FLOPs model against PyTorch's own counter, on a real pass."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from tiny import clip, instance, make
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from spacevllm.model.collate import Collator
from spacevllm.model.configuration import SpaceVLLMConfig
from spacevllm.model.flops import FlopsModel, Work, measured_peak


@pytest.mark.parametrize("layer", [-1, -2])
def test_a_pass_costs_what_pytorch_counts(layer):
    model, processor = make(vision_feature_layer=layer)
    batch = Collator(processor)([clip([instance(0)])])
    flops = FlopsModel(model.config)
    # as plain products: the fused CPU kernel is not counted
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model(batch)
    by_module = {name.removeprefix("SpaceVLLM."): sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    forward = flops.forward(flops.work(batch))
    unused = forward["tower"] - replace_layer(flops, batch, -1)["tower"]  # computed, though nobody reads it
    tower = by_module["backbone.model.vision_tower"] + unused
    assert forward["tower"] == pytest.approx(tower, rel=0.01)
    assert forward["projector"] == by_module["backbone.model.multi_modal_projector"]
    # PyTorch counts the prefix's whole square, we the half below the diagonal
    work = flops.work(batch)
    prefix, asked = batch.tokens.prefix_length, batch.tokens.segment_length
    square = replace(work, pairs=prefix**2 + asked * (prefix + asked))
    counted = by_module["backbone.model.language_model"] + by_module["backbone.lm_head"]
    assert flops.forward(square)["llm"] == pytest.approx(counted, rel=0.01)
    assert work.pairs == sum(range(prefix + 1)) + sum(prefix + 1 + i for i in range(asked))


def replace_layer(flops, batch, layer):
    config = deepcopy(flops.config)
    config.backbone.vision_feature_layer = layer
    return FlopsModel(config).forward(flops.work(batch))


def test_padding_is_no_work():
    model, processor = make()
    clips = [clip([instance(0)]), clip([instance(k) for k in range(3)], 1)]
    flops = FlopsModel(model.config)
    together = flops.work(Collator(processor)(clips))
    apart = [flops.work(Collator(processor)([one])) for one in clips]
    assert together == Work(
        *(
            sum(getattr(w, name) for w in apart)
            for name in ("patches", "patch_pairs", "cells", "tokens", "pairs", "answers")
        )
    )


def test_gradients_cost_where_something_learns():
    work = Work(patches=128, patch_pairs=2048, cells=32, tokens=100, pairs=5000, answers=10)
    config = make()[0].config
    tower, projector, llm = FlopsModel(config).forward(work).values()
    trained = {
        (): tower + projector + 2 * llm,  # the queries before it learn
        ("llm",): tower + projector + 3 * llm,
        ("projector",): tower + 3 * projector + 2 * llm,
        ("tower", "projector", "llm"): 3 * (tower + projector + llm),
        ("tower",): 3 * tower + 2 * projector + 2 * llm,
    }
    for parts, expected in trained.items():
        assert FlopsModel(config, parts).training(work) == pytest.approx(expected)
    assert FlopsModel(config).training(work, align=True) == pytest.approx(3 * (tower + projector))


def test_a_token_of_the_full_size_costs_two_flops_a_weight():
    flops = FlopsModel(SpaceVLLMConfig()).forward(
        Work(patches=0, patch_pairs=0, cells=0, tokens=1, pairs=0, answers=1)
    )["llm"]
    assert flops == pytest.approx(2 * (7_615_616_512 - 152_064 * 3584), rel=1e-3)  # Qwen2-7B without its embeddings


def test_the_measured_peak_is_a_plausible_number():
    assert 1e8 < measured_peak("cpu", torch.float32) < 1e15
