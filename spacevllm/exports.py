"""Tubes in the forms that other tools open: CVAT for video 1.1, COCO-style video JSON (YouTube-VIS), MOTChallenge.

One track a thing, its question beside it, with a gap between two spans of it. Frames are 0-based but in MOT, boxes
pixels of the upright frame. ``spacevllm convert`` reads all three back.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element, SubElement, tostring

import numpy as np

from spacevllm.answer import Answer
from spacevllm.text import to_cell
from spacevllm.tube import Tube

LABEL = "tube"
CATEGORY = {"id": 1, "name": LABEL}
_XML_CANNOT = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # control characters
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")  # line ends among them: seqinfo.ini has a key a line


def num_tracks(answers: Iterable[Answer]) -> int:
    return sum(1 for _ in _tracks(answers))


def cvat_xml(name: str, answers: Sequence[Answer]) -> str:
    """One video's ``annotations.xml``; question and confidence are attributes of each box.

    Args:
        name: of the video file. answers: at least one, all about this video; those without a span have no boxes.
    """
    root = Element("annotations")
    SubElement(root, "version").text = "1.1"
    _cvat_meta(SubElement(root, "meta"), name, answers[0].best)
    for number, tubes in enumerate(_tracks(answers)):
        track = SubElement(root, "track", {"id": str(number), "label": LABEL, "source": "auto"})
        boxes = _boxes(tubes)
        for frame, (tube, box) in boxes.items():
            _cvat_box(track, tube, frame, box, outside=False)
            if frame + 1 < tube.num_frames and frame + 1 not in boxes:  # without it the last box would stay
                _cvat_box(track, tube, frame + 1, tube.boxes[frame - tube.begin_frame].tolist(), outside=True)
    return tostring(root, encoding="utf-8", xml_declaration=True).decode() + "\n"


def mot_files(name: str, answers: Sequence[Answer]) -> dict[str, str]:
    """One sequence: ``seqinfo.ini``, ``gt/gt.txt`` and, as MOT has no words, ``questions.csv``, a line a tube; tracks
    count from 1."""
    name = _CONTROL.sub(" ", name)
    first, tracks = answers[0].best, list(enumerate(_tracks(answers), start=1))
    info = {
        "name": name,
        "imDir": "img1",
        "frameRate": int(first.fps) if first.fps.is_integer() else first.fps,  # many readers expect an integer
        "seqLength": first.num_frames,
        "imWidth": first.width,
        "imHeight": first.height,
        "imExt": ".jpg",
    }
    rows = [
        (frame + 1, number, *_xywh(box), 1, 1, 1)
        for number, tubes in tracks
        for frame, (_, box) in _boxes(tubes).items()
    ]
    asked = [
        (number, tube.question, name, tube.begin_frame, tube.end_frame, tube.confidence)
        for number, tubes in tracks
        for tube in tubes
    ]
    return {
        "seqinfo.ini": "[Sequence]\n" + "".join(f"{key}={value}\n" for key, value in info.items()),
        "gt/gt.txt": _csv(sorted(rows)),  # by frame, as the format wants it
        "questions.csv": _csv([("track", "question", "video", "begin_frame", "end_frame", "confidence"), *asked]),
    }


def coco_video(video_id: int, answers: Sequence[Answer]) -> dict[str, Any]:
    """One video's entry of ``videos``: a track has one box or null a frame, see ``coco_annotations``."""
    first = answers[0].best
    size = {"width": first.width, "height": first.height, "length": first.num_frames}
    return {"id": video_id, "file_name": first.video, "fps": first.fps, **size}


def coco_annotations(video_id: int, first_id: int, answers: Iterable[Answer]) -> Iterator[dict[str, Any]]:
    """Its entries of ``annotations``; ``score`` is the confidence of a thing's surest tube."""
    for number, tubes in enumerate(_tracks(answers), start=first_id):
        boxes: list[list[float] | None] = [None] * tubes[0].num_frames
        for frame, (_, box) in _boxes(tubes).items():
            boxes[frame] = _xywh(box)
        areas = [None if box is None else round(box[2] * box[3], 2) for box in boxes]
        about = {"question": tubes[0].question, "score": max(t.confidence for t in tubes), "iscrowd": 0}
        yield {"id": number, "video_id": video_id, "category_id": 1, "bboxes": boxes, "areas": areas, **about}


def _tracks(answers: Iterable[Answer]) -> Iterator[list[Tube]]:
    """The tubes of each thing, in order of time."""
    for answer in answers:
        yield from answer.tracks()


def _boxes(tubes: Iterable[Tube]) -> dict[int, tuple[Tube, list[float]]]:
    """Of one thing: frame → tube and corners, in hundredths of a pixel, in order; where spans overlap, the first's."""
    found: dict[int, tuple[Tube, list[float]]] = {}
    for tube in tubes:
        corners = np.round(tube.boxes.astype(np.float64), 2).tolist()
        for frame, box in zip(range(tube.begin_frame, tube.end_frame), corners, strict=True):
            found.setdefault(frame, (tube, box))
    return found


def _xywh(box: Sequence[float]) -> list[float]:
    x1, y1, x2, y2 = box
    return [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)]


def _csv(rows: Iterable[Sequence[Any]]) -> str:
    out = io.StringIO()
    harmless = ([to_cell(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)
    csv.writer(out, lineterminator="\n").writerows(harmless)
    return out.getvalue()


def _cvat_meta(meta: Element, name: str, tube: Tube) -> None:
    task = SubElement(meta, "task")
    plain = {"name": name, "size": tube.num_frames, "mode": "interpolation"}
    _leaves(task, plain | {"start_frame": 0, "stop_frame": tube.num_frames - 1})
    label = SubElement(SubElement(task, "labels"), "label")
    _leaves(label, {"name": LABEL})
    attributes = SubElement(label, "attributes")
    for attribute in ("question", "confidence"):
        fields = {"name": attribute, "mutable": False, "input_type": "text", "default_value": "", "values": ""}
        _leaves(SubElement(attributes, "attribute"), fields)
    _leaves(SubElement(task, "original_size"), {"width": tube.width, "height": tube.height})
    _leaves(task, {"source": name})


def _cvat_box(track: Element, tube: Tube, frame: int, box: Sequence[float], outside: bool) -> None:
    corners = dict(zip(("xtl", "ytl", "xbr", "ybr"), map(str, box), strict=True))
    flags = {"frame": str(frame), "keyframe": "1", "outside": str(int(outside)), "occluded": "0"}
    element = SubElement(track, "box", flags | corners | {"z_order": "0"})
    for name, text in (("question", tube.question), ("confidence", f"{tube.confidence:.4f}")):
        SubElement(element, "attribute", {"name": name}).text = _XML_CANNOT.sub(" ", text)


def _leaves(parent: Element, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        SubElement(parent, name).text = _XML_CANNOT.sub(" ", str(value))
