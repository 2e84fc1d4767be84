from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spacevllm.evaluation.metrics import (
    box_iou,
    clean_boxes,
    gapless_boxes,
    interval_iou,
    mean,
    nearest_boxes,
)

anything = st.floats(allow_nan=True, allow_infinity=True, width=32)
boxes = st.lists(st.tuples(anything, anything, anything, anything), min_size=1, max_size=8)
interval = st.tuples(st.integers(0, 50), st.integers(0, 50)).map(lambda pair: tuple(sorted(pair)))


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((2, 6), (2, 6), 1.0),
        ((2, 6), (4, 8), 2 / 6),
        ((2, 6), (6, 8), 0.0),  # half-open: touching is not overlapping
        ((2, 6), (3, 5), 0.5),
        ((2.5, 5.0), (0.0, 5.0), 0.5),
        ((3, 3), (3, 3), 0.0),  # an empty union
    ],
)
def test_interval_iou(a, b, expected):
    assert interval_iou(a, b) == pytest.approx(expected)


@settings(deadline=None)
@given(interval, interval)
def test_interval_iou_counts_the_shared_frames(a, b):
    frames_a, frames_b = set(range(*a)), set(range(*b))
    expected = len(frames_a & frames_b) / max(len(frames_a | frames_b), 1)
    assert interval_iou(a, b) == pytest.approx(expected)
    assert interval_iou(a, b) == interval_iou(b, a)


def test_box_iou_by_hand():
    a = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10], [5, 5, 5, 5]])
    b = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10], [5, 5, 5, 5]])
    assert box_iou(a, b).tolist() == pytest.approx([1, 1 / 3, 0, 0])


@settings(deadline=None)
@given(boxes, boxes, st.integers(0, 300), st.integers(0, 300))
def test_box_iou_of_cleaned_boxes_is_never_nan(a, b, width, height):
    count = min(len(a), len(b))
    ious = box_iou(clean_boxes(np.array(a[:count]), width, height), clean_boxes(np.array(b[:count]), width, height))
    assert ((ious >= 0) & (ious <= 1)).all()


def test_clean_boxes_sorts_corners_and_clamps():
    dirty = np.array([[50, 60, 10, 20], [-5, -5, 500, 500], [np.nan, 0, 1, 1]])
    assert clean_boxes(dirty, 200, 100).tolist() == [[10, 20, 50, 60], [0, 0, 200, 100], [0, 0, 0, 0]]
    assert clean_boxes(dirty, 0, 0)[1].tolist() == [0, 0, 500, 500]  # unknown size


def test_nearest_boxes_takes_the_nearest_known_frame_and_the_earlier_of_two():
    known = np.array([[1, 1, 2, 2], [np.nan] * 4, [3, 3, 4, 4]])
    got = nearest_boxes(np.array([10, 12, 14]), known, np.array([0, 11, 12, 13, 99]))
    assert got[:, 0].tolist() == [1, 1, 1, 3, 3]


def test_nearest_boxes_of_nothing_are_empty():
    assert nearest_boxes(np.zeros(0, int), np.zeros((0, 4)), np.array([1, 2])).tolist() == [[0] * 4] * 2
    assert nearest_boxes(np.array([3]), np.full((1, 4), np.inf), np.array([3])).tolist() == [[0] * 4]


def test_gapless_boxes_fills_inside_only():
    frames, filled = gapless_boxes(np.array([3, 5]), np.array([[0, 0, 2, 2], [4, 4, 6, 6]]))
    assert frames.tolist() == [3, 4, 5]
    assert filled[1].tolist() == [2, 2, 4, 4]
    assert gapless_boxes(np.zeros(0, int), np.zeros((0, 4)))[1].shape == (0, 4)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), max_size=30), st.randoms(use_true_random=False))
def test_mean_ignores_order_exactly(values, random):
    shuffled = random.sample(values, len(values))
    assert mean(values) == mean(shuffled)


def test_mean_of_nothing_is_zero():
    assert mean([]) == 0
