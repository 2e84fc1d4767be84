"""What all sources share: what they read, what they give, and the checks by which a bad row costs itself alone.

A source is a generator over annotations: one ``Instance`` or one ``Dropped`` for each question that they hold.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from spacevllm.config import ConfigError
from spacevllm.data.instance import Instance

T = TypeVar("T")

INSIDE = 0.5  # share of a box's area; annotators draw somewhat over the border, a box mostly outside is an error


class Row(BaseModel):
    """Base of the published files' schemas: no conversion of types, no NaN; fields that nobody reads are ignored."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="ignore", frozen=True)


Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Count = Annotated[int, Field(gt=0)]
Numbers4 = Annotated[list[float], Field(min_length=4, max_length=4)]


class SourceFiles(NamedTuple):
    """What a source reads: local paths.

    Attributes:
        annotations: the published file, or a folder for sources that consist of many.
        split: of the records; ``""`` where the source says it itself.
        media_root: put before the media's name: a path relative to the data set's folder, or an absolute path or URI.
        boxes, instances, durations, questions: further files of some sources, see ``Source.takes``.
        fps: frames per second where the file does not say.
    """

    annotations: Path
    split: str = ""
    media_root: str = "media"
    boxes: Path | None = None
    instances: Path | None = None
    durations: Path | None = None
    questions: Path | None = None
    fps: Fraction | None = None

    def media(self, name: str) -> str:
        """``name`` below the root; an absolute path or URL needs none."""
        if is_absolute(name):
            return name
        return f"{self.media_root.rstrip('/')}/{name}" if self.media_root else name


class Dropped(NamedTuple):
    """A question that became no record. file: its name; key: the question's place in it; reason: in words."""

    file: str
    key: str
    reason: str


class Source(NamedTuple):
    """One data set that can be converted.

    Attributes:
        read: one ``Instance`` or ``Dropped`` a question.
        published: questions in each published split, to hold ``read`` against.
        where: where its files are to be had, and under which licence.
        needs, takes: fields of ``SourceFiles`` beside ``annotations`` that it must or may have.
        split: where neither the user nor the file's name says it; ``""``: that is an error, ``"*"``: the file says it.
        many_files: of the user's own, converted one by one; the ids of each begin with ``<source>/<file or video>/``.
    """

    read: Callable[[SourceFiles], Iterator[Instance | Dropped]]
    published: Mapping[str, int]
    where: str
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    split: str = ""
    many_files: bool = False


def is_absolute(name: str) -> bool:
    """Whether it is an absolute path or a URL."""
    return name.startswith("/") or "://" in name


def convert_each(
    file: Path, items: Iterable[tuple[str, T]], convert: Callable[[str, T], Instance]
) -> Iterator[Instance | Dropped]:
    """``convert(key, item)`` of every item; one that raises ValueError is dropped with what it says."""
    for key, item in items:
        try:
            yield convert(key, item)
        except (ValueError, OverflowError) as error:
            yield Dropped(file.name, key, explain(error))


def explain(error: Exception) -> str:
    """One line without positions, so that equal causes count together: ``bbox: Input should be a finite number``."""
    if not isinstance(error, ValidationError):
        return " ".join(str(error).split())
    first = error.errors()[0]
    field = ".".join(part for part in first["loc"] if isinstance(part, str))
    return f"{field}: {first['msg']}" if field else str(first["msg"])


def load_json(path: Path, kind: type[T]) -> T:
    """The whole file; keys that an object repeats are kept apart, see ``pairs``.

    Raises:
        ConfigError: no JSON, or its outermost value is no ``kind`` (list or dict).
    """
    try:
        value = json.loads(path.read_bytes(), object_pairs_hook=_Repeated.unless_unique)
    except (ValueError, RecursionError) as error:  # of JSON or of UTF-8
        raise ConfigError(f"{path} is no JSON: {' '.join(str(error).split())}") from None
    if not isinstance(value, kind):
        raise ConfigError(f"{path}: expected a JSON {kind.__name__}, found a {type(value).__name__}")
    return value


def pairs(value: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    """Items of a JSON object as they stand in the file, repeated keys too."""
    return value.all if isinstance(value, _Repeated) else value.items()


class _Repeated(dict[str, Any]):
    """A JSON object that has a key twice; ``all`` holds every pair."""

    all: list[tuple[str, Any]]

    @classmethod
    def unless_unique(cls, found: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(found)
        if len(value) == len(found):
            return value
        repeated = cls(value)
        repeated.all = found
        return repeated


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Number (from 1) and bytes of every line that is not blank, one at a time."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if line.strip():
                yield number, line


@lru_cache
def rate(fps: float) -> Fraction:
    """The rational frame rate that an annotated float stands for: 29.97002997002997 → 30000/1001.

    It is the same float when divided out, so scorers that use the float see no difference.
    """
    near = Fraction(fps).limit_denominator(1001)
    return near if float(near) == fps else Fraction(str(fps))


def frame_span(begin: int, end: int, fps: Fraction, num_frames: int) -> dict[str, Any]:
    """Fields of ``Instance`` for frames ``[begin, end)``, 0-based. It may end after the video, as some annotations do.

    Raises:
        ValueError: it is empty or inverted, or begins outside the video.
    """
    _check_span(begin, end, num_frames)
    return {"begin_frame": begin, "end_frame": end, "begin_s": float(begin / fps), "end_s": float(end / fps)}


def time_span(begin_s: float, end_s: float, duration_s: float = 0.0) -> dict[str, Any]:
    """The same for seconds; ``duration_s`` 0: unknown."""
    _check_span(begin_s, end_s, duration_s or end_s)
    return {"begin_s": begin_s, "end_s": end_s}


def _check_span(begin: float, end: float, stop: float) -> None:
    if not (math.isfinite(begin) and math.isfinite(end)):
        raise ValueError("the span is not finite")
    if not begin < end:
        raise ValueError("the span is empty or inverted")
    if begin < 0:
        raise ValueError("the span begins before the video")
    if begin >= stop:
        raise ValueError("the span begins after the end of the video")


def video(fps: Fraction, num_frames: int, width: int, height: int) -> dict[str, Any]:
    """Fields of ``Instance`` for a video whose frames were counted."""
    return {
        "media_type": "video",
        "fps_num": fps.numerator,
        "fps_den": fps.denominator,
        "num_frames": num_frames,
        "width": width,
        "height": height,
        "duration_s": float(num_frames / fps),
    }


def check_boxes(boxes: np.ndarray, width: int, height: int) -> list[list[float]]:
    """(K, 4) xyxy pixels as annotated. Who draws, learns or scores them clamps them to the frame.

    Raises:
        ValueError: a box has no area, or less than half of it is in the frame.
    """
    faults = box_faults(boxes, np.array([[width, height]]))
    for reason, found in faults.items():
        if found.any():
            raise ValueError(reason)
    return boxes.tolist()


def box_faults(boxes: np.ndarray, frame: np.ndarray) -> dict[str, np.ndarray]:
    """What can be wrong with boxes (K, 4) xyxy → (K,) bool, which have it. frame: (K or 1, 2) width and height, 0 where
    they are not known."""
    size = boxes[:, 2:] - boxes[:, :2]
    flat = ~(size > 0).all(axis=1) | ~np.isfinite(boxes).all(axis=1)
    edge = np.where(frame > 0, frame, np.inf)
    inside = np.minimum(boxes[:, 2:], edge) - np.maximum(boxes[:, :2], 0)
    outside = ~flat & (inside.clip(min=0).prod(axis=1) < INSIDE * size.prod(axis=1))
    return {"a box without area or with swapped corners": flat, "a box outside the frame": outside}


def from_xywh(boxes: list[list[float]]) -> np.ndarray:
    """(K, 4) x, y, w, h → (K, 4) float64 x1, y1, x2, y2."""
    array = np.array(boxes, np.float64).reshape(-1, 4)
    return np.concatenate([array[:, :2], array[:, :2] + array[:, 2:]], axis=1)
