"""InternVid (Wang et al. 2024): machine-written captions of YouTube clips, one JSON object a line.

``{"YoutubeID": …, "Start_timestamp": "00:07:33.689", "End_timestamp": "00:07:51.085", "Caption": …}``. The span is
where a scene detector cut, so it is rough: material for synthesis. A question's id is
``internvid/<video>/<begin>-<end>``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import partial

from spacevllm.data.instance import Instance
from spacevllm.data.sources.base import Dropped, Row, SourceFiles, Text, convert_each, lines, time_span

PUBLISHED = {"train": 10_000_000}  # InternVid-10M-FLT, in its authors' round number
WHERE = "huggingface.co/datasets/OpenGVLab/InternVid (CC BY-NC-SA 4.0)"

_TIME = re.compile(r"(\d+):([0-5]?\d):([0-5]?\d(?:\.\d+)?)")


class _Record(Row):
    YoutubeID: Text
    Start_timestamp: str
    End_timestamp: str
    Caption: Text


def read(files: SourceFiles) -> Iterator[Instance | Dropped]:
    """Every line of one ``*.jsonl``."""
    rows = ((str(number), line) for number, line in lines(files.annotations))
    return convert_each(files.annotations, rows, partial(_convert, files))


def _convert(files: SourceFiles, key: str, line: bytes) -> Instance:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("the line is no JSON") from None
    record = _Record.model_validate(row)
    begin, end = record.Start_timestamp, record.End_timestamp
    return Instance(
        id=f"internvid/{record.YoutubeID}/{begin}-{end}",
        task="vtg",
        source="internvid",
        split=files.split,
        media=files.media(f"{record.YoutubeID}.mp4"),
        media_type="video",
        question=record.Caption,
        num_frames=0,
        **time_span(seconds(begin), seconds(end)),
    )


def seconds(timestamp: str) -> float:
    """``01:02:03.500`` → 3723.5. Raises ValueError for another form."""
    found = _TIME.fullmatch(timestamp)
    if not found:
        raise ValueError("a timestamp is not of the form hh:mm:ss.sss")
    hours, minutes, rest = found.groups()
    return round(int(hours) * 3600 + int(minutes) * 60 + float(rest), 3)
