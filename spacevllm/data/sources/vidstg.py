"""VidSTG (Zhang et al. 2020): captions and questions about one thing of a VidOR video; its boxes come with VidOR.

``used_segment`` is the clip to look at (its end is inclusive), ``temporal_gt`` the target (its end is exclusive);
frames are 0-based. A sentence's id is ``vidstg/<split>/<record>/<captions|questions>/<position>``, counted from 0.
Without VidOR's boxes a sentence is a ``vtg`` question: when, but not where.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from spacevllm.config import ConfigError
from spacevllm.data.instance import Instance
from spacevllm.data.sources.base import (
    Count,
    Dropped,
    Row,
    SourceFiles,
    Text,
    check_boxes,
    convert_each,
    frame_span,
    load_json,
    rate,
    video,
)

SENTENCE_TYPES = {"captions": "declarative", "questions": "interrogative"}
PUBLISHED = {"train": 80_684, "val": 8_956, "test": 10_303}
WHERE = "github.com/Guaranteer/VidSTG-Dataset (no licence stated); boxes: VidOR, xdshang.github.io/docs/vidor.html"


class _Frames(Row):
    begin_fid: Annotated[int, Field(ge=0)]
    end_fid: int


class _Thing(Row):
    tid: int


class _Record(Row):
    vid: Text
    fps: Annotated[float, Field(gt=0)]
    frame_count: Count
    width: Count
    height: Count
    used_segment: _Frames
    temporal_gt: _Frames
    things: list[_Thing] = Field(alias="subject/objects")


class _Sentence(Row):
    description: Text
    target_id: int


class _Corners(Row):
    xmin: float
    ymin: float
    xmax: float
    ymax: float


_Item = tuple[Any, str, Any]  # record, captions or questions, sentence


def read(files: SourceFiles) -> Iterator[Instance | Dropped]:
    """Every sentence of one ``*_annotations.json``; ``files.boxes``: VidOR's annotation folder."""
    boxes = _VidorBoxes(files.boxes) if files.boxes else None
    sentences = _sentences(load_json(files.annotations, list))
    return convert_each(files.annotations, sentences, partial(_convert, files, boxes))


def _sentences(records: list[Any]) -> Iterator[tuple[str, _Item]]:
    for number, record in enumerate(records):
        fields = {kind: record.get(kind) if isinstance(record, dict) else None for kind in SENTENCE_TYPES}
        for kind, sentences in fields.items():
            if isinstance(sentences, list):
                yield from ((f"{number}/{kind}/{i}", (record, kind, sentence)) for i, sentence in enumerate(sentences))
            else:  # nobody knows how many
                yield f"{number}/{kind}", (record, kind, None)


def _convert(files: SourceFiles, boxes: _VidorBoxes | None, key: str, item: _Item) -> Instance:
    row, kind, sentence = item
    if sentence is None:
        raise ValueError(f"{kind}: no list of sentences")
    record, asked = _Record.model_validate(row), _Sentence.model_validate(sentence)
    segment, target = record.used_segment, record.temporal_gt
    if not segment.begin_fid <= target.begin_fid < target.end_fid <= segment.end_fid + 1 <= record.frame_count:
        raise ValueError("temporal_gt is empty, inverted or not inside used_segment, or that not inside the video")
    if asked.target_id not in {thing.tid for thing in record.things}:
        raise ValueError("target_id is none of subject/objects")
    fps = rate(record.fps)
    return Instance(
        id=f"vidstg/{files.split}/{key}",
        task="stvg" if boxes else "vtg",
        source="vidstg",
        split=files.split,
        media=files.media(f"{record.vid}.mp4"),
        question=asked.description,
        sentence_type=SENTENCE_TYPES[kind],
        segment_begin_frame=segment.begin_fid,
        segment_end_frame=segment.end_fid + 1,
        **video(fps, record.frame_count, record.width, record.height),
        **frame_span(target.begin_fid, target.end_fid, fps, record.frame_count),
        **(boxes.of(record, asked.target_id) if boxes else {}),
    )


class _VidorBoxes:
    """VidOR's annotation folder: ``**/<vid>.json``, whose ``trajectories`` hold a list of boxes for each frame."""

    def __init__(self, folder: Path) -> None:
        self.paths = {path.stem: path for path in folder.rglob("*.json")}
        if not self.paths:
            raise ConfigError(f"{folder} holds no VidOR annotations (*.json): give the folder that was unpacked")
        self._trajectories = lru_cache(maxsize=8)(self._load)  # several sentences ask about one video

    def of(self, record: _Record, tid: int) -> dict[str, Any]:
        """``box_frames`` and ``boxes`` of one thing within the segment."""
        frames, boxes = [], []
        segment = record.used_segment
        for frame in range(segment.begin_fid, segment.end_fid + 1):
            for box in self._at(record.vid, frame):
                if isinstance(box, dict) and box.get("tid") == tid:
                    corners = _Corners.model_validate(box.get("bbox"))
                    frames.append(frame)
                    boxes.append([corners.xmin, corners.ymin, corners.xmax, corners.ymax])
                    break
        target = record.temporal_gt
        if not any(target.begin_fid <= frame < target.end_fid for frame in frames):
            raise ValueError("VidOR has no box of the target in temporal_gt")
        return {"box_frames": frames, "boxes": check_boxes(np.array(boxes), record.width, record.height)}

    def _at(self, vid: str, frame: int) -> list[Any]:
        trajectories = self._trajectories(vid)
        found = trajectories[frame] if frame < len(trajectories) else []
        return found if isinstance(found, list) else []

    def _load(self, vid: str) -> list[Any]:
        if vid not in self.paths:
            raise ValueError("VidOR has no annotation of the video")
        try:
            found = load_json(self.paths[vid], dict).get("trajectories")
        except ConfigError as error:  # one video's file: costs its sentences, not the run
            raise ValueError(f"VidOR's annotation of the video cannot be read: {error}") from None
        if not isinstance(found, list):
            raise ValueError("VidOR's annotation of the video has no trajectories")
        return found
