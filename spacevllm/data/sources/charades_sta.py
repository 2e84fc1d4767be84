"""Charades-STA (Gao et al. 2017): ``3MSZA 24.3 30.4##person turn a light on.``, a sentence with its span in seconds.

A question's id is ``charades_sta/<split>/<line>``, lines counted from 1. 1,802 train and 562 test rows end after
their video does. They stay as annotated: benchmarks score against that. ``Instance.ends_after_media`` tells them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from typing import Annotated

from pydantic import Field

from spacevllm.data.instance import Instance
from spacevllm.data.sources.base import Dropped, Row, SourceFiles, convert_each, lines, load_json, time_span

PUBLISHED = {"train": 12_408, "test": 3_720}
WHERE = "github.com/jiyanggao/TALL; charades.json with durations: github.com/26hzhang/VSLNet (MIT)"

_LINE = re.compile(r"(\S+) +(\S+) +(\S+?)##\s*(\S.*)")


class _Video(Row):
    duration: Annotated[float, Field(gt=0)]


def read(files: SourceFiles) -> Iterator[Instance | Dropped]:
    """Every line of one ``charades_sta_*.txt``; ``files.durations``: ``charades.json``, else no duration is known."""
    durations = load_json(files.durations, dict) if files.durations else None
    rows = ((str(number), line) for number, line in lines(files.annotations))
    return convert_each(files.annotations, rows, partial(_convert, files, durations, set()))


def _convert(
    files: SourceFiles, durations: dict[str, object] | None, seen: set[bytes], key: str, line: bytes
) -> Instance:
    found = _LINE.fullmatch(line.decode().strip())
    if not found:
        raise ValueError("the line is not of the form VIDEO BEGIN END##SENTENCE")
    if line.strip() in seen:
        raise ValueError("a line that occurs before")
    seen.add(line.strip())
    vid, begin, end, sentence = found.groups()
    duration_s = 0.0
    if durations is not None:
        duration_s = _Video.model_validate(durations.get(vid, {})).duration
    return Instance(
        id=f"charades_sta/{files.split}/{key}",
        task="vtg",
        source="charades_sta",
        split=files.split,
        media=files.media(f"{vid}.mp4"),
        media_type="video",
        question=sentence,
        num_frames=0,
        duration_s=duration_s,
        **time_span(float(begin), float(end), duration_s),
    )
