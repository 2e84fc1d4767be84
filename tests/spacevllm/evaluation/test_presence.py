"""AUROC and false alarms against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spacevllm.data.instance import Instance
from spacevllm.evaluation.presence import auroc, false_alarm_rate, presence_rows, summarise_presence
from spacevllm.span import Span
from spacevllm.tube import ABSENT, Tube

LISTS = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=30).filter(
    lambda rows: 0 < sum(there for _, there in rows) < len(rows)
)


@given(LISTS)
def test_auroc_is_the_share_of_pairs_in_order(rows):
    confidence, present = np.array([c for c, _ in rows]), np.array([p for _, p in rows])
    pairs = [(a > b) + (a == b) / 2 for a in confidence[present] for b in confidence[~present]]
    assert auroc(confidence, present) == pytest.approx(np.mean(pairs))


@given(LISTS, st.sampled_from([0.5, 0.95, 1.0]))
def test_false_alarms_at_the_highest_threshold_that_keeps_the_recall(rows, recall):
    confidence, present = np.array([c for c, _ in rows]), np.array([p for _, p in rows])
    keeping = [t for t in range(7) if (confidence[present] >= t).mean() >= recall]
    expected = (confidence[~present] >= max(keeping)).mean()
    assert false_alarm_rate(confidence, present, recall) == expected


def instance(name, there=True, task="stvg"):
    span = {"begin_s": 0.0, "end_s": 1.0, "begin_frame": 0, "end_frame": 8, "box_frames": [0], "boxes": [[0, 0, 9, 9]]}
    plain = {"source": "t", "split": "test", "media": "a.mp4", "media_type": "video", "question": "q"}
    return Instance(id=name, task=task, **plain, **(span if there else {"answer": ABSENT}))


def tube(confidence, words="From 0.00s to 1.00s.", present=True):
    span = Span(0, 1) if words.startswith("From") else None
    boxes = np.zeros((8 if span else 0, 4), np.float32)
    end = 8 if span else 0
    return Tube("a.mp4", "q", words, span, 0, end, boxes, 8.0, 8, 64, 48, 1.0, confidence, present=present)


def test_every_question_has_its_row():
    instances = [
        instance("there"),
        instance("lost"),
        instance("mumbled"),
        instance("gone", False),
        instance("no", False),
    ]
    answers = {
        "there": tube(0.9),
        "mumbled": tube(0.99, "hm"),
        "gone": tube(0.2, ABSENT, present=False),
        "no": tube(0.8),
    }
    rows = {row["id"]: row for row in presence_rows(instances, answers)}
    assert [rows[name]["confidence"] for name in ("there", "lost", "mumbled", "gone", "no")] == [0.9, -1, -1, 0.2, 0.8]
    summary = summarise_presence(list(rows.values()))
    assert (summary["n_present"], summary["n_absent"], summary["auroc"]) == (3, 2, pytest.approx(2 / 6))
    assert summary["false_alarms"] == 0.5
    assert summarise_presence([rows["there"]]) == {}


def test_an_absent_record_has_no_span():
    assert not instance("x", False).present and instance("x").present
    with pytest.raises(ValueError, match="there is a span or a box"):
        Instance(**(instance("x").to_row() | {"answer": ABSENT}))
    assert instance("x", there=False, task="vtg").begin_s is None
    assert Instance.from_row(instance("x", False).to_row()) == instance("x", False)
