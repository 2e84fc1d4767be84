"""The real DeepSpeed engine in two processes: every ZeRO stage, whole or with LoRA, learns the same."""

from __future__ import annotations

import pytest
from two_ranks import CASES, launch

pytestmark = pytest.mark.slow
NAMES = [f"zero{zero}-{mode}" for zero, mode in CASES]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Rank 0 always holds sentences and an image, rank 1 only multiple choice and text: a head or a tower that one rank
    leaves out would hang ZeRO-2 and ZeRO-3 right here."""
    return launch(tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("name", NAMES)
def test_every_zero_stage_has_the_losses_of_zero_0(results, name):
    reference = results[f"zero0-{name.split('-')[1]}"]
    for metric in ("loss", "lm", "l1", "giou", "attention", "pointer", "presence", "loss/stvg", "loss/rec", "loss/qa"):
        assert results[name][metric] == pytest.approx(reference[metric], rel=1e-4), metric
    assert results[name]["gradient_norm"] == pytest.approx(reference["gradient_norm"], rel=1e-4)


def test_they_do_learn_and_each_mode_something_else(results):
    for name in NAMES:
        learned = "presence" if name.endswith("presence") else "lm"
        assert results[name][learned][-1] < results[name][learned][0]
    assert len({results[f"zero0-{mode}"]["loss"][-1] for mode in ("full", "lora", "frozen", "presence")}) == 4


@pytest.mark.parametrize("name", NAMES)
def test_a_loaded_checkpoint_goes_on_as_the_run_would_have(results, name):
    assert results[name]["resumed"] == results[name]["next"]
    assert results[name]["state"] == {"videos": [0, 3]}


@pytest.mark.parametrize("name", NAMES)
def test_the_saved_model_answers_as_the_engine(results, name):
    assert results[name]["saved"] == pytest.approx(results[name]["engine"], abs=1e-4)


def test_micro_batches_and_ranks_are_one_large_batch(results):
    whole = results["plain torch"]
    for name in ("micro-batches", "one batch a rank"):
        assert results[name]["loss"] == pytest.approx(whole["loss"], rel=1e-6)
        assert results[name]["gradient_norm"] == pytest.approx(whole["gradient_norm"], rel=1e-5)


@pytest.mark.parametrize("zero", [0, 3])
def test_gradient_checkpointing_changes_nothing(results, zero):
    assert results[f"zero{zero}-checkpointing"]["loss"] == pytest.approx(results[f"zero{zero}-full"]["loss"], rel=1e-5)


def test_frozen_parts_stay(results):
    assert results["frozen parts changed"] == ["decoder", "presence", "projector", "queries"]
    assert results["lora parts changed"] == ["decoder", "llm", "presence", "projector", "queries", "tower"]
    assert results["presence parts changed"] == ["presence"], "the recipe that teaches a finished model presence"


@pytest.mark.parametrize("mode", ["full", "lora"])
def test_zero_3_loads_a_folder_in_shards_and_learns_the_same(results, mode):
    sharded, whole = results[f"zero3-{mode}-folder"], results["zero0-full-folder"]
    assert sharded["shards"] == [1] and whole["shards"] == [0]
    assert sharded["loss"][0] == pytest.approx(whole["loss"][0], rel=1e-5)
    if mode == "full":
        assert sharded["loss"] == pytest.approx(whole["loss"], rel=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_a_rank_holds_what_the_plan_says(results, name):
    """Between steps: gradients and buckets are gone by then, but at ZeRO-3 they are kept for the next."""
    planned = results[name]["bytes planned"]
    kept = ("weights", "optimiser", *(("gradients", "buckets") if name.startswith("zero3") else ()))
    assert results[name]["bytes held"] == pytest.approx(sum(planned[part] for part in kept), rel=0.02)
