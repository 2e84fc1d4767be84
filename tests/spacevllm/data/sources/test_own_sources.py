"""CVAT, COCO-style and MOT files of one's own, with and without a file of questions."""

from __future__ import annotations

from fractions import Fraction

import pytest
from own_files import COCO_VIDEO, CVAT, MOT, SEQINFO, cvat_track, cvat_xml
from published_files import put, write_json

from spacevllm.config import ConfigError
from spacevllm.data.sources import Dropped, SourceFiles, read


def write_questions(folder, *lines, header="track,question,video,begin_frame,end_frame"):
    path = folder / "questions.csv"
    path.write_text("".join(f"{line}\n" for line in (header, *lines)))
    return path


def test_cvat_tracks(tmp_path):
    files = CVAT.write(tmp_path, [cvat_track(4, "who waits at the gate?"), cvat_track(5)])
    asked, labelled = read("cvat", files)
    assert (asked.id, asked.media, asked.question) == ("cvat/gate/4", "media/gate.mp4", "who waits at the gate?")
    assert labelled.question == "person"
    assert (asked.begin_frame, asked.end_frame) == (10, 13)  # frame 13 is outside
    assert (asked.begin_s, asked.fps, asked.num_frames) == (1 / 3, 30, 60)
    assert asked.boxes[0] == [20.0, 20.5, 110.0, 140.0]
    lost = list(read("cvat", files._replace(fps=None)))
    assert {row.reason for row in lost} == {"frames per second are not known: give --fps"}


@pytest.mark.parametrize(
    "text",
    ["", "<a>", "no xml", "<annotations/>", cvat_xml([], "<project/>"), cvat_xml(["<track>"]), "<track id='1'/>"],
)
def test_no_cvat_for_video(tmp_path, text):
    (tmp_path / "annotations.xml").write_text(text)
    with pytest.raises(ConfigError, match=r"annotations\.xml"):
        list(read("cvat", SourceFiles(tmp_path / "annotations.xml", "train")))


def test_cvat_with_entities_is_refused_before_they_are_read(tmp_path):
    """70 kB of them would be 7 MB of text, and more by the square."""
    CVAT.write(tmp_path, [cvat_track(4, "&a;" * 1000)])
    [path] = tmp_path.rglob("*.xml")
    doctype = f"<!DOCTYPE annotations [<!ENTITY a '{'x' * 1000}'>]>"
    text = path.read_text().replace("<annotations>", f"{doctype}<annotations>", 1)
    path.write_text(text.replace("&amp;a;", "&a;"))
    with pytest.raises(ConfigError, match="has a DOCTYPE"):
        list(read("cvat", SourceFiles(path, "train")))


def test_coco_per_track(tmp_path):
    rows = [put("caption", "the person who sits down")(COCO_VIDEO.rows[0]), COCO_VIDEO.rows[1]]
    first, second = read("coco_video", COCO_VIDEO.write(tmp_path, rows))
    assert (first.id, first.media, first.question) == (
        "coco_video/0043f083b5/1", "media/0043f083b5.mp4", "the person who sits down",
    )  # fmt: skip
    assert (second.question, second.box_frames, second.fps) == ("person", [1, 2, 3, 4], 6)
    assert second.boxes[1] == [11.0, 20.0, 61.0, 100.5]


def coco_per_image():
    images = [{"id": 10 + i, "video_id": 1, "frame_id": i, "width": 640, "height": 360} for i in range(6)]
    rows = [
        {
            "id": 100 * track + i,
            "image_id": 10 + i,
            "instance_id": track,
            "category_id": 1,
            "bbox": [10 + i, 20, 50, 80],
        }
        for i in (3, 2, 1)
        for track in (1, 2)
    ]
    return {
        "videos": [{"id": 1, "name": "gate.mkv"}],
        "images": images,
        "annotations": rows,
        "categories": [{"id": 1, "name": "person"}],
    }


def test_coco_per_image(tmp_path):
    files = SourceFiles(write_json(tmp_path / "a.json", coco_per_image()), "train", fps=Fraction(6))
    first, second = read("coco_video", files)
    assert (first.id, first.media, first.num_frames) == ("coco_video/gate/1", "media/gate.mkv", 6)
    assert (second.box_frames, second.boxes[0], second.begin_frame) == ([1, 2, 3], [11, 20, 61, 100], 1)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (put("annotations", 0, "bbox", 0, float("nan")), "bbox: Input should be a finite number"),
        (put("annotations", 0, "image_id", 14), ""),
        (put("annotations", 0, "image_id", 12), "two boxes on one frame"),
        (put("annotations", 0, "image_id", 99), "image_id is none of images"),
        (put("annotations", 0, "instance_id", "one"), "instance_id: "),
        (put("annotations", 0, None), "Input should be"),
    ],
)
def test_a_bad_coco_box_is_said_once(tmp_path, change, reason):
    whole = change(coco_per_image())
    found = list(read("coco_video", SourceFiles(write_json(tmp_path / "a.json", whole), "train", fps=Fraction(6))))
    lost = [row.reason for row in found if isinstance(row, Dropped)]
    assert (reason in lost[0] if reason else not lost) and len(lost) <= 1
    assert "coco_video/gate/2" in {row.id for row in found if not isinstance(row, Dropped)}


@pytest.mark.parametrize("whole", [{}, {"videos": []}, {"videos": {}, "annotations": []}])
def test_no_coco_for_videos(tmp_path, whole):
    with pytest.raises(ConfigError, match=r"a\.json"):
        list(read("coco_video", SourceFiles(write_json(tmp_path / "a.json", whole), "train")))


def test_mot_counts_from_one_and_asks_from_a_file(tmp_path):
    files = MOT.write(tmp_path, MOT.rows)
    lines = (
        "1,who walks?,,,",
        "1,the man,gate.mp4,11,12",
        "2,the woman,street,,",
        "9,nobody,,,",
        ",what?,,,",
        "3,late,,40,50",
    )
    found = list(read("mot", files._replace(questions=write_questions(tmp_path, *lines))))
    records = [row for row in found if not isinstance(row, Dropped)]
    assert [(r.id, r.begin_frame, r.end_frame, r.sentence_type) for r in records] == [
        ("mot/gate/1/2", 10, 13, "interrogative"),
        ("mot/gate/1/3", 11, 12, "declarative"),
    ]
    assert (records[0].boxes[0], records[0].fps, records[0].media) == ([21, 20.5, 121, 140.5], 30, "media/gate.mp4")
    lost = {row.key: row.reason for row in found if isinstance(row, Dropped)}
    assert lost == {
        "line 4": "there is no such track, or not in that video",
        "line 5": "there is no such track, or not in that video",
        "line 6": "track: Field required",
        "line 7": "the track has no box in the span, or the span is empty or inverted",
    }
    by_file = read("mot", files._replace(annotations=files.annotations / "gt/gt.txt"))
    assert list(by_file) == found


def test_a_line_without_a_track_is_said(tmp_path):
    files = MOT.write(tmp_path, [*MOT.rows, ["nonsense"]])
    [dropped] = [row for row in read("mot", files) if isinstance(row, Dropped)]
    assert dropped.key == "gate/line 10"


@pytest.mark.parametrize(
    ("seqinfo", "reason"),
    [
        (None, "no such file"),
        ("", r"no section \[Sequence\]"),
        ("nonsense", r"no section \[Sequence\]"),
        (SEQINFO.replace("30", "fast"), "framerate: "),
        (SEQINFO.replace("imWidth=640\n", ""), "imwidth: Field required"),
    ],
)
def test_no_sequence(tmp_path, seqinfo, reason):
    files = MOT.write(tmp_path, MOT.rows)
    path = files.annotations / "seqinfo.ini"
    path.unlink() if seqinfo is None else path.write_text(seqinfo)
    with pytest.raises(ConfigError, match=f"seqinfo.ini.*{reason}"):
        list(read("mot", files))


def test_no_questions(tmp_path):
    files = MOT.write(tmp_path, MOT.rows)
    with pytest.raises(ConfigError, match="names no column track"):
        list(read("mot", files._replace(questions=write_questions(tmp_path, "1,2", header="id,question"))))


def test_questions_about_cvat_tracks(tmp_path):
    files = CVAT.write(tmp_path, CVAT.rows)._replace(questions=write_questions(tmp_path, "1,the guard,gate.mp4,,"))
    [record] = read("cvat", files)
    assert (record.id, record.question) == ("cvat/gate/1/2", "the guard")


def test_one_question_about_several_tracks_and_several_spans_of_one(tmp_path):
    questions = write_questions(
        tmp_path,
        "4;6,every person,,,",
        "5,who waves?,gate,10;12,11;13",
        "4;9,who is missing?,,,",
        "4;4,twice,,,",
        "4;5,both,,10;12,11;13",
        "5,uneven,,10;12,13",
    )
    files = CVAT.write(tmp_path, [cvat_track(n) for n in (4, 5, 6)])._replace(questions=questions)
    found = list(read("cvat", files))
    waves, every = (row for row in found if not isinstance(row, Dropped))
    assert (waves.id, waves.begin_frame, waves.end_frame) == ("cvat/gate/5/3", 10, 11)
    assert [(tube.track, tube.begin_frame, tube.end_s, tube.boxes) for tube in waves.more] == [(0, 12, 13 / 30, [])]
    assert (every.id, every.question, [tube.track for tube in every.more]) == ("cvat/gate/4/2", "every person", [1])
    assert every.more[0].boxes == every.boxes and every.more[0].box_frames == [10, 11, 12]
    assert [(row.key, row.reason) for row in found if isinstance(row, Dropped)] == [
        ("line 5", "Value error, a track is listed twice"),
        ("line 6", "Value error, several tracks and several spans in one line: only one of the two can be read"),
        ("line 7", "Value error, begin_frame and end_frame list different numbers of spans"),
        ("line 4", "there is no such track, or not in that video"),
    ]
