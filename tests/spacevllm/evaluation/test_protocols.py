"""The dense protocol against cases counted by hand. The truth is [20, 40) with one still box of 40x40 px."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scoring_cases import FPS, HEIGHT, NUM_FRAMES, WIDTH, instance, tube, unread_tube

from spacevllm.data.instance import Instance
from spacevllm.evaluation.prediction import Unreadable, from_tube, other_copy
from spacevllm.evaluation.protocols import TubeScore, score_tube, truth_boxes
from spacevllm.evaluation.protocols import dense as dense_truth
from spacevllm.span import Span

HALF = (10, 10, 50, 30)  # upper half of the true box: IoU 1/2


def dense(truth: Instance, prediction) -> TubeScore:
    answer = from_tube(prediction, truth) if prediction else None
    return score_tube(dense_truth(truth), None if isinstance(answer, Unreadable) else answer)


@pytest.mark.parametrize(("fps", "scale"), [(25, 1), (20, 1), (5, 1), (10, 0.5), (25, 2)])
def test_an_answer_about_another_copy_of_the_file(fps, scale):
    """The truth moves; the model saw the same seconds at another rate, in another size."""
    boxes = [[10.0 + f, 10.0, 50.0 + f, 50.0] for f in range(20, 40)]
    ratio = fps / FPS
    begin, end = round(20 * ratio), round(40 * ratio)
    seen = np.array([np.array([10 + f / ratio, 10, 50 + f / ratio, 50]) * scale for f in range(begin, end)])
    size = {"width": int(WIDTH * scale), "height": int(HEIGHT * scale), "num_frames": round(NUM_FRAMES * ratio)}
    answer = tube(begin, end, seen, fps=float(fps), span=Span(2.0, 4.0), **size)
    sampled = {"sampled_frames": np.arange(begin, end, 2), "sampled_boxes": seen[::2].astype(np.float32)}
    truth = instance(boxes=boxes)
    assert other_copy(truth, *[size[k] for k in ("num_frames", "width", "height")])
    tolerance = 0.01 if fps >= 10 else 0.06  # at 5 frames a second the last box stands still for a frame
    assert dense(truth, answer) == pytest.approx((1, 1, 1), abs=tolerance)
    assert dense(truth, replace(answer, **sampled)) == pytest.approx((1, 1, 1), abs=tolerance)


@pytest.mark.parametrize(
    ("prediction", "tiou", "viou", "gt_viou"),
    [
        (tube(20, 40), 1, 1, 1),
        (tube(20, 40, HALF), 1, 0.5, 0.5),
        (tube(30, 50), 10 / 30, 10 / 30, 1),
        (tube(30, 50, HALF), 10 / 30, 5 / 30, 0.5),
        (tube(25, 35), 10 / 20, 10 / 20, 1),
        (tube(0, 100), 20 / 100, 20 / 100, 1),
        (tube(40, 60), 0, 0, 1),  # touching: half-open spans share no frame
        (tube(60, 80), 0, 0, 1),
        (tube(20, 40, (100, 60, 140, 90)), 1, 0, 0),
        (tube(20, 40, (50, 50, 10, 10)), 1, 1, 1),  # swapped corners
        (tube(20, 40, (30, 30, 30, 30)), 1, 0, 0),  # no area
        (None, 0, 0, 0),
        (unread_tube(), 0, 0, 0),
    ],
)
def test_dense_by_hand(prediction, tiou, viou, gt_viou):
    assert dense(instance(), prediction) == pytest.approx((tiou, viou, gt_viou))


def test_both_boxes_are_clamped_to_the_frame():
    truth = instance(boxes=[[150, 50, 260, 130]] * 20)  # the frame is 200 x 100
    assert dense(truth, tube(20, 40, (150, 50, 200, 100))) == pytest.approx((1, 1, 1))


def test_gt_viou_reads_the_boxes_of_the_sampled_frames_not_the_span():
    seen = {"sampled_frames": np.array([0, 99]), "sampled_boxes": np.array([HALF, HALF], np.float32)}
    assert dense(instance(), tube(60, 80, **seen)) == pytest.approx((0, 0, 0.5))


def test_sampled_boxes_are_interpolated_between_their_frames():
    low, high = (0, 10, 40, 50), (20, 10, 60, 50)  # the true box lies half-way
    seen = {"sampled_frames": np.array([19, 21]), "sampled_boxes": np.array([low, high], np.float32)}
    one_frame = instance(begin_frame=20, end_frame=21, box_frames=[20], boxes=[[10.0, 10, 50, 50]])
    assert dense(one_frame, tube(20, 21, **seen)).gt_viou == pytest.approx(1)


def test_a_predicted_frame_without_a_box_takes_the_nearest_one():
    boxes = np.full((20, 4), np.nan)
    boxes[0], boxes[19] = (10, 10, 50, 50), HALF
    assert dense(instance(), tube(20, 40, boxes)).viou == pytest.approx((10 * 1 + 10 * 0.5) / 20)


def test_a_span_without_any_box_keeps_its_temporal_score():
    assert dense(instance(), tube(20, 40, np.full((20, 4), np.nan))) == pytest.approx((1, 0, 0))


def test_a_gap_in_the_truth_is_filled_from_its_neighbours():
    truth = instance(box_frames=[20, 39], boxes=[[10, 10, 50, 50], [48, 10, 88, 50]])
    frames, boxes = truth_boxes(truth, (20, 40))
    assert frames.tolist() == list(range(20, 40))
    assert boxes[10, 0] == pytest.approx(30)
    assert dense(truth, tube(20, 40, boxes)) == pytest.approx((1, 1, 1))


def test_a_truth_frame_beyond_the_known_boxes_is_not_counted():
    truth = instance(box_frames=list(range(25, 35)), boxes=[[10.0, 10, 50, 50]] * 10)
    assert dense(truth, tube(20, 40)) == pytest.approx((1, 1, 1))
    # hull [20, 50) has 30 frames, 10 of them (20-24, 35-39) are unknown; 10 hits of IoU 1
    assert dense(truth, tube(20, 50)).viou == pytest.approx(10 / 20)


def test_true_boxes_outside_the_span_do_not_count():
    around = instance(box_frames=list(range(100)), boxes=[[10.0, 10, 50, 50]] * 100)
    assert dense(around, tube(0, 100)) == dense(instance(), tube(0, 100))


def test_a_truth_without_any_box_in_its_span_scores_zero_not_nan():
    truth = instance(box_frames=[0], boxes=[[10.0, 10, 50, 50]])
    assert dense(truth, tube(20, 40)) == (1, 0, 0)


def test_a_truth_without_frames_is_named():
    with pytest.raises(ValueError, match=r"instance q: .*begin_frame"):
        dense(instance(begin_frame=None), tube(20, 40))
