"""HC-STVG v1 and v2 (Tang et al. 2021): one sentence about a person in a clip of 20 seconds; its id is the file's name.

``st_frame`` is 1-based and ``bbox`` holds one x, y, w, h a frame from there on, so the span is
``[st_frame - 1, st_frame - 1 + len(bbox))``: that is what scorers use; ``ed_time`` disagrees with it by 0.3-0.4 s.
fps = ``img_num`` / 20. v1 and v2 share clips: no training on one and testing on the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from typing import Annotated, Any

from pydantic import Field

from spacevllm.data.instance import Instance
from spacevllm.data.sources.base import (
    Count,
    Dropped,
    Numbers4,
    Row,
    SourceFiles,
    Text,
    check_boxes,
    convert_each,
    frame_span,
    from_xywh,
    load_json,
    pairs,
    video,
)

CLIP_S = 20
PUBLISHED_V1 = {"train": 4_500, "test": 1_160}
PUBLISHED_V2 = {"train": 10_131, "val": 2_000, "test": 4_413}
WHERE = "github.com/tzhhhh123/HC-STVG (no licence stated)"


class _Record(Row):
    bbox: Annotated[list[Numbers4], Field(min_length=1)]
    st_time: float
    ed_time: float
    st_frame: Count
    img_num: Count


class _V1(_Record):
    caption: Text
    width: Count
    height: Count


class _V2(_Record):
    caption: Text = Field(alias="English")
    img_size: Annotated[list[Count], Field(min_length=2)]  # height, width and perhaps 3

    @property
    def width(self) -> int:
        return self.img_size[1]

    @property
    def height(self) -> int:
        return self.img_size[0]


def read_v1(files: SourceFiles) -> Iterator[Instance | Dropped]:
    """Every clip of one ``{train,test}.json``."""
    return _read(files, "hcstvg_v1", _V1)


def read_v2(files: SourceFiles) -> Iterator[Instance | Dropped]:
    """Every clip of one ``{train,val}_v2.json``."""
    return _read(files, "hcstvg_v2", _V2)


def _read(files: SourceFiles, source: str, schema: type[_V1] | type[_V2]) -> Iterator[Instance | Dropped]:
    clips = pairs(load_json(files.annotations, dict))
    return convert_each(files.annotations, clips, partial(_convert, files, source, schema))


def _convert(files: SourceFiles, source: str, schema: type[_V1] | type[_V2], key: str, row: Any) -> Instance:
    record = schema.model_validate(row)
    if not record.st_time < record.ed_time:
        raise ValueError("the span is empty or inverted: st_time is not before ed_time")
    fps = Fraction(record.img_num, CLIP_S)
    begin = record.st_frame - 1
    end = begin + len(record.bbox)
    return Instance(
        id=f"{source}/{key}",
        task="stvg",
        source=source,
        split=files.split,
        media=files.media(key),
        question=record.caption,
        box_frames=list(range(begin, end)),
        boxes=check_boxes(from_xywh(record.bbox), record.width, record.height),
        **video(fps, record.img_num, record.width, record.height),
        **frame_span(begin, end, fps, record.img_num),
    )
