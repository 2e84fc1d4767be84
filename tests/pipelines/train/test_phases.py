"""The schedule: what each step reads. And recipes of earlier versions, which said the same in other words."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.train.config import TrainJobConfig
from pipelines.train.phases import Phase, Schedule, Source
from spacevllm.config import ConfigError, load_config, parse_config

CONFIGS = Path(__file__).parents[3] / "jobs" / "configs"
SOURCES = {"stills": Source(media="image"), "videos": Source(media="video"), "texts": Source(media="text")}

OLD_TINY = """
stages:
  align: {media: image, objective: align, steps: 500, batch_size: 32, questions: 5, learning_rate: 2.0}
  align_motion: {media: video, objective: align, steps: 800, batch_size: 6, questions: 9, learning_rate: 2.0}
  stills: {media: image, steps: 150, batch_size: 16, questions: 5}
  videos: {media: video, steps: 2300, batch_size: 8, questions: 8, rehearse: stills}
"""
OLD_DEBUG = """
stages:
  align: {media: image, objective: align, steps: 4, batch_size: 4, questions: 3}
  stills: {media: image, steps: 4, batch_size: 4, questions: 3}
  videos: {media: video, steps: 8, batch_size: 4, questions: 4, rehearse: stills}
  tubes: {media: video, tasks: [stvg], micro_batch_size: 1, questions: 4}
  times: {media: video, tasks: [vtg], questions: 2}
  mixed: {mix: {tubes: 2, stills: 2, times: 1}, steps: 2, batch_size: 10}
"""


def schedule(**phases: dict[str, Any]) -> Schedule:
    whole = {name: Phase.model_validate(phase) for name, phase in phases.items()}
    return Schedule(SOURCES, whole, num_workers=2, seed=0, warmup=0.0, final_lr=0.0)


def test_batches_take_turns_by_weight_each_of_its_own_size():
    reading = {"sources": {"videos": 3, "stills": 2}, "draw": "batches", "batch_size": 4, "batch_sizes": {"stills": 6}}
    plan = schedule(first={"sources": "texts", "steps": 2, "batch_size": 4}, videos={**reading, "steps": 10})
    assert [plan.clips(step) for step in range(2, 12)] == [*[{"videos": 2}] * 3, *[{"stills": 3}] * 2] * 2
    assert [plan.at(step) for step in (0, 1, 2, 11)] == [("first", 0), ("first", 1), ("videos", 0), ("videos", 9)]
    with pytest.raises(IndexError):
        plan.at(12)


def test_clips_and_epochs_are_counted_over_all_phases():
    plan = schedule(
        alone={"sources": "stills", "steps": 5, "batch_size": 8},
        turns={"sources": {"videos": 5, "stills": 1}, "draw": "batches", "steps": 12, "batch_size": 4},
        mixed={"sources": {"videos": 3, "stills": 1}, "block": 16, "steps": 4, "batch_size": 8},
        off={"sources": "texts", "steps": 0, "batch_size": 2},
    )
    assert list(plan.used_sources) == ["stills", "videos"]
    steps = [Counter(plan.clips(step)) for step in range(plan.total_steps)]
    taken = sum(steps, Counter())
    assert {name: plan.clips_read(name) for name in taken} == {name: 2 * count for name, count in taken.items()}
    assert {name: plan.most_clips(name) for name in taken} == {"stills": 4, "videos": 4}
    assert plan.most_clips("texts") == 0 == plan.clips_read("texts")


def test_what_is_read_at_once_divides_what_any_phase_takes():
    """It stays the same from phase to phase: otherwise the place in an epoch would mean another clip."""
    plan = schedule(
        large={"sources": "stills", "steps": 1, "batch_size": 24},
        small={"sources": {"videos": 1, "stills": 1}, "draw": "batches", "steps": 4, "batch_size": 16},
        mixed={"sources": {"videos": 1, "texts": 1}, "steps": 1, "batch_size": 8},
    )
    assert {name: plan.read_size(name) for name in SOURCES} == {"stills": 4, "videos": 1, "texts": 1}


def in_new_words(old: str) -> TrainJobConfig:
    """What the error tells to write, written."""
    with pytest.raises(ConfigError, match=r"stages are two things now: .* In place of these stages write:") as error:
        parse_config(TrainJobConfig, yaml.safe_load(old) | {"data": "d", "out": "o"}, "old.yaml")
    [text] = error.value.__notes__
    return parse_config(TrainJobConfig, yaml.safe_load(text) | {"data": "d", "out": "o"}, "new.yaml")


@pytest.mark.parametrize(("name", "old"), [("tiny", OLD_TINY), ("debug", OLD_DEBUG)])
def test_an_old_recipe_is_told_its_new_form_which_reads_the_same(name, old):
    told, shipped = in_new_words(old), load_config(TrainJobConfig, CONFIGS / f"{name}.yaml", ["data=d", "out=o"])

    def reading(config: TrainJobConfig, step: int) -> list[Any]:
        plan = config.schedule
        clips = [(config.sources[n], plan.read_size(n), count) for n, count in plan.clips(step).items()]
        return [config.phases[plan.at(step)[0]].objective, *clips]

    assert told.schedule.total_steps == shipped.schedule.total_steps
    for step in range(told.schedule.total_steps):
        assert reading(told, step) == reading(shipped, step), step


def test_all_that_an_old_stage_could_say_has_a_new_word_or_is_said_to_be_lost():
    old = """
stages:
  aligned: {media: image, objective: align, batch_size: 2}
  texts: {media: text, tasks: [], micro_batch_size: 2, rehearse: ''}
  videos: {media: video, steps: 3, batch_size: 2, rehearse: aligned, rehearse_every: 3}
  joint: {mix: {texts: 1.5, aligned: 1}, mix_block: 10, steps: 4, batch_size: 2, learning_rate: 0.5}
"""
    config = in_new_words(old)
    assert config.sources["texts"] == Source(media="text", micro_batch_size=2)
    assert config.phases["videos"].sources == {"videos": 2, "aligned": 1} and config.phases["videos"].draw == "batches"
    joint = {"sources": {"texts": 1.5, "aligned": 1}, "block": 10, "steps": 4, "batch_size": 2, "learning_rate": 0.5}
    assert config.phases["joint"] == Phase.model_validate(joint)
    with pytest.raises(ConfigError) as error:
        parse_config(TrainJobConfig, yaml.safe_load(old), "old.yaml")
    assert "# videos rehearsed aligned with objective align, and a phase has only one" in error.value.__notes__[0]


@pytest.mark.parametrize("stages", ["[a, b]", "{videos: {media: video, step: 3}}", "{videos: {rehearse: x, steps: 1}}"])
def test_what_was_never_a_recipe_is_shown_an_example(stages):
    with pytest.raises(ConfigError, match="For example:") as error:
        parse_config(TrainJobConfig, {"stages": yaml.safe_load(stages)}, "old.yaml")
    example = yaml.safe_load(error.value.__notes__[0])
    assert parse_config(TrainJobConfig, example | {"data": "d", "out": "o"}, "new.yaml").schedule.total_steps == 2450


def test_overrides_in_old_words_are_told_the_new_ones():
    old = ["stages.videos.steps=7", "stages.align.questions=3", "stages.mixed.mix_block=4", "stages.videos.rehearse=x"]
    with pytest.raises(ConfigError) as error:
        load_config(TrainJobConfig, CONFIGS / "debug.yaml", ["data=d", "out=o", *old])
    for words in (
        "stages.videos.steps is phases.videos.steps",
        "stages.align.questions is sources.captions.questions",
        "stages.mixed.mix_block is phases.mixed.block",
        "stages.videos.rehearse is phases.videos.sources={videos: 5, OTHER: 1} with phases.videos.draw=batches",
    ):
        assert words in str(error.value)


def test_the_page_about_sources_and_phases_shows_a_recipe_that_is_one():
    page = (CONFIGS.parents[1] / "docs" / "train-at-scale.md").read_text()
    recipe = yaml.safe_load(page.split("## Sources and phases")[1].split("```yaml")[1].split("```")[0])
    config = parse_config(TrainJobConfig, recipe | {"data": "d", "out": "o"}, "docs/train-at-scale.md")
    assert list(config.schedule.running) == ["warm_up", "joint", "turns"]
