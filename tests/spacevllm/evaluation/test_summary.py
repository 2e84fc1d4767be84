"""Means and confidence intervals on rows counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from spacevllm.evaluation.summary import confidence, groups, means_and_counts


def stvg(viou, media="a.mp4", kind="declarative"):
    plain = {"task": "stvg", "status": "ok", "media": media, "sentence_type": kind}
    return plain | {"tiou": viou, "viou": viou, "gt_viou": viou}


def vtg(tiou):
    return {"task": "vtg", "status": "ok", "media": "a.mp4", "sentence_type": "", "tiou": tiou}


def rec(iou):
    return {"task": "rec", "status": "ok", "media": "a.jpg", "sentence_type": "", "iou": iou}


def test_viou_thresholds_are_strict():
    table = means_and_counts([stvg(v) for v in (0.3, 0.5, 0.500001, 0.300001)])
    assert (table["vIoU@0.3"], table["vIoU@0.5"]) == (0.75, 0.25)


def test_recall_and_accuracy_reach_their_threshold():
    table = means_and_counts([vtg(v) for v in (0.3, 0.5, 0.7, 0.699999)])
    assert (table["R1@0.3"], table["R1@0.5"], table["R1@0.7"]) == (1, 0.75, 0.25)
    assert means_and_counts([rec(v) for v in (0.5, 0.499999)])["acc@0.5"] == 0.5


def test_groups_keep_every_row():
    rows = [stvg(1.0), stvg(0.0, kind="interrogative"), stvg(0.5)]
    assert {name: len(group) for name, group in groups(rows).items()} == {"declarative": 2, "interrogative": 1}


def test_intervals_hold_the_mean_and_repeat():
    rng = np.random.default_rng(0)
    rows = [stvg(float(v), media=f"{i % 40}.mp4") for i, v in enumerate(rng.random(200))]
    found = confidence(rows)
    low, high = found["m_vIoU"]
    assert low < means_and_counts(rows)["m_vIoU"] < high
    assert (found["level"], found["n_videos"]) == (0.95, 40)
    assert found == confidence(rows) != confidence(rows, seed=1)
    # 200 values of variance 1/12: a standard error of 0.0204, so about ±0.04
    assert high - low == pytest.approx(0.08, abs=0.02)


def test_videos_are_drawn_whole():
    """Ten copies of every query about the same videos know no more."""
    rows = [stvg(float(i % 2), media=f"{i}.mp4") for i in range(30)]
    once, often = confidence(rows), confidence(rows * 10)
    assert often["m_vIoU"] == pytest.approx(once["m_vIoU"])


def test_one_video_has_an_interval_of_no_width():
    assert confidence([stvg(0.25), stvg(0.75)])["m_vIoU"] == [0.5, 0.5]


def test_free_text_alone_has_no_interval():
    row = {"task": "qa", "status": "not_scored", "media": "a.mp4", "sentence_type": "", "correct": None}
    assert confidence([row]) == {"level": 0.95, "n_videos": 0}
    assert means_and_counts([row])["accuracy"] == 0
