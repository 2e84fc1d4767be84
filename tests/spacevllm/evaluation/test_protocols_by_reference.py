"""The vectorised protocols against the loops of ``protocol_reference``, and what must hold of any scorer."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from protocol_reference import scores
from scoring_cases import instance

from spacevllm.evaluation.prediction import Prediction, clean_track
from spacevllm.evaluation.protocols import PROTOCOLS, score_tube, tubedetr_frames

RATES = [Fraction(30000, 1001), Fraction(24000, 1001), Fraction(25), Fraction(30), Fraction(15), Fraction(61, 10)]
RATES += [Fraction(5), Fraction(4), Fraction(60)]
WIDTH, HEIGHT = 200, 100
PERFECT = 1 - 1e-9

light = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def truths(draw, family=None, gaps=True):
    """A query as the reference reads it. Its boxes may have gaps and may reach out of the span."""
    family = family or draw(st.sampled_from(["vidstg", "hcstvg"]))
    num_frames = draw(st.integers(20, 90) | st.integers(900, 3000))
    fps = Fraction(num_frames, 20) if family == "hcstvg" else draw(st.sampled_from(RATES))
    segment = (0, num_frames)
    if family == "vidstg" and draw(st.booleans()):
        segment = draw_span(draw, 0, num_frames, 2)
    begin, end = draw_span(draw, *segment)
    end = min(end, begin + 400)  # the reference is slow
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    before, after = (0, 0) if family == "hcstvg" else (draw(st.integers(0, 3)), draw(st.integers(0, 3)))
    frames = np.arange(max(begin - before, 0), end + after)
    if gaps and family == "vidstg" and draw(st.booleans()):
        frames = frames[(rng.random(len(frames)) < 0.7) | (frames == begin)]
    return {
        "family": family,
        "fps": float(fps),
        "rate": fps,
        "num_frames": num_frames,
        "width": WIDTH,
        "height": HEIGHT,
        "begin": begin,
        "end": end,
        "segment": segment,
        "boxes": dict(zip(frames.tolist(), walk(rng, len(frames)), strict=True)),
    }


@st.composite
def predictions(draw, truth):
    """Near the truth, or anywhere; boxes on some frames, in the span and around it, a few of them broken."""
    near = st.tuples(st.integers(-30, 30), st.integers(-30, 30))
    begin, end = draw_span(draw, 0, truth["num_frames"])
    if draw(st.booleans()):
        shift = draw(near)
        begin = min(max(truth["begin"] + shift[0], 0), truth["num_frames"] - 1)
        end = min(max(truth["end"] + shift[1], begin + 1), truth["num_frames"])
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    low, high = draw(st.sampled_from([(begin, min(end, begin + 400)), (truth["begin"], truth["end"]), (0, 40)]))
    frames = np.arange(low, high)
    frames = frames[rng.random(len(frames)) < draw(st.sampled_from([0.0, 0.1, 1.0]))]
    boxes = walk(rng, len(frames), noise=draw(st.sampled_from([0, 20])))
    if boxes and draw(st.booleans()):
        boxes[0] = [math.nan, 0, 1, 1]
    return {"begin": begin, "end": end, "boxes": dict(zip(frames.tolist(), boxes, strict=True))}


def draw_span(draw, low, high, least=1):
    begin = draw(st.integers(low, high - least))
    return begin, draw(st.integers(begin + least, high))


def walk(rng, count, noise=3):
    """Boxes that move a little; some leave the frame, some have swapped corners."""
    way = 70 * np.sin(np.arange(count) / 40)[:, None]
    corner = np.array([60, 20, 120, 80]) + rng.normal(0, noise + 1e-9, (count, 4)) + way * [1, 0, 1, 0]
    swapped = rng.random(count) < 0.1
    corner[swapped] = corner[swapped][:, [2, 3, 0, 1]]
    return corner.tolist()


def as_instance(truth):
    frames = sorted(truth["boxes"])
    rate, segment = truth["rate"], truth["segment"]
    return instance(
        source="hcstvg_v1" if truth["family"] == "hcstvg" else "vidstg",
        fps_num=rate.numerator, fps_den=rate.denominator, num_frames=truth["num_frames"],
        width=WIDTH, height=HEIGHT, duration_s=float(truth["num_frames"] / rate),
        begin_frame=truth["begin"], end_frame=truth["end"],
        begin_s=float(truth["begin"] / rate), end_s=float(truth["end"] / rate),
        segment_begin_frame=segment[0], segment_end_frame=segment[1],
        box_frames=frames, boxes=[truth["boxes"][f] for f in frames],
    )  # fmt: skip


def as_prediction(predicted):
    frames = sorted(predicted["boxes"])
    track = clean_track(np.array(frames, int), np.array([predicted["boxes"][f] for f in frames]), WIDTH, HEIGHT)
    return Prediction(predicted["begin"], predicted["end"], track, track)


def ours(truth, predicted, protocol):
    return score_tube(PROTOCOLS[protocol](as_instance(truth)), as_prediction(predicted))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@light
@given(st.data())
def test_equal_to_the_loops(protocol, data):
    truth = data.draw(truths())
    predicted = data.draw(predictions(truth))
    assert ours(truth, predicted, protocol) == pytest.approx(scores(truth, predicted, protocol), abs=1e-9)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@light
@given(st.data())
def test_every_number_is_a_fraction(protocol, data):
    truth = data.draw(truths())
    assert all(0 <= number <= 1 + 1e-12 for number in ours(truth, data.draw(predictions(truth)), protocol))


@pytest.mark.parametrize(
    ("protocol", "family"), [("dense", "vidstg"), ("dense", "hcstvg"), ("tubedetr", "vidstg"), ("stcat", "vidstg")]
)
@light
@given(st.data())
def test_a_perfect_prediction_scores_one(protocol, family, data):
    """Where the protocol lets it: a frame of the truth is looked at, and stcat's span is the annotated one."""
    truth = data.draw(truths(family, gaps=False))
    if protocol == "stcat":
        truth["end"] = max(min(truth["end"], truth["segment"][1] - 1), truth["begin"] + 1)
    scored = ours(truth, truth, protocol)
    held_against = PROTOCOLS[protocol](as_instance(truth))
    if held_against.span != (truth["begin"], truth["end"]):
        return  # stcat, one frame, the clip's last: no span is left
    expected = bool(len(held_against.frames))
    assert scored.tiou == 1
    assert (scored.viou > PERFECT, scored.gt_viou > PERFECT) == (expected, expected)


def test_hcstvg_has_no_perfect_prediction_in_the_peers_protocols():
    truth = {"family": "hcstvg", "fps": 30.0, "rate": Fraction(30), "num_frames": 600, "width": WIDTH, "height": HEIGHT}
    truth |= {"begin": 267, "end": 467, "segment": (0, 600)}
    truth["boxes"] = {frame: [60, 20, 120, 80] for frame in range(267, 467)}
    assert ours(truth, truth, "tubedetr").tiou == pytest.approx(199 / 201)  # both spans are 200 long, one later
    assert ours(truth, truth, "stcat").tiou == pytest.approx(199 / 200)
    assert ours(truth, truth, "stcat").gt_viou == pytest.approx(1)
    moved = truth | {"begin": 268, "end": 468, "boxes": {f + 1: box for f, box in truth["boxes"].items()}}
    assert ours(truth, moved, "tubedetr") == pytest.approx((1, 1, 1))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@light
@given(st.data())
def test_a_better_box_never_lowers_a_score(protocol, data):
    truth = data.draw(truths(gaps=False))
    predicted = data.draw(predictions(truth))
    frame = data.draw(st.sampled_from(sorted(truth["boxes"])))
    shift = 1 if protocol == "tubedetr" and truth["family"] == "hcstvg" else 0
    every = dict(enumerate(walk(np.random.default_rng(1), truth["num_frames"] + 5)))
    before = predicted | {"boxes": every}
    after = predicted | {"boxes": every | {frame + shift: truth["boxes"][frame]}}
    low, high = ours(truth, before, protocol), ours(truth, after, protocol)
    assert high.tiou == low.tiou and high.viou >= low.viou - 1e-12 and high.gt_viou >= low.gt_viou - 1e-12


@pytest.mark.parametrize("protocol", PROTOCOLS)
@light
@given(st.data())
def test_a_longer_overlap_never_lowers_a_score(protocol, data):
    truth = data.draw(truths(gaps=False))
    goal = PROTOCOLS[protocol](as_instance(truth)).span
    if goal[1] - goal[0] < 2:
        return
    begin, end = draw_span(data.draw, *goal)
    wider = data.draw(st.integers(goal[0], begin)), data.draw(st.integers(end, goal[1]))
    boxes = data.draw(predictions(truth))["boxes"]
    inner, outer = ({"begin": b, "end": e, "boxes": boxes} for b, e in ((begin, end), wider))
    low, high = ours(truth, inner, protocol), ours(truth, outer, protocol)
    assert high.tiou >= low.tiou and high.viou >= low.viou - 1e-12 and high.gt_viou == low.gt_viou


def test_tubedetr_takes_five_a_second_and_never_the_last():
    clip = instance(source="vidstg", fps_num=30, num_frames=600, segment_begin_frame=10, segment_end_frame=41)
    assert tubedetr_frames(clip).tolist() == [10, 12, 18, 24, 30, 36]
    assert tubedetr_frames(instance(fps_num=5, num_frames=4)).tolist() == [0, 1, 2]
    assert tubedetr_frames(instance(fps_num=30, num_frames=1)).tolist() == [0]


def test_tubedetr_cuts_at_200():
    frames = tubedetr_frames(instance(source="vidstg", fps_num=5, num_frames=302))  # 301 frames are kept at first
    assert len(frames) == 200 and frames.tolist() == [(j * 301) // 200 for j in range(200)]


def test_tubedetr_needs_a_frame_rate():
    with pytest.raises(ValueError, match="instance q: protocol tubedetr needs a frame rate"):
        tubedetr_frames(instance(fps_num=0))
