"""Counts and histograms against numbers that are plain to see, however the rows are cut."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa

from spacevllm.data.instance import SCHEMA, Instance, TrueTube
from spacevllm.data.statistics import GRID, Histogram, Kind, Statistics


def records():
    video = {"media": "a.mp4", "media_type": "video", "fps_num": 10, "num_frames": 100, "width": 160, "height": 90,
             "duration_s": 10.0}  # fmt: skip
    yield Instance("a", "stvg", "s", "train", question="one two three", begin_s=2.0, end_s=6.0, box_frames=[20, 30],
                   boxes=[[0, 0, 80, 45], [150, 80, 160, 90]], **video)  # fmt: skip
    yield Instance("b", "vtg", "s", "val", question="one", begin_s=9.0, end_s=14.0, **video)
    yield Instance("c", "rec", "t", "train", media="c.png", media_type="image", question="x y", box_frames=[0],
                   boxes=[[0, 0, 10, 10]])  # fmt: skip


def table(rows):
    return pa.Table.from_pylist([row.to_row() for row in rows], schema=SCHEMA)


def test_statistics_do_not_depend_on_how_rows_are_cut():
    whole, cut = Statistics(), Statistics()
    whole.add(table(records()))
    for row in records():
        cut.add(table([row]))
    for one in (whole, cut):
        assert one.kinds == {Kind("stvg", "s", "train"): 1, Kind("vtg", "s", "val"): 1, Kind("rec", "t", "train"): 1}
        assert one.by_task("train") == {"stvg": 1, "rec": 1} and one.num_records == 3
        assert one.span_s.counts[[3, 4]].tolist() == [1, 1]  # 4 s, 5 s
        assert one.begin.counts[[2, 9]].tolist() == [1, 1] and one.end.counts[[6, 9]].tolist() == [1, 1]
        assert one.num_boxes == 2  # the picture's size is not known: its box has no share
        assert one.box_share.counts.sum() == 2 and one.box_share.counts[7] == 1  # a quarter
        assert one.centres.shape == GRID and one.centres[2, 4] == one.centres[8, 15] == 1


def test_further_tubes_count_and_older_tables_have_none():
    first = next(records())
    more = [TrueTube(0, 7.0, 8.0), TrueTube(1, 8.0, 10.0, box_frames=[80], boxes=[[0, 0, 16, 9]])]
    whole, older = Statistics(), Statistics()
    whole.add(table([*records(), replace(first, more=more)]))
    older.add(table([*records(), first]).drop_columns("more"))
    assert whole.num_records == older.num_records == 4
    assert (whole.span_s.counts - older.span_s.counts)[[1, 2]].tolist() == [1, 1]  # 1 s, 2 s
    assert whole.num_boxes - older.num_boxes == 1 and (whole.centres - older.centres)[0, 0] == 1


def test_a_histogram_keeps_what_lies_outside():
    histogram = Histogram((0, 1, 2))
    histogram.add(np.array([-1, 0, 1, 1.5, 9, np.nan]))
    assert histogram.counts.tolist() == [2, 3]
