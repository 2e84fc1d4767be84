from __future__ import annotations

from fractions import Fraction

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spacevllm.data.instance import FURTHER, SCHEMA, Instance, TrueTube, instance_id
from spacevllm.span import Span


def make(**changes) -> Instance:
    fields = {
        "id": "abc", "task": "stvg", "source": "test", "split": "train", "media": "media/a.mp4", "media_type": "video",
        "question": "the red circle", "begin_frame": 3, "end_frame": 6, "begin_s": 0.1001, "end_s": 0.2002,
        "box_frames": [3, 5], "boxes": [[1.0, 2.0, 3.5, 4.0], [2.0, 2.0, 4.0, 4.0]], "fps_num": 30000, "fps_den": 1001,
        "num_frames": 90, "width": 64, "height": 48, "duration_s": 3.003, "sentence_type": "interrogative",
        "segment_begin_frame": 0, "segment_end_frame": 60,
    }  # fmt: skip
    return Instance(**(fields | changes))


def other_thing() -> TrueTube:
    return TrueTube(1, 1.5, 2.5, 45, 75, [45, 74], [[5.0, 5.0, 9.0, 9.0]] * 2)


def twice(*further: TrueTube) -> Instance:
    """It happens again, with the same thing's boxes."""
    return make(more=[TrueTube(0, 1.0, 2.0, 30, 60), *further])


QA = make(
    id="qa", task="qa", begin_frame=None, end_frame=None, begin_s=None, end_s=None, box_frames=[], boxes=[],
    options=["yes", "no"], answer="no", segment_begin_frame=None, segment_end_frame=None,
)  # fmt: skip


def test_records_survive_parquet(tmp_path):
    records = [make(), QA, twice(), twice(other_thing())]
    pq.write_table(pa.Table.from_pylist([r.to_row() for r in records], schema=SCHEMA), tmp_path / "a.parquet")
    table = pq.read_table(tmp_path / "a.parquet")
    assert table.schema.equals(SCHEMA)
    assert [Instance.from_row(row) for row in table.to_pylist()] == records


def test_records_survive_pandas_batches():
    """Ray Data hands over numpy arrays where Arrow has lists."""
    frame = pa.Table.from_pylist([make().to_row(), twice().to_row()], schema=SCHEMA).to_pandas()
    assert Instance.from_row(frame.iloc[1].to_dict()) == twice()
    back = Instance.from_row(frame.iloc[0].to_dict())
    assert back == make()
    assert isinstance(back.box_frames, list) and isinstance(back.boxes[0], list)


def test_the_schema_has_a_column_for_every_field_and_no_other():
    assert [*make().to_row(), "more"] == SCHEMA.names  # which is left out where it is empty
    assert list(twice().to_row()) == SCHEMA.names and {*twice().to_row()["more"][0]} == {*FURTHER.names}


def test_other_columns_are_ignored_and_missing_ones_take_defaults():
    row = {k: v for k, v in make().to_row().items() if k not in ("options", "sentence_type")} | {"status": "ok"}
    assert Instance.from_row(row) == make(sentence_type="declarative")


def test_fps_is_exact():
    assert make().fps == Fraction(30000, 1001)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "count"}, "instance abc: task 'count' is none of stvg, vtg, rec, qa"),
        ({"box_frames": [3]}, "instance abc: box_frames and boxes differ in number"),
        ({"begin_s": None}, "instance abc: task stvg needs begin_s and end_s"),
        ({"task": "vtg", "end_s": None}, "task vtg needs begin_s and end_s"),
        ({"end_s": 0.05}, "instance abc: the span is empty or inverted"),
        ({"begin_s": -1.0}, "is empty or inverted"),
        ({"begin_s": float("nan")}, "is empty or inverted"),
        ({"boxes": [], "box_frames": []}, "task stvg needs boxes"),
        ({"task": "rec", "boxes": [], "box_frames": []}, "task rec needs boxes"),
        ({"media_type": "audio"}, "media_type 'audio' is none of video, image, text"),
        ({"media_type": "text"}, "a text with media"),
        ({"media": ""}, "a video without media"),
        ({"media_type": "text", "media": ""}, "task stvg needs a video or an image"),
        ({"duration_s": float("inf")}, "duration_s is negative or not finite"),
        ({"more": [TrueTube(0, 2.0, 2.0)]}, r"instance abc: more\[0\]: the span is empty or inverted"),
        ({"more": [TrueTube(0, 1.0, 2.0, 30)]}, "begin_frame and end_frame go together"),
        ({"more": [TrueTube(0, 1.0, 2.0), TrueTube(-1, 1.0, 2.0)]}, r"more\[1\]: track is below 0"),
        ({"more": [TrueTube(1, 1.0, 2.0)]}, "track 1 needs boxes"),
        ({"more": [TrueTube(0, 1.0, 2.0, box_frames=[3])]}, "box_frames and boxes differ in number"),
        ({"task": "rec", "more": [TrueTube(0, 1.0, 2.0)]}, "more tubes, but the task is rec"),
    ],
)
def test_a_record_that_contradicts_itself_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)


def test_an_older_row_has_no_further_tubes_and_one_that_lacks_a_time_says_so():
    row = twice().to_row()
    assert Instance.from_row(row | {"more": None}) == make() == Instance.from_row(make().to_row())
    with pytest.raises(ValueError, match="instance abc: more: a further tube needs end_s"):
        Instance.from_row(row | {"more": [{"track": 0, "begin_s": 1.0}]})


def test_all_right_answers_have_the_boxes_of_their_track():
    record = twice(other_thing(), TrueTube(1, 2.5, 3.1))
    assert [tube.track for tube in record.tubes] == [0, 0, 1, 1]
    assert [tube.boxes for tube in record.tubes] == [record.boxes] * 2 + [other_thing().boxes] * 2
    assert record.spans == [Span(0.1001, 0.2002), Span(1.0, 2.0)]
    assert record.ends_after_media and not twice().ends_after_media and QA.tubes == []
    assert twice(TrueTube(0, 2.5, 9.0)).spans[-1] == Span(2.5, 3.003)  # it ends with the video


def test_a_clip_that_begins_later_shifts_all_spans():
    seen = make(begin_s=1.0, end_s=1.5, more=[TrueTube(0, 2.0, 2.5), TrueTube(0, 0.1, 0.5)]).seen_from(0.75)
    assert (seen.begin_s, seen.end_s) == (0.25, 0.75)
    assert seen.more == [TrueTube(0, 1.25, 1.75)]  # what was over before is no part of it


def test_ids_depend_on_their_parts_alone():
    assert instance_id("a", 1) == instance_id("a", "1") != instance_id("a", 2)
    assert instance_id("ab", "c") != instance_id("a", "bc")
    assert len(instance_id("x")) == 16 and int(instance_id("x"), 16) >= 0
