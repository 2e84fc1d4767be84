"""HC-STVG, VidSTG, Charades-STA and RefCOCO: the published index conventions become ours."""

from __future__ import annotations

import json
import pickle

import pytest
from published_files import HCSTVG_V1, HCSTVG_V2, REFCOCO, coco_instances, vidor_file, vidstg_record, write_json

from spacevllm.config import ConfigError
from spacevllm.data.sources import SourceFiles, read


def one(found):
    [record] = found
    return record


def test_hcstvg_counts_frames_from_one(tmp_path):
    for name, source in (("hcstvg_v1", HCSTVG_V1), ("hcstvg_v2", HCSTVG_V2)):
        record = next(read(name, source.write(tmp_path, source.rows)))
        assert record.id == f"{name}/55_vfjywN5CN0Y.mp4"
        assert (record.begin_frame, record.end_frame) == (267, 273)
        assert (record.fps, record.num_frames, record.duration_s) == (30, 600, 20.0)
        assert (record.begin_s, record.end_s) == (8.9, 9.1)
        assert record.box_frames == list(range(267, 273))
        assert record.boxes[1] == [11, 20, 61, 100.5]
        assert (record.width, record.height, record.media) == (640, 360, "media/55_vfjywN5CN0Y.mp4")


def test_hcstvg_span_past_the_end_stays_as_annotated(tmp_path):
    clip = json.loads(json.dumps(HCSTVG_V1.rows[0]))
    clip[1]["img_num"] = 270
    record = one(read("hcstvg_v1", HCSTVG_V1.write(tmp_path, [clip])))
    assert (record.end_frame, record.num_frames, record.ends_after_media) == (273, 270, True)
    assert record.fps * 2 == 27  # 13.5


def test_vidstg_ends_are_exclusive_and_inclusive(tmp_path):
    vidor_file(tmp_path / "vidor", "7771650716")
    question = {"description": "who is there?", "type": "person", "target_id": 7}
    records = [vidstg_record("7771650716", questions=[question])]
    files = SourceFiles(write_json(tmp_path / "val.json", records), "val", "/videos", boxes=tmp_path / "vidor")
    caption, question = read("vidstg", files)
    assert (caption.id, question.id) == ("vidstg/val/0/captions/0", "vidstg/val/0/questions/0")
    assert (caption.sentence_type, question.sentence_type) == ("declarative", "interrogative")
    assert (caption.begin_frame, caption.end_frame) == (10, 39)
    assert (caption.segment_begin_frame, caption.segment_end_frame) == (5, 48)
    assert (caption.fps_num, caption.fps_den, caption.media) == (30000, 1001, "/videos/7771650716.mp4")
    assert caption.box_frames == list(range(5, 48))
    assert caption.boxes[0] == [15, 20, 115, 140]
    assert question.box_frames == [*range(5, 20), *range(30, 48)]  # it is away in between


def test_vidstg_without_boxes_asks_when(tmp_path):
    files = SourceFiles(write_json(tmp_path / "val.json", [vidstg_record("1")]), "val")
    record = one(read("vidstg", files))
    assert (record.task, record.boxes, record.segment_end_frame) == ("vtg", [], 48)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"trajectories": None}, "no trajectories"),
        ({"trajectories": [[]] * 60}, "no box of the target in temporal_gt"),
        ({"trajectories": [[{"tid": 0, "bbox": {"xmin": 1, "ymin": 2, "xmax": 3}}]] * 60}, "ymax: Field required"),
        (
            {"trajectories": [[{"tid": 0, "bbox": {"xmin": 9, "ymin": 2, "xmax": 3, "ymax": 4}}]] * 60},
            "swapped corners",
        ),
    ],
)
def test_a_bad_vidor_file_costs_the_sentences_of_its_video(tmp_path, fields, reason):
    vidor_file(tmp_path / "vidor", "1", **fields)
    vidor_file(tmp_path / "vidor", "2")
    (tmp_path / "vidor/3.json").write_text("{")
    records = [vidstg_record(vid) for vid in "123"]
    files = SourceFiles(write_json(tmp_path / "val.json", records), "val", boxes=tmp_path / "vidor")
    first, second, third = read("vidstg", files)
    assert reason in first.reason
    assert second.id == "vidstg/val/1/captions/0"
    assert "cannot be read" in third.reason


def test_charades_span_past_the_end_stays_as_annotated(tmp_path):
    (tmp_path / "charades_sta_test.txt").write_text(
        "3MSZA 24.3 30.4##person turn a light on.\r\n\n3MSZA 0 1##a: b##c\n"
    )
    durations = write_json(tmp_path / "charades.json", {"3MSZA": {"duration": 30.1}})
    first, second = read("charades_sta", SourceFiles(tmp_path / "charades_sta_test.txt", "test", durations=durations))
    assert (first.id, second.id) == ("charades_sta/test/1", "charades_sta/test/3")
    assert (first.question, first.begin_s, first.end_s) == ("person turn a light on.", 24.3, 30.4)
    assert (first.duration_s, first.ends_after_media, second.ends_after_media) == (30.1, True, False)
    assert second.question == "a: b##c"
    unknown = next(read("charades_sta", SourceFiles(tmp_path / "charades_sta_test.txt", "test")))
    assert (unknown.duration_s, unknown.ends_after_media) == (0, False)


def test_refcoco_takes_split_and_image_from_the_files(tmp_path):
    files = REFCOCO.write(tmp_path, REFCOCO.rows)
    records = list(read("refcoco", files))
    assert [record.split for record in records] == ["train", "train", "testA"]
    assert records[0].id == "refcoco/16/160"
    assert records[0].media == "media/COCO_train2014_000000581857.jpg"  # without the ref's _16
    assert (records[0].boxes, records[0].box_frames) == ([[10.5, 20.25, 110.5, 70.25]], [0])
    assert [record.id for record in read("refcoco", files._replace(split="testA"))] == ["refcoco/18/180"]
    as_json = files._replace(annotations=write_json(tmp_path / "refs.json", REFCOCO.rows))
    assert list(read("refcoco", as_json)) == records


class Code:
    def __reduce__(self):
        return print, ("code from a file",)


@pytest.mark.parametrize("content", [pickle.dumps([Code()]), b"", b"no pickle", pickle.dumps({"a": 1})])
def test_a_pickle_of_anything_else_is_refused(tmp_path, content, capsys):
    (tmp_path / "refs(umd).p").write_bytes(content)
    files = SourceFiles(tmp_path / "refs(umd).p", instances=write_json(tmp_path / "instances.json", coco_instances()))
    with pytest.raises(ConfigError, match=r"refs\(umd\)\.p"):
        list(read("refcocog", files))
    assert not capsys.readouterr().out


@pytest.mark.parametrize("name", ["hcstvg_v1", "vidstg"])
@pytest.mark.parametrize("text", ["", "{", '"text"', "\udc80", "[" * 100_000])
def test_a_file_of_another_form_is_an_error(tmp_path, name, text):
    (tmp_path / "a.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError, match=r"a\.json"):
        list(read(name, SourceFiles(tmp_path / "a.json", "test")))


@pytest.mark.parametrize(("split", "records"), [("val", 8_956), ("test", 10_303)])
def test_published_vidstg(real, split, records):
    found = list(read("vidstg", SourceFiles(real(f"vidstg/{split}_annotations.json"), split)))
    assert len(found) == records and all(x.task == "vtg" for x in found)


@pytest.mark.parametrize(("split", "records", "past_the_end"), [("train", 12_408, 1_802), ("test", 3_720, 562)])
def test_published_charades_sta(real, split, records, past_the_end):
    files = SourceFiles(
        real(f"charades_sta/charades_sta_{split}.txt"), split, durations=real("charades_sta/charades.json")
    )
    found = list(read("charades_sta", files))
    assert (len(found), sum(x.ends_after_media for x in found)) == (records, past_the_end)
