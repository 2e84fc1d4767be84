"""The user's own: MOTChallenge text, ``frame,id,x,y,w,h,conf,class,visibility``, with questions about its tracks.

``--annotations`` is a sequence's folder (``seqinfo.ini`` with name, rate, length and size, and ``gt/gt.txt``), or
that ``gt.txt``. Frames are 1-based there. ``conf`` 0 marks what scorers ignore: those boxes are left out. A track has
no words of its own, so a questions file is needed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from configparser import ConfigParser, Error
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field

from spacevllm.config import ConfigError
from spacevllm.data.instance import Instance
from spacevllm.data.sources.base import Count, Dropped, Row, SourceFiles, Text, explain, from_xywh, lines, rate
from spacevllm.data.sources.tracks import Clip, Track, ask

WHERE = "your own: a folder with seqinfo.ini and gt/gt.txt, as motchallenge.net describes"
LAYOUT = "--annotations is a folder with seqinfo.ini and gt/gt.txt"
COLUMNS = ("frame", "id", "x", "y", "w", "h", "conf")


class _Texts(Row):
    model_config = ConfigDict(strict=False)


class _Sequence(_Texts):
    name: Text
    framerate: Annotated[float, Field(gt=0)]
    seqlength: Count
    imwidth: Count
    imheight: Count


class _Line(_Texts):
    frame: Count
    id: int
    x: float
    y: float
    w: float
    h: float
    conf: float = 1.0


def read(files: SourceFiles) -> Iterator[Instance | Dropped]:
    """Every question about one sequence."""
    gt = files.annotations / "gt/gt.txt" if files.annotations.is_dir() else files.annotations
    folder = gt.parent.parent if gt.parent.name == "gt" else gt.parent
    if not gt.exists():
        raise ConfigError(f"{gt}: no such file; {LAYOUT}")
    return ask("mot", files, _tracks(_clip(folder / "seqinfo.ini"), gt))


def _clip(path: Path) -> Clip:
    parser = ConfigParser(interpolation=None)  # a `%` is a `%`
    try:
        parser.read_string(path.read_text(encoding="utf-8-sig"))
        found = _Sequence.model_validate(dict(parser["Sequence"]))
    except OSError:
        raise ConfigError(f"{path}: no such file; {LAYOUT}") from None
    except (Error, KeyError, ValueError) as error:
        reason = explain(error) if isinstance(error, ValueError) else "it has no section [Sequence]"
        raise ConfigError(f"{path}: {reason}") from None
    return Clip(found.name, rate(found.framerate), found.seqlength, found.imwidth, found.imheight)


def _tracks(clip: Clip, gt: Path) -> Iterator[Track]:
    """All tracks: a file is sorted by frame, so none is whole before its end. A line that is wrong spoils its track."""
    boxes: dict[int, list[_Line]] = defaultdict(list)
    errors: dict[int, str] = {}
    for number, line in lines(gt):
        cells = dict(zip(COLUMNS, (cell.strip() for cell in line.decode(errors="replace").split(",")), strict=False))
        try:
            found = _Line.model_validate(cells)
            boxes[found.id].append(found)
        except ValueError as error:
            if cells.get("id", "").isdecimal():
                errors.setdefault(int(cells["id"]), explain(error))
            else:
                yield Track(clip, f"line {number}", "", [], [], explain(error))
    for id in sorted({*boxes, *errors}):
        seen = sorted((box for box in boxes[id] if box.conf != 0), key=lambda box: box.frame)
        corners = from_xywh([[box.x, box.y, box.w, box.h] for box in seen]).tolist()
        yield Track(clip, str(id), "", [box.frame - 1 for box in seen], corners, errors.get(id, ""))
