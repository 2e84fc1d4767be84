"""DiDeMo (Hendricks et al. 2017): moments of Flickr videos in segments of 5 seconds, marked by several people.

``times`` holds one [first, last] segment a person, both included: [1, 4] is 5 s to 25 s. The moment taken is the one
that agrees best with all of them (highest mean IoU, the earliest of equals). A video's last segment may be cut short,
by less than 5 s. A question's id is ``didemo/<split>/<annotation_id>``.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any

from pydantic import Field

from spacevllm.data.instance import Instance
from spacevllm.data.sources.base import (
    Count,
    Dropped,
    Row,
    SourceFiles,
    Text,
    convert_each,
    load_json,
    time_span,
)

PUBLISHED = {"train": 33_005, "val": 4_180, "test": 4_021}
WHERE = "github.com/LisaAnne/LocalizingMoments, data/{train,val,test}_data.json (BSD-2)"
SEGMENT_S, SEGMENTS = 5, 6

_Segment = Annotated[int, Field(ge=0, lt=SEGMENTS)]


class _Record(Row):
    annotation_id: int
    description: Text
    video: Text
    num_segments: Count
    times: Annotated[list[Annotated[list[_Segment], Field(min_length=2, max_length=2)]], Field(min_length=1)]


def read(files: SourceFiles) -> Iterator[Instance | Dropped]:
    """Every description of one ``*_data.json``."""
    records = enumerate(load_json(files.annotations, list))
    items = ((str(row.get("annotation_id", f"#{i}") if isinstance(row, dict) else f"#{i}"), row) for i, row in records)
    return convert_each(files.annotations, items, partial(_convert, files))


def _convert(files: SourceFiles, key: str, row: Any) -> Instance:
    record = _Record.model_validate(row)
    if any(first > last for first, last in record.times):
        raise ValueError("the span is empty or inverted")
    first, last = agreed(record.times)
    if first >= record.num_segments:
        raise ValueError("the span begins after the end of the video")
    return Instance(
        id=f"didemo/{files.split}/{key}",
        task="vtg",
        source="didemo",
        split=files.split,
        media=files.media(record.video),
        media_type="video",
        question=record.description,
        num_frames=0,
        **time_span(float(first * SEGMENT_S), float((last + 1) * SEGMENT_S)),
    )


def agreed(times: list[list[int]]) -> list[int]:
    """The [first, last] with the highest mean IoU with all ``times``; of equals the earliest, then the shortest."""

    def iou(a: list[int], b: list[int]) -> float:
        overlap = max(0, min(a[1], b[1]) - max(a[0], b[0]) + 1)
        return overlap / (a[1] - a[0] + b[1] - b[0] + 2 - overlap)

    return max(sorted(times), key=lambda one: sum(iou(one, other) for other in times))
