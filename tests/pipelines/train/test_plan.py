"""The plan of a run against published sizes, and against what the engine really holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tiny import instance, text_clip

from pipelines.train.config import TrainJobConfig
from pipelines.train.model import choose_trained, shape_only
from pipelines.train.plan import plan
from pipelines.train.plan_memory import Sizes, count_parameters, memory_per_device
from pipelines.train.plan_samples import sample_source
from spacevllm.config import load_config

CONFIGS = Path(__file__).parents[3] / "jobs" / "configs"
INSTANCES = [instance(k, task) for k in range(3) for task in ("stvg", "vtg", "qa", "rec")]
INSTANCES += [replace(instance(0, "rec"), id="qa-image", task="qa", answer="two"), *text_clip(0).instances]


def recipe(name: str, *overrides: str) -> TrainJobConfig:
    return load_config(TrainJobConfig, CONFIGS / f"{name}.yaml", ["data=none", "out=none", *overrides])


@pytest.fixture(scope="module")
def full():
    config = recipe("llava_video_7b_full_zero3")
    make_model, processor = shape_only(config, INSTANCES)
    model = make_model()
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    return config, model, processor


def test_the_full_recipe_has_the_published_sizes(full):
    _, model, _ = full
    sizes = count_parameters(model)
    assert sizes.total["llm"] == 7_615_616_512  # Qwen2-7B
    assert sizes.total["tower"] == pytest.approx(0.4e9, rel=0.01)  # SigLIP-so400m, without head and last layer
    assert sizes.trained == sizes.total


def test_a_video_is_13440_visual_tokens(full):
    config, _, processor = full
    tubes = sample_source(processor, INSTANCES, config.sources["tubes"])
    assert tubes.visual == 64 * 14 * 15 == 13_440
    assert tubes.visual < tubes.prefix < tubes.work.tokens
    assert (tubes.work.patches, tubes.work.cells) == (64 * 27 * 27, 64 * 14 * 14)
    text = sample_source(processor, INSTANCES, config.sources["texts"])
    assert (text.visual, text.work.patches) == (0, 0) and 0 < text.prefix < text.work.tokens


def test_lora_trains_adapters_and_new_modules():
    config = recipe("llava_video_7b_lora_zero2")
    make_model, _ = shape_only(config, INSTANCES)
    sizes = count_parameters(choose_trained(make_model(), config))
    # rank x (in + out) of q, k, v, o, gate, up, down, in 28 layers
    hidden, middle, keys = 3584, 18944, 512
    assert sizes.trained["llm"] == 28 * 128 * (4 * hidden + 2 * (hidden + keys) + 3 * (hidden + middle))
    assert sizes.trained["tower"] == 0 < sizes.trained["projector"]
    assert sizes.trained["queries"] == 65 * hidden


@pytest.mark.parametrize(
    ("stage", "weights", "gradients", "optimiser"), [(0, 4, 4, 8), (1, 4, 4, 3), (2, 4, 1, 3), (3, 1, 1, 3)]
)
def test_memory_a_device_of_4(stage, weights, gradients, optimiser):
    config = recipe("llava_video_7b_full_zero3", "workers.num_workers=4", f"workers.zero_stage={stage}")
    memory = memory_per_device(config, Sizes({"llm": 10**9}, {"llm": 10**9}))
    assert [memory[name] / 1e9 for name in ("weights", "gradients", "optimiser")] == [weights, gradients, optimiser]


def test_the_lines_say_what_a_person_asks(full):
    lines = "\n".join(plan(full[0], INSTANCES))
    for words in (
        "7615.62M",
        "2.0e-06",
        "13440 visual",
        "source tubes (video:stvg): 1 clips, 55,000.00 epochs\n  questions: 3, at most 2 of a clip at a time",
        "phase joint: 10625 steps of 32 clips, objective ground",
        "reads 176 tubes, 80 moments, 512 expressions, 192 images, 64 videos, 64 texts of every 1088 clips",
        "a step in the mean",
        "ZeRO 3, 16 devices",
    ):
        assert words in lines


def test_the_lines_of_sources_that_take_turns_and_of_one_that_nothing_reads():
    lines = plan(recipe("debug", "phases.mixed.steps=0", "phases.videos.batch_sizes={stills: 8}"), INSTANCES)
    assert "source tubes (video:stvg): read by no phase" in lines
    assert "  reads 5 x 4 videos, 1 x 8 stills in every 6 steps" in lines
    assert lines[lines.index("phase align: 4 steps of 4 clips, objective align") + 1] == "  reads captions"
