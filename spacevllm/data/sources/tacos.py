"""TACoS (Regneri et al. 2013): sentences about cooking videos, spans in 0-based frames, end exclusive.

The release with ``timestamps``, ``sentences``, ``fps`` and ``num_frames`` a video has 9,790 / 4,436 / 4,001
sentences; papers count 10,146 train sentences of another one. Some sentences stand twice with one span: they were
written by two people. A question's id is ``tacos/<video>/<position>``, from 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import zip_longest
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
    frame_span,
    load_json,
    pairs,
    rate,
    video,
)

PUBLISHED = {"train": 9_790, "val": 4_436, "test": 4_001}
WHERE = "github.com/26hzhang/VSLNet, data/dataset/tacos (MIT)"


class _Video(Row):
    fps: Annotated[float, Field(gt=0)]
    num_frames: Count


class _Sentence(Row):
    timestamp: Annotated[list[int], Field(min_length=2, max_length=2)]
    sentence: Text


def read(files: SourceFiles) -> Iterator[Instance | Dropped]:
    """Every sentence of one ``{train,val,test}.json``."""
    sentences = _sentences(pairs(load_json(files.annotations, dict)))
    return convert_each(files.annotations, sentences, partial(_convert, files))


def _sentences(videos: Any) -> Iterator[tuple[str, tuple[Any, Any]]]:
    for name, row in videos:
        columns = [row.get(field) if isinstance(row, dict) else None for field in ("timestamps", "sentences")]
        spans, texts = (column if isinstance(column, list) else [] for column in columns)
        for i, (span, text) in enumerate(zip_longest(spans, texts)):
            yield f"{name}/{i}", (row, {"timestamp": span, "sentence": text})
        if not spans and not texts:
            yield name, (row, {"timestamp": columns[0], "sentence": columns[1]})


def _convert(files: SourceFiles, key: str, item: tuple[Any, Any]) -> Instance:
    asked, media = _Sentence.model_validate(item[1]), _Video.model_validate(item[0])
    fps = rate(media.fps)
    begin, end = asked.timestamp
    return Instance(
        id=f"tacos/{key}",
        task="vtg",
        source="tacos",
        split=files.split,
        media=files.media(key.rpartition("/")[0]),
        question=asked.sentence,
        **video(fps, media.num_frames, 0, 0),
        **frame_span(begin, end, fps, media.num_frames),
    )
