"""The logic of the pipeline, proven where the truth is known: Moving Shapes seen through noise."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.synthesis_noise import LEVELS, run_level
from spacevllm.data.instance import Instance
from spacevllm.data.moving_shapes import MovingShapesConfig, make_scene
from spacevllm.data.moving_shapes.oracle import Noise, captions, detect
from spacevllm.data.synthesis.filter import FilterOptions, keep_boxes
from spacevllm.data.synthesis.funnel import funnel, funnel_table, outcomes_that_differ, removed
from spacevllm.data.synthesis.linking import giou, link
from spacevllm.data.synthesis.refiner import RefinerOptions, refine
from spacevllm.data.synthesis.sample import Detections, Rejected, RoughTube, Track

PLACE = np.array([10.0, 10.0, 30.0, 30.0])
FAR = np.array([120.0, 80.0, 150.0, 110.0])


def seen(*frames):
    """Detections at two frames a second; each frame is a list of (box, score)."""
    boxes = tuple(np.array([box for box, _ in frame]).reshape(-1, 4) for frame in frames)
    scores = tuple(np.array([score for _, score in frame]) for frame in frames)
    return Detections(4 * np.arange(len(frames)), 0.5 * np.arange(len(frames)), boxes, scores)


def refined(detections, **options):
    n = len(detections.frames)
    return refine(detections, link(detections), (0, 4 * n, 0.0, 0.5 * n), RefinerOptions(**{"min_s": 0.0} | options))


def test_of_several_boxes_the_steady_one_is_taken():
    steady, flicker = (PLACE, 0.5), (FAR, 0.9)
    track = link(seen([steady, flicker], [steady], [(FAR + 1, 0.4), steady], [steady]))
    assert track.rows.tolist() == [0, 1, 2, 3] and (track.boxes == PLACE).all()
    assert track.counts.tolist() == [2, 1, 2, 1]


def test_a_lone_false_box_is_left_out_and_a_gap_is_bridged():
    track = link(seen([(FAR, 0.35)], [], [(PLACE, 0.6)], [], [(PLACE + 4, 0.6)], [(FAR, 0.4)]))
    assert track.rows.tolist() == [2, 4]
    assert len(link(seen([], [])).rows) == 0


@given(st.lists(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)), max_size=3), min_size=1, max_size=5))
@settings(max_examples=30, deadline=None)
def test_no_path_scores_better(frames):
    """Against every path there is."""
    found = seen(*[[(np.array([10 * x, 0, 10 * x + 15, 15]), score / 10) for x, score in frame] for frame in frames])
    track = link(found)

    def value(path):
        jumps = sum((giou(a[0][None], b[0])[0] - 1) / 2 for a, b in pairwise(path))
        return sum(score for _, score in path) + jumps

    best = [[]]
    for boxes, scores in zip(found.boxes, found.scores, strict=True):
        best += [[*path, (box, score)] for path in best for box, score in zip(boxes, scores, strict=True)]
    chosen = list(zip(track.boxes, track.scores, strict=True))
    assert value(chosen) == pytest.approx(max(map(value, best)))
    assert (np.diff(track.rows) > 0).all()


def test_borders_lie_half_way_to_the_frame_without_a_box():
    tube = refined(seen([], [], [(PLACE, 0.5)], [(PLACE, 0.5)], []))
    assert (tube.begin_frame, tube.end_frame, tube.begin_s, tube.end_s) == (6, 14, 0.75, 1.75)
    assert tube.frames.tolist() == [8, 12]
    whole = refined(seen([(PLACE, 0.5)], [], [(PLACE, 0.5)]))
    assert (whole.begin_frame, whole.end_frame, whole.begin_s, whole.end_s) == (0, 12, 0.0, 1.5)


@pytest.mark.parametrize(
    ("frames", "options", "reason"),
    [
        ([[], []], {}, "no_box"),
        ([[(PLACE, 0.5)]] * 3, {"min_s": 2}, "too_short"),
        ([[(PLACE, 0.5)]] * 5, {"max_s": 2}, "too_long"),
    ],
)
def test_what_the_refiner_refuses(frames, options, reason):
    with pytest.raises(Rejected) as refusal:
        refined(seen(*frames), **options)
    assert refusal.value.reason == reason and str(refusal.value).startswith(reason)


def test_two_and_120_seconds_are_kept():
    assert refined(seen(*[[(PLACE, 0.5)]] * 4), min_s=2).end_s == 2
    assert refined(seen(*[[(PLACE, 0.5)]] * 240), max_s=120).end_s == 120


def tube_of(boxes, counts):
    n = len(boxes)
    track = Track(np.arange(n), np.array(boxes, float), np.full(n, 0.5), np.array(counts))
    return RoughTube(0, 4 * n, 0.0, 0.5 * n, 4 * np.arange(n), track)


def test_the_filter_drops_crowded_frames_and_tubes_that_jump():
    small, twice, more = [0, 0, 10, 10], [0, 0, 10, 20], [0, 0, 10, 20.1]
    frames, boxes = keep_boxes(tube_of([small, more, small, twice], [3, 4, 1, 1]), FilterOptions())
    assert frames.tolist() == [0, 8, 12] and boxes.shape == (3, 4)
    for boxes, counts, reason in [([small, more], [1, 1], "area_jump"), ([more, small], [1, 1], "area_jump"),
                                  ([small, small], [4, 5], "crowded")]:  # fmt: skip
        with pytest.raises(Rejected) as refusal:
            keep_boxes(tube_of(boxes, counts), FilterOptions())
        assert refusal.value.reason == reason


def test_the_funnel_adds_up_and_says_what_the_paper_says():
    stages = funnel(10, [("refiner", "no_box"), ("filter", "area_jump"), ("refiner", "no_box"), ("analyzer", "bad")])
    assert [(s.entered, s.kept) for s in stages] == [(10, 9), (9, 9), (9, 7), (7, 6)]
    assert removed(stages) == pytest.approx(0.4)
    assert "no_box 2" in funnel_table(stages) and "(the paper: about 40%)" in funnel_table(stages)
    assert funnel_table(funnel(0, [])).splitlines()[-1].startswith("all")
    with pytest.raises(ValueError, match="no stage"):
        funnel(1, [("painter", "x")])
    with pytest.raises(ValueError, match="rejected 2 of 1"):
        funnel(1, [("filter", "x"), ("filter", "y")])
    assert outcomes_that_differ({"a": "ok", "b": "ok"}, {"a": "ok", "b": "no_box", "c": "ok"}) == {
        "b": ("ok", "no_box"),
        "c": ("absent", "ok"),
    }


def test_captions_hold_their_truth():
    scene = make_scene(MovingShapesConfig(num_frames=161), "train", 3)
    for caption, truth in captions(scene, "media/train/000003.mp4"):
        assert caption.begin_s <= truth.begin_s < truth.end_s <= caption.end_s
        assert caption.begin_s % 5 == 0 and isinstance(truth, Instance)
        [*_, (boxes, scores)] = detect(scene, np.array(truth.box_frames), caption.text.rsplit(" ", 2)[0], Noise())
        assert boxes.shape[1] == 4 and len(boxes) == len(scores)


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)
def test_tubes_against_the_truth(level):
    """The table of ``python -m benchmarks.synthesis_noise``, on fewer videos; bounds are a good step below it."""
    outcome = run_level(level, num_videos=12)
    assert outcome.refined >= level.least_refined
    assert outcome.tiou >= level.least_tiou and outcome.viou >= level.least_viou
