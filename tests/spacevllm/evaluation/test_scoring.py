"""Whole tables: shapes, counts, baselines beside the model, and the properties that make a mean honest."""

from __future__ import annotations

import json
import math
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scoring_cases import instance, tube, unread_tube

from spacevllm.data.instance import Instance
from spacevllm.evaluation.scoring import evaluate, score
from spacevllm.evaluation.summary import summarise
from spacevllm.span import Span

COUNTS = {"n_queries", "n_missing", "n_unparsable"}
STVG = {"m_tIoU", "m_vIoU", "vIoU@0.3", "vIoU@0.5", "gt_vIoU"}
OPTIONS = ["red", "green", "blue"]


def span_tube(begin_s, end_s):
    return tube(0, 0, np.zeros((0, 4)), span=Span(begin_s, end_s))


def flat_numbers(tree):
    for value in tree.values():
        yield from flat_numbers(value) if isinstance(value, dict) else (value,)


def test_stvg_table():
    truths = [
        instance(id="a"),
        instance(id="b", sentence_type="interrogative"),
        instance(id="c"),
        instance(id="d"),
    ]
    answers = {"a": tube(20, 40), "b": tube(20, 40, (10, 10, 50, 30)), "c": unread_tube(), "d": None}
    summary, rows = evaluate(truths, answers, draws=3)
    dense = summary["stvg"]["dense"]
    assert set(dense) == STVG | COUNTS | {"declarative", "interrogative"}
    assert {key: dense[key] for key in STVG} == pytest.approx(
        # vIoU of b is exactly 0.5, which is not above 0.5
        {"m_tIoU": 2 / 4, "m_vIoU": 1.5 / 4, "vIoU@0.3": 2 / 4, "vIoU@0.5": 1 / 4, "gt_vIoU": 1.5 / 4}
    )
    assert [dense[key] for key in ("n_queries", "n_missing", "n_unparsable")] == [4, 1, 1]
    assert dense["declarative"]["n_queries"] == 3
    assert dense["interrogative"]["m_vIoU"] == pytest.approx(0.5)
    baselines = summary["stvg"]["baselines"]
    assert set(baselines) == {"centre_box_whole_clip", "random_object_random_span"}
    assert all(set(scores) == set(dense) and scores["n_queries"] == 4 for scores in baselines.values())
    assert baselines["centre_box_whole_clip"]["m_tIoU"] == pytest.approx(20 / 100)
    assert [(row["id"], row["status"]) for row in rows] == [
        ("a", "ok"),
        ("b", "ok"),
        ("c", "unparsable"),
        ("d", "missing"),
    ]
    assert rows[0] == {
        "id": "a", "task": "stvg", "media": "clip.mp4", "sentence_type": "declarative", "status": "ok",
        "protocol": "dense", "tiou": 1.0, "viou": 1.0, "gt_viou": 1.0,
    }  # fmt: skip


def test_vtg_table_is_in_seconds_and_reaches_at_the_threshold():
    truths = [instance("vtg", id, begin_frame=None, end_frame=None, box_frames=[], boxes=[]) for id in "abcd"]
    answers = {"a": span_tube(2, 4), "b": span_tube(2, 3), "c": span_tube(3.5, 6), "d": unread_tube()}
    vtg = evaluate(truths, answers)[0]["vtg"]
    assert (vtg["R1@0.3"], vtg["R1@0.5"], vtg["R1@0.7"]) == (0.5, 0.5, 0.25)  # b is 0.5 exactly
    assert vtg["mIoU"] == pytest.approx((1 + 0.5 + 0.5 / 4) / 4)
    assert vtg["n_unparsable"] == 1
    assert vtg["baselines"]["whole_clip"]["mIoU"] == pytest.approx(0.2)
    assert 0 < vtg["baselines"]["random_span"]["mIoU"] < 0.6


def test_rec_table():
    truths = [instance("rec", id, media_type="image", box_frames=[0], boxes=[[0.0, 0, 100, 100]]) for id in "abcd"]
    answers = {
        "a": np.array([0, 0, 100, 50]),  # IoU 0.5 exactly: reached
        "b": np.array([0, 0, 100, 49.9]),
        "c": np.array([np.nan, 0, 1, 1]),
    }
    rec = evaluate(truths, answers)[0]["rec"]
    assert rec["acc@0.5"] == 0.25
    assert rec["mIoU"] == pytest.approx((0.5 + 0.499) / 4)
    assert (rec["n_missing"], rec["n_unparsable"]) == (1, 1)
    assert rec["baselines"]["random_object"]["acc@0.5"] == 1  # the only known object is the right one
    assert rec["baselines"]["centre_box"]["mIoU"] == pytest.approx(50 * 50 / (100 * 100 + 50 * 50))


def test_qa_table_and_expected_chance():
    truths = [
        instance("qa", "a", options=OPTIONS, answer="blue"),
        instance("qa", "b", options=["yes", "no"], answer="yes"),
        instance("qa", "c", options=OPTIONS, answer="B"),
        instance("qa", "free", answer="anything"),
    ]
    summary, rows = evaluate(truths, {"a": "(C)", "b": "who knows", "free": "words"})
    qa = summary["qa"]
    assert qa["accuracy"] == pytest.approx(1 / 3)
    assert (qa["n_queries"], qa["n_missing"], qa["n_unparsable"], qa["n_not_scored"]) == (4, 1, 1, 1)
    assert qa["baselines"]["random_option"]["accuracy"] == pytest.approx((1 / 3 + 1 / 2 + 1 / 3) / 3)
    assert qa["baselines"]["first_option"]["accuracy"] == pytest.approx(1 / 3)
    assert rows[-1]["correct"] is None


def test_the_table_is_json():
    truths = [instance(id="a"), instance("qa", "b", options=OPTIONS, answer="red")]
    assert json.loads(json.dumps(evaluate(truths, {}))) is not None


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match="more than once, 'a'"):
        evaluate([instance(id="a"), instance(id="a")], {})
    with pytest.raises(ValueError, match="no instance, 'zz'"):
        evaluate([instance(id="a")], {"zz": None})
    with pytest.raises(TypeError, match="instance a: task stvg takes a Tube or Prediction, not a str"):
        evaluate([instance(id="a")], {"a": "From 1s to 2s."})
    with pytest.raises(ValueError, match="'pink' is none of"):
        evaluate([instance("qa", "a", options=OPTIONS, answer="pink")], {})


@st.composite
def queries(draw) -> tuple[list[Instance], dict]:
    """Up to six random truths of one clip and an answer (or none) to each."""
    truths, answers = [], {}
    for number in range(draw(st.integers(1, 6))):
        begin, end = sorted(draw(st.lists(st.integers(0, 30), min_size=2, max_size=2, unique=True)))
        frames = sorted(draw(st.sets(st.integers(0, 30), min_size=1)))
        corner = st.floats(-20, 220, width=32)
        boxes = draw(st.lists(st.lists(corner, min_size=4, max_size=4), min_size=len(frames), max_size=len(frames)))
        spoken = {"begin_frame": begin, "end_frame": end, "begin_s": begin / 10, "end_s": end / 10}
        kind = draw(st.sampled_from(["declarative", "interrogative"]))
        truths.append(instance(id=f"q{number}", box_frames=frames, boxes=boxes, sentence_type=kind, **spoken))
        begin, end = sorted(draw(st.lists(st.integers(0, 30), min_size=2, max_size=2, unique=True)))
        box = draw(st.lists(st.floats(width=32), min_size=4, max_size=4))
        answers[f"q{number}"] = draw(st.sampled_from([tube(begin, end, box), unread_tube(), None]))
    return truths, answers


light = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@light
@given(queries(), st.randoms(use_true_random=False))
def test_order_of_queries_changes_nothing(case, random):
    truths, answers = case
    turned = random.sample(truths, len(truths))
    assert evaluate(truths, answers, draws=2)[0] == evaluate(turned, answers, draws=2)[0]


@light
@given(queries())
def test_every_number_is_a_fraction(case):
    summary, rows = evaluate(*case, draws=2)
    numbers = [n for n in flat_numbers(summary) if isinstance(n, float)]
    assert numbers and all(0 <= n <= 1 + 1e-12 and math.isfinite(n) for n in numbers)
    assert len(rows) == len(case[0])


@light
@given(queries(), st.data())
def test_dropping_an_answer_never_raises_a_score(case, data):
    truths, answers = case
    dropped = answers | {data.draw(st.sampled_from(sorted(answers))): None}
    before, after = (summarise(score(truths, given)) for given in (answers, dropped))
    assert all(after[key] <= before[key] for key in STVG)


@light
@given(st.integers(0, 29), st.integers(1, 30), st.sets(st.integers(0, 60), min_size=1))
def test_a_perfect_answer_scores_one(begin, length, frames):
    known = sorted(frames | {begin})
    boxes = [[float(f), 10.0, f + 40.0, 50.0] for f in range(100)]
    truth = instance(
        box_frames=known, boxes=[boxes[f] for f in known],
        begin_frame=begin, end_frame=begin + length, begin_s=begin / 10, end_s=(begin + length) / 10,
    )  # fmt: skip
    seen = {"sampled_frames": np.arange(100), "sampled_boxes": np.array(boxes, np.float32)}
    answer = tube(begin, begin + length, boxes[begin : begin + length], **seen)
    [row] = score([truth], {"q": answer}, "dense")
    assert (row["tiou"], row["viou"], row["gt_viou"]) == pytest.approx((1, 1, 1), abs=1e-6)


@light
@given(st.integers(0, 19))
def test_a_closer_border_never_scores_less(shift):
    further, closer = (score([instance()], {"q": tube(20 - s, 40)})[0] for s in (shift + 1, shift))
    assert further["viou"] < closer["viou"] and further["tiou"] < closer["tiou"]


def test_thousands_of_dense_tubes_score_in_seconds():
    boxes = [[10.0, 10.0, 50.0, 50.0]] * 300
    truths = [
        instance(id=str(n), num_frames=600, end_frame=320, end_s=32.0, box_frames=list(range(20, 320)), boxes=boxes)
        for n in range(1000)
    ]
    answers = {truth.id: tube(100, 400) for truth in truths}
    start = time.process_time()  # of this process alone, whatever else the machine does
    score(truths, answers)
    assert time.process_time() - start < 5  # a third of a second
