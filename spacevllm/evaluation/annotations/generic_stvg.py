"""Your own spatio-temporal benchmark: one JSON object a line::

    {"id": "q1", "question": "the dog jumps", "fps": "30000/1001", "num_frames": 300, "width": 640, "height": 360,
     "begin_frame": 20, "end_frame": 45, "segment": [0, 200], "boxes": [[20, 12, 30, 99, 180], ...]}

Frames are 0-based and half-open, ``segment`` (the clip to look at, by default the whole video) too; boxes are
``[frame, x1, y1, x2, y2]`` in pixels. ``video`` may name the file; else the id does. Where several answers are right,
``more`` lists the others: ``{"track": 1, "begin_frame": 60, "end_frame": 80, "boxes": [...]}``, track 0 for the same
thing again, whose boxes may be left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from typing import Annotated, Any

from pydantic import Field, model_validator

from spacevllm.data.instance import Instance, TrueTube
from spacevllm.data.sources.base import (
    Count,
    Dropped,
    Row,
    SourceFiles,
    Text,
    convert_each,
    frame_span,
    lines,
    rate,
    video,
)

Frame = Annotated[int, Field(ge=0)]
Box = Annotated[list[float], Field(min_length=5, max_length=5)]


class _Further(Row):
    track: Frame
    begin_frame: Frame
    end_frame: Frame
    boxes: list[Box] = Field(default=[])


class _Line(Row):
    id: Text | int
    question: Text
    fps: float | str
    num_frames: Count
    width: Count
    height: Count
    begin_frame: Frame
    end_frame: Frame
    boxes: Annotated[list[Box], Field(min_length=1)]
    segment: Annotated[list[Frame], Field(min_length=2, max_length=2)] | None = None
    video: str = ""
    more: list[_Further] = Field(default=[])

    @model_validator(mode="after")
    def _check(self) -> _Line:
        if self.segment and not self.segment[0] < self.segment[1]:
            raise ValueError(f"segment {self.segment} is empty or inverted")
        for boxes in (self.boxes, *(tube.boxes for tube in self.more)):
            frames = [box[0] for box in boxes]
            if any(frame % 1 for frame in frames) or len(set(frames)) < len(frames):
                raise ValueError("boxes need whole frame numbers, each once")
        return self


def read(files: SourceFiles) -> Iterator[Instance | Dropped]:
    """Every line of the file."""
    rows = ((f"line {number}", line) for number, line in lines(files.annotations))
    return convert_each(files.annotations, rows, partial(_convert, files))


def _convert(files: SourceFiles, key: str, line: bytes) -> Instance:
    row = _Line.model_validate_json(line)
    fps = _rate(row.fps)
    segment = row.segment or (None, None)
    return Instance(
        id=f"generic_stvg/{row.id}",
        task="stvg",
        source="generic_stvg",
        split=files.split,
        media=files.media(row.video or str(row.id)),
        question=row.question,
        more=[
            TrueTube(tube.track, **frame_span(tube.begin_frame, tube.end_frame, fps, row.num_frames), **_boxes(tube))
            for tube in row.more
        ],
        **_boxes(row),
        segment_begin_frame=segment[0],
        segment_end_frame=segment[1],
        **video(fps, row.num_frames, row.width, row.height),
        **frame_span(row.begin_frame, row.end_frame, fps, row.num_frames),
    )


def _boxes(row: _Line | _Further) -> dict[str, Any]:
    boxes = sorted(row.boxes)
    return {"box_frames": [int(box[0]) for box in boxes], "boxes": [box[1:] for box in boxes]}


def _rate(value: float | str) -> Fraction:
    """Frames per second from a number or from ``"30000/1001"``."""
    try:
        fps = Fraction(value) if isinstance(value, str) else rate(value)
    except (ValueError, ZeroDivisionError):
        fps = Fraction(0)
    if fps <= 0:
        raise ValueError(f"fps {value!r} is no frame rate")
    return fps
