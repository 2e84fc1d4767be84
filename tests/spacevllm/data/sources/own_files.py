"""Small files as people make them with CVAT, COCO tools and trackers, and what can be wrong in each of them."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

from published_files import NAN, Published, cut, instead, put, write_json

from spacevllm.data.sources import SourceFiles


def cvat_xml(tracks: list[str], meta: str = "") -> str:
    meta = meta or (
        "<task><name>gate</name><size>60</size><mode>interpolation</mode><start_frame>0</start_frame>"
        "<stop_frame>59</stop_frame><original_size><width>640</width><height>360</height></original_size>"
        "<source>gate.mp4</source></task>"
    )
    return f'<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version><meta>{meta}</meta>' + (
        "".join(tracks) + "</annotations>"
    )


def cvat_track(id: int, text: str = "") -> str:
    """Boxes on frames 10 to 12, and one that is outside."""
    box = (
        '<box frame="{}" outside="{}" occluded="0" keyframe="1" xtl="{}" ytl="20.5" xbr="110.0" ybr="140" z_order="0">'
    )
    attribute = f'<attribute name="question">{text}</attribute>' if text else ""
    boxes = "".join(box.format(f, int(f == 13), 10.0 + f) + attribute + "</box>" for f in range(10, 14))
    return f'<track id="{id}" label="person" source="manual">{boxes}</track>'


def _write_cvat(folder: Path, rows: list[Any]) -> SourceFiles:
    (folder / "annotations.xml").write_text(cvat_xml(rows))
    return SourceFiles(folder / "annotations.xml", "train", fps=Fraction(30))


def _swap(old: str, new: str) -> Callable[[Any], Any]:
    def change(row):
        assert old in row
        return row.replace(old, new, 1)

    return change


CVAT = Published(
    rows=[cvat_track(0), cvat_track(1), cvat_track(2)],
    write=_write_cvat,
    bad=[
        (_swap(' xtl="21.0"', ""), "xtl: Field required"),
        (_swap('xtl="21.0"', 'xtl="nan"'), "xtl: Input should be a finite number"),
        (_swap('xtl="21.0"', 'xtl="left"'), "xtl: Input should be a valid number"),
        (_swap('xtl="21.0"', 'xtl="121.0"'), "swapped corners"),
        (_swap('xbr="110.0"', 'xbr="2000"'), "outside the frame"),
        (_swap('frame="11"', 'frame="10"'), "two boxes on one frame"),
        (_swap('frame="10"', 'frame="-1"'), "frame: "),
        (lambda row: row.replace('outside="0"', 'outside="1"'), "the track has no box"),
        (_swap('label="person"', ""), "neither a question nor a label"),
        (lambda row: row.replace('frame="1', 'frame="9'), "begins after the end of the video"),
    ],
)


def _tube(id: int) -> dict[str, Any]:
    boxes = [None, *([10.0 + i, 20, 50, 80.5] for i in range(4)), None]
    return {"id": id, "video_id": 1, "category_id": 1, "bboxes": boxes, "segmentations": [], "areas": [], "iscrowd": 0}


def _write_tubes(folder: Path, rows: list[Any]) -> SourceFiles:
    names = [f"0043f083b5/{i:05d}.jpg" for i in range(6)]
    video = {"id": 1, "width": 640, "height": 360, "length": 6, "file_names": names, "fps": 6.0}
    whole = {"videos": [video], "annotations": rows, "categories": [{"id": 1, "name": "person"}]}
    return SourceFiles(write_json(folder / "instances_train.json", whole), "train")


COCO_VIDEO = Published(
    rows=[_tube(1), _tube(2), _tube(3)],
    write=_write_tubes,
    bad=[
        (cut("bboxes"), "bboxes: Field required"),
        (put("bboxes", 2, 1, NAN), "bboxes: Input should be a finite number"),
        (put("bboxes", 2, [1, 2, 3]), "bboxes: List should have at least 4 items"),
        (put("bboxes", 2, 2, -3), "swapped corners"),
        (put("bboxes", 2, 0, 640), "outside the frame"),
        (put("bboxes", [None] * 6), "the track has no box"),
        (put("bboxes", [None] * 7), "more than the video has frames"),
        (put("video_id", 5), "video_id is none of videos"),
        (put("category_id", 5), "category_id is none of categories"),
        (put("video_id", "1"), "video_id: Input should be a valid integer"),
        (instead("nonsense"), "Input should be"),
    ],
)

SEQINFO = "[Sequence]\nname=gate\nimDir=img1\nframeRate=30\nseqLength=60\nimWidth=640\nimHeight=360\nimExt=.jpg\n"


def _mot(track: int) -> list[str]:
    return [f"{frame},{track},{10 + frame},20.5,100,120,1,1,0.9" for frame in range(11, 14)]


def _write_mot(folder: Path, rows: list[Any]) -> SourceFiles:
    sequence = folder / "gate"
    (sequence / "gt").mkdir(parents=True, exist_ok=True)
    (sequence / "seqinfo.ini").write_text(SEQINFO)
    (sequence / "gt/gt.txt").write_text("".join(f"{line}\n" for row in rows for line in row))
    (folder / "questions.csv").write_text("track,question\n" + "".join(f"{t},who is it?\n" for t in (1, 2, 3)))
    return SourceFiles(sequence, "train", questions=folder / "questions.csv")


def _second(line: str) -> Callable[[Any], Any]:
    return lambda row: [row[0], line, row[2]]


MOT = Published(
    rows=[_mot(1), _mot(2), _mot(3)],
    write=_write_mot,
    bad=[
        (_second("12,2,22,20.5,100"), "h: Field required"),
        (_second("12,2,22,20.5,100,nan,1"), "h: Input should be a finite number"),
        (_second("12,2,22,20.5,-100,120,1"), "swapped corners"),
        (_second("12,2,640,20.5,100,120,1"), "outside the frame"),
        (_second("0,2,22,20.5,100,120,1"), "frame: Input should be greater than 0"),
        (_second("11,2,22,20.5,100,120,1"), "two boxes on one frame"),
        (_second("twelve,2,22,20.5,100,120,1"), "frame: Input should be a valid integer"),
        (instead([]), "there is no such track"),
        (lambda row: [line.replace(",1,1,0.9", ",0,1,0.9") for line in row], "the track has no box"),
        (lambda row: [line.replace("1", "7", 1) for line in row], "begins after the end of the video"),
    ],
    repeated=False,  # two boxes on a frame, see above
)

OWN = {"cvat": CVAT, "coco_video": COCO_VIDEO, "mot": MOT}
