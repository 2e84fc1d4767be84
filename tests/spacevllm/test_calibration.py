"""Confidences become probabilities, and a threshold says what is there."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spacevllm.calibration import FILE, Calibration, fit


def drawn(count, slope, intercept, seed=0):
    """Raw confidences with truths drawn from the model that is to be found again."""
    rng = np.random.default_rng(seed)
    odds = rng.normal(0, 2, count)
    present = rng.random(count) < 1 / (1 + np.exp(-(slope * odds + intercept)))
    return 1 / (1 + np.exp(-odds)), present


def test_what_made_the_data_is_found_again():
    raw, present = drawn(20000, 0.5, 1.0)
    found = fit(raw, present)
    assert (found.slope, found.intercept) == (pytest.approx(0.5, abs=0.03), pytest.approx(1.0, abs=0.06))
    said = np.array([found(value) for value in raw])
    for low in np.arange(0.4, 0.9, 0.1):  # of what is called p, a share of p is there
        inside = (said >= low) & (said < low + 0.1)
        assert present[inside].mean() == pytest.approx(said[inside].mean(), abs=0.04)
    assert (said[present] >= found.threshold).mean() == pytest.approx(0.95, abs=0.001)


def test_questions_that_part_cleanly_give_finite_numbers():
    found = fit([0.9] * 50 + [0.1] * 50, [True] * 50 + [False] * 50)
    assert found(0.9) > 0.9 and found(0.1) < 0.1 and found(0.9) >= found.threshold > found(0.1)


def test_confidences_that_say_nothing_give_the_share():
    found = fit([0.5] * 40, [True] * 30 + [False] * 10)
    assert found(0.5) == pytest.approx(0.75, abs=0.03)


@given(st.floats(0, 1), st.floats(0, 1))
def test_order_is_kept_and_numbers_are_probabilities(a, b):
    calibration = Calibration(slope=0.7, intercept=-2.0)
    assert 0 <= calibration(a) <= 1
    assert calibration(min(a, b)) <= calibration(max(a, b))


def test_it_lies_beside_the_weights(tmp_path):
    assert Calibration.load(tmp_path)(0.3) == 0.3 and Calibration.load(tmp_path).threshold == 0.0
    fitted = Calibration(0.5, 0.1, 0.4, 10, 20)
    fitted.save(tmp_path)
    assert Calibration.load(tmp_path) == fitted
    for broken in ("{", '{"slop": 1}', '{"slope": NaN}', "[]"):
        (tmp_path / FILE).write_text(broken)
        with pytest.raises(ValueError, match="not a calibration"):
            Calibration.load(tmp_path)


def test_one_kind_of_question_is_not_enough():
    with pytest.raises(ValueError, match="3 questions about what is there and 0 about what is not"):
        fit([0.5] * 3, [True] * 3)
