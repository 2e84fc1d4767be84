"""What the user's own forms share: boxes of tracked things, and questions about them.

Without a questions file every track is one question: its text is the track's own or its label, its span from the
first box to the last. With one (CSV with a header), every line is a question::

    track,question,video,begin_frame,end_frame
    7,the man in red while he waves,clip,120,180

``track`` and ``question`` are needed. ``video``: its name, with or without the suffix, where the annotations hold
several. ``begin_frame``, ``end_frame``: 0-based, end exclusive; empty or absent: from the first box to the last. What
has several answers lists them with ``;``: tracks (``7;9``), or the begins and ends of one track (``120;300``).
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import partial
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from spacevllm.config import ConfigError
from spacevllm.data.instance import Instance, TrueTube
from spacevllm.data.sources.base import (
    Dropped,
    Row,
    SourceFiles,
    Text,
    check_boxes,
    convert_each,
    explain,
    frame_span,
    is_absolute,
    video,
)
from spacevllm.text import from_cell

FPS_NEEDED = "frames per second are not known: give --fps"


class Clip(NamedTuple):
    """A video. name: of its file. fps: None where the annotations do not say."""

    name: str
    fps: Fraction | None
    num_frames: int
    width: int
    height: int


class Track(NamedTuple):
    """One thing. id: as questions name it. frames: 0-based. boxes: xyxy pixels, one a frame. error: what is wrong."""

    clip: Clip
    id: str
    text: str
    frames: list[int]
    boxes: list[list[float]]
    error: str = ""

    @property
    def place(self) -> str:
        """``<video>/<track>``; a ``/`` in the video's name is ``%2F`` there, so that the parts of an id are known."""
        video = _stem(self.clip.name).replace("%", "%25").replace("/", "%2F")
        return f"{video or '?'}/{self.id}"

    def is_in(self, video: str) -> bool:
        """Whether it is in the video of that name; of a broken track nobody may know."""
        return not video or not self.clip.name or _stem(video) == _stem(self.clip.name)


def _split(cell: object) -> object:
    return cell.split(";") if isinstance(cell, str) else cell


Frames = Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(_split)]


class _Line(Row):
    model_config = ConfigDict(strict=False)  # all of it is text

    track: Text
    question: Text
    video: str = ""
    begin_frame: Frames = ()
    end_frame: Frames = ()

    @property
    def tracks(self) -> list[str]:
        return [track.strip() for track in self.track.split(";")]

    @model_validator(mode="after")
    def _check(self) -> _Line:
        if len(set(self.tracks)) < len(self.tracks):
            raise ValueError("a track is listed twice")
        if len(self.tracks) > 1 and max(len(self.begin_frame), len(self.end_frame)) > 1:
            raise ValueError("several tracks and several spans in one line: only one of the two can be read")
        if len(self.begin_frame) != len(self.end_frame) and max(len(self.begin_frame), len(self.end_frame)) > 1:
            raise ValueError("begin_frame and end_frame list different numbers of spans")
        return self


def ask(source: str, files: SourceFiles, tracks: Iterator[Track]) -> Iterator[Instance | Dropped]:
    """One ``Instance`` or ``Dropped`` a question; ids are ``<source>/<video>/<track>[/<line of the questions>]``."""
    if files.questions is None:
        whole = ((track.place, ([track], None)) for track in tracks)
        yield from convert_each(files.annotations, whole, partial(_convert, source, files))
    else:
        yield from _ask_lines(source, files, files.questions, tracks)


def _ask_lines(
    source: str, files: SourceFiles, questions: Path, tracks: Iterator[Track]
) -> Iterator[Instance | Dropped]:
    asked: dict[str, dict[int, _Line]] = defaultdict(dict)  # by track, by number of the line
    found: dict[int, dict[str, Track]] = defaultdict(dict)  # by number of the line, by track
    for number, line in _lines(questions):
        if isinstance(line, _Line):
            for name in line.tracks:
                asked[name][number] = line
        else:
            yield Dropped(questions.name, f"line {number}", line)
    for track in tracks:
        mine = {number: line for number, line in asked[track.id].items() if track.is_in(line.video)}
        if track.error and not mine:  # nobody asks about it, but it is wrong all the same
            yield Dropped(files.annotations.name, track.place, track.error)
        lines = []
        for number, line in mine.items():
            del asked[track.id][number]
            found[number][track.id] = track
            if len(found[number]) == len(line.tracks):
                together = found.pop(number)
                lines.append((f"line {number}", ([together[name] for name in line.tracks], line)))
        yield from convert_each(questions, lines, partial(_convert, source, files))
    for number in sorted({number for lines in asked.values() for number in lines}):
        yield Dropped(questions.name, f"line {number}", "there is no such track, or not in that video")


def _convert(source: str, files: SourceFiles, key: str, item: tuple[Sequence[Track], _Line | None]) -> Instance:
    """The first track's first span is the record's own, the others come with it."""
    tracks, line = item
    track = tracks[0]
    clip, fps = track.clip, files.fps or track.clip.fps
    for one in tracks:
        if one.error or not one.frames:
            raise ValueError(one.error or "the track has no box")
    if fps is None:
        raise ValueError(FPS_NEEDED)
    if any(one.clip != clip for one in tracks):
        raise ValueError("its tracks are in different videos")
    (begin, end), *others = _spans(track, line)
    more = [TrueTube(0, **frame_span(*span, fps, clip.num_frames)) for span in others]
    for place, other in enumerate(tracks[1:], start=1):
        [span] = _spans(other, line)
        more.append(TrueTube(place, **frame_span(*span, fps, clip.num_frames), **_boxes(other)))
    number = key.removeprefix("line ")
    return Instance(
        id=f"{source}/{track.place}/{number}" if line else f"{source}/{track.place}",
        task="stvg",
        source=source,
        split=files.split,
        media=files.media(_file_name(clip.name)),
        question=line.question if line else track.text,
        sentence_type="interrogative" if line and line.question.endswith("?") else "declarative",
        more=more,
        **_boxes(track),
        **video(fps, clip.num_frames, clip.width, clip.height),
        **frame_span(begin, end, fps, clip.num_frames),
    )


def _spans(track: Track, line: _Line | None) -> list[tuple[int, int]]:
    frames = track.frames
    if any(a >= b for a, b in pairwise(frames)):
        raise ValueError("the track has two boxes on one frame, or frames out of order")
    begins = (line and line.begin_frame) or (frames[0],)
    ends = (line and line.end_frame) or (frames[-1] + 1,)
    spans = list(zip(begins, ends, strict=True))
    if not all(any(begin <= frame < end for frame in frames) for begin, end in spans):
        raise ValueError("the track has no box in the span, or the span is empty or inverted")
    return spans


def _boxes(track: Track) -> dict[str, Any]:
    boxes = check_boxes(np.array(track.boxes, np.float64), track.clip.width, track.clip.height)
    return {"box_frames": track.frames, "boxes": boxes}


def _lines(path: Path) -> Iterator[tuple[int, _Line | str]]:
    """Line number and the line, or why it cannot be read."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.DictReader(file)
        missing = {"track", "question"} - set(reader.fieldnames or ())
        if missing:
            raise ConfigError(f"{path}: its first line names no column {' and '.join(sorted(missing))}")
        try:
            for row in reader:
                yield reader.line_num, _line(row)
        except csv.Error as error:
            raise ConfigError(f"{path}, line {reader.line_num}: {error}") from None


def _line(row: dict[str | Any, str | Any]) -> _Line | str:
    try:
        return _Line.model_validate({name: from_cell(c) for name, c in row.items() if isinstance(name, str) and c})
    except ValueError as error:
        return explain(error)


def _file_name(name: str) -> str:
    return name if is_absolute(name) or PurePosixPath(name).suffix else f"{name}.mp4"


def _stem(name: str) -> str:
    """``clip.mp4`` → ``clip``; a name with dots in it keeps them."""
    return name[:-4] if name.lower().endswith((".mp4", ".mkv", ".avi", ".mov")) else name
