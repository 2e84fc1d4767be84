"""Scores of all right tubes, by hand; the scores of the best one stay what they are."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scoring_cases import instance, tube, unread_tube

from spacevllm.answer import Answer
from spacevllm.data.instance import TrueTube
from spacevllm.data.sources.base import SourceFiles
from spacevllm.evaluation.annotations import generic_stvg
from spacevllm.evaluation.prediction import Unreadable
from spacevllm.evaluation.predictions import Problems, read_predictions
from spacevllm.evaluation.scoring import evaluate, score
from spacevllm.evaluation.several import score_several, set_iou, summarise_several

FAR = [[100.0, 10.0, 140.0, 50.0]] * 20
AGAIN = TrueTube(0, 6.0, 7.0, 60, 70, list(range(60, 70)), [[10.0, 10.0, 50.0, 50.0]] * 10)
OTHER = TrueTube(1, 7.0, 9.0, 70, 90, list(range(70, 90)), FAR)
TRUTH = instance(more=[AGAIN, OTHER])


def test_the_union_of_spans_counts_nothing_twice():
    assert set_iou([(0, 2), (1, 4)], [(0, 4)]) == 1
    assert set_iou([(0, 1), (3, 4)], [(0, 2)]) == pytest.approx(1 / 3)
    assert set_iou([], [(0, 2)]) == set_iou([], []) == 0


def test_all_of_it_found():
    answer = Answer([tube(20, 40, confidence=0.9), tube(60, 70), tube(70, 90, FAR, track=1)])
    assert score_several(TRUTH, answer) == {"set_tIoU": 1, "best_tIoU": 1, "best_vIoU": 1, "recall@0.5": 1}


def test_what_is_missing_costs_its_share():
    alone = score_several(TRUTH, tube(20, 40))
    assert alone == pytest.approx({"set_tIoU": 20 / 50, "best_tIoU": 1 / 3, "best_vIoU": 1 / 3, "recall@0.5": 1 / 3})
    wrong_place = score_several(TRUTH, Answer([tube(20, 40, confidence=0.9), tube(60, 90)]))
    assert wrong_place == pytest.approx(
        {"set_tIoU": 1, "best_tIoU": (1 + 1 / 3 + 2 / 3) / 3, "best_vIoU": (1 + 1 / 3) / 3, "recall@0.5": 1 / 3}
    )
    for nothing in (None, unread_tube(), Unreadable("no span")):
        assert not any(score_several(TRUTH, nothing).values())


def test_spans_alone_are_scored_in_seconds():
    truth = replace(TRUTH, task="vtg", box_frames=[], boxes=[], more=[TrueTube(0, 6.0, 7.0)])
    found = {"set_tIoU": 1, "best_tIoU": 1, "recall@0.5": 1}
    assert score_several(truth, Answer([tube(20, 40), tube(60, 70)])) == found
    assert score_several(truth, (2.0, 4.0)) == pytest.approx({"set_tIoU": 2 / 3, "best_tIoU": 0.5, "recall@0.5": 0.5})


def test_the_table_has_them_beside_the_scores_of_the_best():
    truths = [instance(id="a"), replace(TRUTH, id="b")]
    answers = {"a": tube(20, 40), "b": Answer([tube(20, 40, confidence=0.9), tube(60, 70)])}
    summary, rows = evaluate(truths, answers)
    assert [row["viou"] for row in rows] == [1, 1]
    assert summary["several"]["stvg"]["n_queries"] == 1
    assert summary["several"]["stvg"]["set_tIoU"] == pytest.approx(30 / 50)
    assert "several" not in evaluate(truths[:1], {"a": answers["a"]})[0] and summarise_several(truths[:1], {}) == {}


BOXES = [[frame, 10, 10, 50, 50] for frame in (20, 60)]


@pytest.mark.parametrize(
    "line",
    [
        {"answer": "From 2.0s to 4.0s; from 6.0s to 7.0s.", "boxes": BOXES},
        {"spans": [[2.0, 4.0], [6.0, 7.0]], "boxes": BOXES},
        {"begin_frame": 20, "end_frame": 40, "boxes": BOXES, "more": [{"begin_s": 6.0, "end_s": 7.0}]},
        {"begin_frame": 20, "end_frame": 40, "boxes": BOXES[:1], "more": [{"spans": [[6, 7]], "boxes": BOXES[1:]}]},
    ],
)
@pytest.mark.parametrize("task", ["stvg", "vtg"])
def test_a_predictions_file_may_give_several(line, task):
    truth, problems = replace(TRUTH, task=task, more=[AGAIN]), Problems()
    answers = read_predictions([json.dumps({"id": "q"} | line)], {"q": truth}, problems)
    assert set(score_several(truth, answers["q"]).values()) == {1}
    assert score([truth], answers)[0]["tiou"] == 1 and problems.to_dict() == {}


@pytest.mark.parametrize(
    ("line", "kind", "tiou"),
    [
        ({"spans": 3}, "wrong_type", 0),
        ({"spans": [[2.0]]}, "wrong_type", 0),
        ({"spans": [[4.0, 2.0]]}, "inverted_span", 0),
        ({"spans": [[2.0, 4.0], [3.0, None]]}, "wrong_type", 0),
        ({"begin_s": 2.0, "end_s": 4.0, "more": {}}, None, 1),
        ({"more": [{"begin_s": 2.0, "end_s": 4.0}]}, "no_span", 0),
        ({"begin_s": 2.0, "end_s": 4.0, "more": [1]}, "wrong_type", 0),
        ({"answer": "From 2.0s to 4.0s, of the frames 400 to 900."}, "span_outside_video", 1),
    ],
)
def test_bad_lists_cost_their_query_and_a_span_outside_only_itself(line, kind, tiou):
    problems = Problems()
    answers = read_predictions([json.dumps({"id": "q"} | line)], {"q": TRUTH}, problems)
    assert list(problems.to_dict()) == ([kind] if kind else [])
    assert score([TRUTH], answers)[0]["tiou"] == tiou


def test_lines_of_one_s_own_benchmark_may_have_several(tmp_path):
    line = {"id": "q", "question": "every dog", "fps": 10, "num_frames": 100, "width": 200, "height": 100}
    line |= {"begin_frame": 20, "end_frame": 40, "boxes": [[20, 10, 10, 50, 50], [39, 10, 10, 50, 50]]}
    more = [{"track": 0, "begin_frame": 60, "end_frame": 70}]
    more += [{"track": 1, "begin_frame": 70, "end_frame": 90, "boxes": [[70, 100, 10, 140, 50]]}]
    path = tmp_path / "mine.jsonl"
    path.write_text(
        json.dumps(line | {"more": more}) + "\n" + json.dumps(line | {"more": [more[0] | {"end_frame": 60}]})
    )
    good, bad = generic_stvg.read(SourceFiles(path))
    assert [(t.track, t.begin_s, t.end_frame) for t in good.tubes] == [(0, 2.0, 40), (0, 6.0, 70), (1, 7.0, 90)]
    assert np.array_equal(good.tubes[2].boxes, [[100, 10, 140, 50]]) and bad.reason == "the span is empty or inverted"
