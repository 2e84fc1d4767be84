"""The order of a mixture: exact shares in every block, the same from any step on, and for every worker."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.train.config import TrainJobConfig
from pipelines.train.mixture import block, block_counts, draw
from spacevllm.config import load_config

PAPER = {"stvg": 110, "vtg": 50, "rec": 320, "general": 200}
CONFIGS = Path(__file__).parents[3] / "jobs" / "configs"

weights = st.dictionaries(st.text("abcdef", min_size=1), st.floats(0.01, 1e6), min_size=1, max_size=6)
sizes = st.integers(1, 300)


@given(weights, sizes)
def test_every_share_is_rounded_by_less_than_one_clip(weights, size):
    counts = block_counts(weights, size)
    whole = sum(Fraction(str(weight)) for weight in weights.values())
    assert sum(counts.values()) == size and counts.keys() == weights.keys()
    for name, weight in weights.items():
        assert abs(counts[name] - size * Fraction(str(weight)) / whole) < 1


@given(weights, sizes, st.integers(0, 1000))
def test_a_block_holds_its_counts_in_an_order_of_its_own(weights, size, number):
    order = block(weights, size, 7, number)
    assert Counter(order) == {name: count for name, count in block_counts(weights, size).items() if count}
    assert order == block(weights, size, 7, number)


@given(weights, st.integers(1, 40), st.integers(0, 500), st.integers(1, 60), st.integers(0, 60))
def test_a_step_is_known_without_those_before_it(weights, size, first, count, cut):
    def clips(first, count):
        return Counter(draw(weights, size, 0, first, count)) if count else Counter()

    cut = min(cut, count)
    assert clips(first, cut) + clips(first + cut, count - cut) == clips(first, count)
    assert clips(first * size, size) == +Counter(block_counts(weights, size))


def test_the_papers_shares_are_whole_in_68():
    assert block_counts(PAPER, 68) == {"stvg": 11, "vtg": 5, "rec": 32, "general": 20}
    assert block_counts(PAPER, 10) == {"stvg": 1, "vtg": 1, "rec": 5, "general": 3}  # of 1.62, 0.74, 4.71, 2.94
    assert len({tuple(block(PAPER, 68, seed, number)) for seed in (0, 1) for number in (0, 1)}) == 4


@pytest.mark.parametrize("name", ["llava_video_7b_lora_zero2", "llava_video_7b_full_zero3"])
def test_the_full_recipe_asks_as_often_as_the_paper(name):
    config = load_config(TrainJobConfig, CONFIGS / f"{name}.yaml", ["data=none", "out=none"])
    schedule = config.schedule
    clips = sum((Counter(schedule.clips(step)) for step in range(34)), Counter())
    assert clips == {"tubes": 11, "moments": 5, "expressions": 32, "images": 12, "videos": 4, "texts": 4}
    assert all(sum(schedule.clips(step).values()) == 2 for step in range(100, 134))
    assert schedule.clips(100) == schedule.clips(100)
