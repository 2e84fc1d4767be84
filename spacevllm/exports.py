"""Tubes in the forms that other tools open: CVAT for video 1.1, COCO-style video JSON (YouTube-VIS), MOTChallenge.

One track a tube, its question beside it. Frames are 0-based but in MOT, boxes pixels of the upright frame.
``spacevllm convert`` reads all three back.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element, SubElement, tostring

import numpy as np

from spacevllm.tube import Tube

LABEL = "tube"
CATEGORY = {"id": 1, "name": LABEL}
_XML_CANNOT = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # control characters


def cvat_xml(name: str, tubes: Sequence[Tube]) -> str:
    """One video's ``annotations.xml``; question and confidence are attributes of each box.

    Args:
        name: of the video file. tubes: at least one, all about this video; those without a span have no boxes.
    """
    root = Element("annotations")
    SubElement(root, "version").text = "1.1"
    _cvat_meta(SubElement(root, "meta"), name, tubes[0])
    for number, tube in enumerate(tubes):
        track = SubElement(root, "track", {"id": str(number), "label": LABEL, "source": "auto"})
        for frame, box in _boxes(tube):
            _cvat_box(track, tube, frame, box, outside=False)
        if 0 < tube.end_frame < tube.num_frames:  # without it the last box would stay to the end of the video
            _cvat_box(track, tube, tube.end_frame, tube.boxes[-1].tolist(), outside=True)
    return tostring(root, encoding="utf-8", xml_declaration=True).decode() + "\n"


def mot_files(name: str, tubes: Sequence[Tube]) -> dict[str, str]:
    """One sequence: ``seqinfo.ini``, ``gt/gt.txt`` and, as MOT has no words, ``questions.csv``; tracks count from 1."""
    first = tubes[0]
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
        for number, tube in enumerate(tubes, start=1)
        for frame, box in _boxes(tube)
    ]
    asked = [
        (number, tube.question, name, tube.begin_frame, tube.end_frame, tube.confidence)
        for number, tube in enumerate(tubes, start=1)
    ]
    return {
        "seqinfo.ini": "[Sequence]\n" + "".join(f"{key}={value}\n" for key, value in info.items()),
        "gt/gt.txt": _csv(sorted(rows)),  # by frame, as the format wants it
        "questions.csv": _csv([("track", "question", "video", "begin_frame", "end_frame", "confidence"), *asked]),
    }


def coco_video(video_id: int, tubes: Sequence[Tube]) -> dict[str, Any]:
    """One video's entry of ``videos``: a track has one box or null a frame, see ``coco_annotations``."""
    first = tubes[0]
    size = {"width": first.width, "height": first.height, "length": first.num_frames}
    return {"id": video_id, "file_name": first.video, "fps": first.fps, **size}


def coco_annotations(video_id: int, first_id: int, tubes: Iterable[Tube]) -> Iterator[dict[str, Any]]:
    """Its entries of ``annotations``; ``score`` is the tube's confidence."""
    for number, tube in enumerate(tubes, start=first_id):
        boxes: list[list[float] | None] = [None] * tube.num_frames
        for frame, box in _boxes(tube):
            boxes[frame] = _xywh(box)
        areas = [None if box is None else round(box[2] * box[3], 2) for box in boxes]
        about = {"question": tube.question, "score": tube.confidence, "iscrowd": 0}
        yield {"id": number, "video_id": video_id, "category_id": 1, "bboxes": boxes, "areas": areas, **about}


def _boxes(tube: Tube) -> Iterator[tuple[int, list[float]]]:
    """Frame and corners, in hundredths of a pixel."""
    corners = np.round(tube.boxes.astype(np.float64), 2).tolist()
    yield from zip(range(tube.begin_frame, tube.end_frame), corners, strict=True)


def _xywh(box: Sequence[float]) -> list[float]:
    x1, y1, x2, y2 = box
    return [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)]


def _csv(rows: Iterable[Sequence[Any]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
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
