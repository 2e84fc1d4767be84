from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spacevllm.span import Span, frame_range
from spacevllm.tube import Tube, interpolate_boxes


def make_tube(**changes) -> Tube:
    """Two seconds at 10 frames a second; the box slides right during [1.0, 1.5)."""
    fields = {
        "video": "clip.mp4",
        "question": "the red circle",
        "answer": "From 1.00s to 1.50s.",
        "span": Span(1.0, 1.5),
        "begin_frame": 10,
        "end_frame": 15,
        "boxes": np.array([[x, 0, x + 10, 10] for x in range(5)], np.float32),
        "fps": 10.0,
        "num_frames": 20,
        "width": 64,
        "height": 48,
        "duration_s": 2.0,
        "confidence": 0.5,
    }
    return Tube(**(fields | changes))


def unread() -> Tube:
    return make_tube(span=None, begin_frame=0, end_frame=0, boxes=np.zeros((0, 4), np.float32), answer="who knows")


@pytest.mark.parametrize("begin, end", [(-1, 2), (3, 2), (float("nan"), 2), (0, float("nan"))])
def test_span_refuses_what_is_no_interval(begin, end):
    with pytest.raises(ValueError, match="0 <= begin <= end"):
        Span(begin, end)


TIMES = np.arange(20) / 10


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        (Span(0, 2), (0, 20)),
        (Span(1.0, 1.5), (10, 15)),
        (Span(0.999, 1.501), (10, 15)),  # two decimals in the answer: nearest border, not floor
        (Span(1.04, 1.46), (10, 15)),
        (Span(1.0, 1.01), (10, 11)),  # never empty
        (Span(0, 99), (0, 20)),  # past the end
        (Span(50, 99), (19, 20)),
    ],
)
def test_frame_range_takes_the_nearest_borders(span, expected):
    assert frame_range(span, TIMES, 2.0) == expected


def test_frame_range_with_variable_frame_rate():
    assert frame_range(Span(1.0, 3.0), np.array([0, 0.5, 1.0, 3.0]), 3.5) == (2, 3)


@settings(deadline=None)
@given(st.integers(0, 19), st.integers(1, 20))
def test_frame_range_inverts_frame_times(begin, length):
    end = min(begin + length, 20)
    assert frame_range(Span(round(begin / 10, 2), round(end / 10, 2)), TIMES, 2.0) == (begin, end)


def test_interpolate_boxes():
    got = interpolate_boxes(np.array([2, 4]), np.array([[0, 0, 4, 4], [2, 0, 6, 8]]), np.array([0, 2, 3, 4, 9]))
    assert got.dtype == np.float32
    assert got[:, 0].tolist() == [0, 0, 1, 2, 2]  # held outside, linear inside
    assert got[2].tolist() == [1, 0, 5, 6]


def test_interpolate_boxes_when_a_short_clip_repeats_frames():
    got = interpolate_boxes(np.array([0, 0, 1, 1]), np.array([[0, 0, 2, 2]] * 2 + [[4, 4, 6, 6]] * 2), np.array([0, 1]))
    assert got[:, 0].tolist() == [0, 4]
    assert interpolate_boxes(np.array([3]), np.ones((1, 4)), np.zeros(0, int)).shape == (0, 4)


def test_box_at_is_linear_inside_the_span_and_none_outside():
    tube = make_tube()
    np.testing.assert_allclose(tube.box_at(1.25), [2.5, 0, 12.5, 10])
    assert tube.box_at(0.99) is None
    assert tube.box_at(1.5) is None  # half-open
    assert unread().box_at(0.0) is None


def test_box_at_follows_uneven_frames():
    """Two seconds at 10 fps, then two at 30: 80 frames, 20 a second on average."""
    times = np.concatenate([np.arange(20) / 10, 2 + np.arange(60) / 30])
    boxes = np.stack([times * 50, times * 0, times * 50 + 10, times * 0 + 10], axis=-1).astype(np.float32)
    tube = replace(make_tube(), span=Span(0, 4), begin_frame=0, end_frame=80, boxes=boxes, fps=20.0, times_s=times)
    for known in (tube, Tube.from_dict(tube.to_dict())):
        np.testing.assert_allclose([known.box_at(t)[0] for t in (0.5, 1.0, 3.0)], [25, 50, 150], atol=0.01)


def test_begin_and_end_of_an_unread_answer_are_none():
    assert (make_tube().begin_s, make_tube().end_s) == (1.0, 1.5)
    assert (unread().begin_s, unread().end_s) == (None, None)


def test_a_tube_needs_one_box_a_frame():
    with pytest.raises(ValueError, match=r"\[10, 16\) needs one box a frame, got boxes of shape \(5, 4\)"):
        make_tube(end_frame=16)


@pytest.mark.parametrize("tube", [make_tube(), unread()])
def test_json_round_trip(tube):
    row = json.loads(json.dumps(tube.to_dict()))
    back = Tube.from_dict(row)
    assert back.to_dict() == tube.to_dict()
    assert (back.span, back.begin_frame, back.end_frame) == (tube.span, tube.begin_frame, tube.end_frame)
    np.testing.assert_array_equal(back.boxes, tube.boxes)


def test_json_boxes_carry_their_frame():
    assert make_tube().to_dict()["boxes"][1] == [11, 1.0, 0.0, 11.0, 10.0]
