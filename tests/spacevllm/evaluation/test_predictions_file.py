"""Lines of a predictions file, good and bad: what is read, what is counted, and that nothing raises."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scoring_cases import instance

from spacevllm.evaluation.prediction import Prediction, Unreadable
from spacevllm.evaluation.predictions import Problems, read_predictions
from spacevllm.evaluation.scoring import score
from spacevllm.evaluation.summary import means_and_counts

BOX = [10, 10, 50, 50]


def read(*lines, truth=None):
    """(answer to query q or "absent", problems)."""
    truth, problems = truth or instance(), Problems()
    raw = [line if isinstance(line, str | bytes) else json.dumps({"id": "q"} | line) for line in lines]
    return read_predictions(raw, {"q": truth}, problems).get(truth.id, "absent"), problems.to_dict()


def span(found):
    answer, problems = found
    assert isinstance(answer, Prediction) and not problems
    return answer.begin_frame, answer.end_frame


def bad(found):
    """The kind of the only problem, whose answer scores 0."""
    answer, problems = found
    assert isinstance(answer, Unreadable)
    [kind] = problems
    assert problems[kind]["count"] == 1 and problems[kind]["first"].startswith("line 1 (q): ")
    return kind


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"begin_frame": 20, "end_frame": 40}, (20, 40)),
        ({"begin_frame": 20.0, "end_frame": 40.0}, (20, 40)),
        ({"begin_s": 2, "end_s": 4.04}, (20, 40)),  # the nearest frame border
        ({"begin_s": 2.31, "end_s": 2.32}, (23, 24)),  # never empty
        ({"answer": "From 2.0s to 4.0s."}, (20, 40)),
        ({"answer": "From 0s to 1s.", "begin_s": 2, "end_s": 4}, (20, 40)),
        ({"answer": None, "begin_s": 0, "end_s": 1, "begin_frame": 20, "end_frame": 40}, (20, 40)),
        ({"begin_frame": None, "end_frame": None, "begin_s": 2, "end_s": 4}, (20, 40)),
    ],
)
def test_spans(fields, expected):
    assert span(read(fields)) == expected


def test_seconds_count_at_a_fractional_rate():
    truth = instance(fps_num=30000, fps_den=1001, num_frames=900)
    assert span(read({"begin_s": 10.01, "end_s": 20.02}, truth=truth)) == (300, 600)


def test_boxes_in_any_order_in_the_span_or_not():
    answer, problems = read({"begin_frame": 20, "end_frame": 22, "boxes": [[30, *BOX], [20, 50, 50, 10, 10]]})
    assert not problems
    assert answer.spoken.frames.tolist() == [20, 30]
    assert answer.spoken.boxes.tolist() == [BOX, BOX]  # corners sorted


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"begin_frame": 40, "end_frame": 20}, "inverted_span"),
        ({"begin_frame": 20, "end_frame": 20}, "empty_span"),
        ({"begin_s": 4.0, "end_s": 2.0}, "inverted_span"),
        ({"begin_frame": 200, "end_frame": 300}, "span_outside_video"),
        ({"begin_frame": "20", "end_frame": 40}, "wrong_type"),
        ({"begin_frame": 20}, "wrong_type"),
        ({"begin_frame": 20.5, "end_frame": 40}, "wrong_type"),
        ({"begin_frame": True, "end_frame": 40}, "wrong_type"),
        ({"begin_frame": float("nan"), "end_frame": 40}, "wrong_type"),
        ({"begin_s": 1, "end_s": float("inf")}, "wrong_type"),
        ({"begin_frame": 20, "end_frame": 10**400}, "wrong_type"),
        ({"answer": 7}, "wrong_type"),
        ({"answer": ["From 1s to 2s."]}, "wrong_type"),
        ({"answer": "I do not know."}, "no_span"),
        ({"begin_frame": 20, "end_frame": 40, "boxes": {"20": BOX}}, "wrong_type"),
    ],
)
def test_lines_that_cannot_be_used(fields, kind):
    assert bad(read(fields)) == kind


@pytest.mark.parametrize(
    "row",
    [[21, float("nan"), 0, 1, 1], [21, 0, 0, float("inf"), 1], [21, *BOX, 0.9], [21.5, *BOX], BOX, "box", None, [[]],
     [21, "10", 10, 50, 50], [21, 10**400, 0, 1, 1], [1e300, *BOX]],
)  # fmt: skip
def test_a_bad_box_costs_itself(row):
    for rows in ([[20, *BOX], row], [row, [20, *BOX]]):
        answer, problems = read({"begin_frame": 20, "end_frame": 40, "boxes": rows})
        assert problems["bad_box"]["count"] == 1
        assert answer.spoken.frames.tolist() == [20]


def test_no_box_keeps_the_span():
    for boxes in ([], None):
        answer, problems = read({"begin_frame": 20, "end_frame": 40, "boxes": boxes})
        assert not problems and len(answer.spoken.frames) == 0
        [row] = score([instance()], {"q": answer})
        assert (row["tiou"], row["viou"], row["gt_viou"], row["status"]) == (1, 0, 0, "ok")


def test_a_span_past_the_video_is_cut_and_said():
    answer, problems = read({"begin_frame": -5, "end_frame": 400})
    assert (answer.begin_frame, answer.end_frame) == (0, 100)
    assert problems["span_past_video"]["count"] == 1
    late = instance(begin_frame=90, end_frame=105, end_s=10.5)  # annotated past the end: it is believed
    assert span(read({"begin_frame": 90, "end_frame": 105}, truth=late)) == (90, 105)


def test_one_frame_with_two_boxes():
    answer, problems = read({"begin_frame": 20, "end_frame": 40, "boxes": [[20, *BOX], [20, 0, 0, 1, 1]]})
    assert problems["repeated_box"]["count"] == 1 and answer.spoken.boxes.tolist() == [BOX]


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("{", "not_json"),
        ("", None),
        (b"\xff\xfe{}", "not_json"),
        ("[" * 100_000, "not_json"),
        ("[1]", "not_an_object"),
        ("null", "not_an_object"),
        ('{"begin_frame": 1}', "no_id"),
        ('{"id": null}', "no_id"),
        ('{"id": "zz"}', "unknown_id"),
        ('{"id": 3}', "unknown_id"),
    ],
)
def test_lines_of_no_query(line, kind):
    answer, problems = read(line)
    assert answer == "absent" and list(problems) == ([kind] if kind else [])


def test_of_two_lines_the_first_counts():
    answer, problems = read({"begin_frame": 20, "end_frame": 40}, {"begin_frame": 0, "end_frame": 9})
    assert (answer.begin_frame, problems["duplicate_id"]["count"]) == (20, 1)


def test_no_answer_is_missing_not_unparsable():
    for fields in ({}, {"answer": None}, {"answer": None, "boxes": []}):
        answer, problems = read(fields)
        assert answer is None and not problems
    rows = score([instance()], {"q": None})
    assert means_and_counts(rows)["n_missing"] == 1


def test_numbers_as_ids():
    problems = Problems()
    found = read_predictions(['{"id": 7, "begin_frame": 0, "end_frame": 1}'], {"7": instance(id="7")}, problems)
    assert isinstance(found["7"], Prediction)


def test_vtg_reads_seconds_frames_or_words():
    truth = instance("vtg", boxes=[], box_frames=[])
    assert read({"begin_s": 2.0, "end_s": 4.5}, truth=truth)[0] == (2.0, 4.5)
    assert read({"begin_frame": 20, "end_frame": 45}, truth=truth)[0] == (2.0, 4.5)
    assert read({"answer": "2.0 - 4.5"}, truth=truth)[0] == (2.0, 4.5)
    unknown_rate = instance("vtg", boxes=[], box_frames=[], fps_num=0, num_frames=0)
    assert bad(read({"begin_frame": 20, "end_frame": 45}, truth=unknown_rate)) == "no_fps"
    assert bad(read({"answer": "never"}, truth=truth)) == "no_span"


def test_rec_reads_the_first_box():
    truth = instance("rec", media_type="image", box_frames=[0], boxes=[[10.0, 10, 50, 50]])
    assert read({"boxes": [[0, *BOX]]}, truth=truth)[0].tolist() == BOX
    assert read({"answer": None}, truth=truth)[0] is None
    assert bad(read({"answer": "there"}, truth=truth)) == "no_box"
    answer, problems = read({"boxes": [[0, float("nan"), 0, 1, 1]]}, truth=truth)
    assert isinstance(answer, Unreadable) and list(problems) == ["bad_box", "no_box"]


def test_qa_keeps_the_words():
    truth = instance("qa", options=["red", "blue"], answer="red")
    assert read({"answer": "(A)"}, truth=truth)[0] == "(A)"
    assert bad(read({"answer": 3}, truth=truth)) == "wrong_type"


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=8,
)
fields = st.dictionaries(
    st.sampled_from(["id", "answer", "begin_frame", "end_frame", "begin_s", "end_s", "boxes"]), junk, max_size=6
)


@settings(deadline=None, max_examples=150)
@given(fields, st.sampled_from(["stvg", "vtg", "rec", "qa"]))
def test_no_line_raises_and_every_answer_scores(line, task):
    extra = {"options": ["red", "blue"], "answer": "red"} if task == "qa" else {}
    truth = instance(task, **extra)
    answer, _ = read({"id": "q"} | line, truth=truth)
    [row] = score([truth], {} if answer == "absent" else {"q": answer})
    numbers = [value for value in row.values() if isinstance(value, float)]
    assert numbers and all(0 <= number <= 1 for number in numbers) and np.isfinite(numbers).all()
