"""A predictions file of any model → answers to score. One JSON object a line::

    {"id": "q1", "answer": "From 2.0s to 4.5s.", "begin_frame": 20, "end_frame": 45, "boxes": [[20, 12, 30, 99, 180]]}

Frames are 0-based and half-open, boxes ``[frame, x1, y1, x2, y2]`` in pixels of the original frame, in the span or not.
The span is taken from the first of these that is there: ``begin_frame`` and ``end_frame``, ``begin_s`` and ``end_s``,
``spans``, the times in ``answer``. A bad line costs its own query and is counted with its reason.

An answer of several tubes lists the spans of one thing, ``"spans": [[2.0, 4.5], [8.0, 9.0]]`` in seconds, or further
tubes with a span each, ``"more": [{"begin_frame": 60, "end_frame": 80, "boxes": [...]}]``, whose boxes are the line's
own where they have none. The first span is the one that counts where only one does.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
from pydantic_core import from_json

from spacevllm.data.instance import Instance
from spacevllm.evaluation.metrics import Interval
from spacevllm.evaluation.prediction import Intervals, Prediction, Track, Unreadable, clean_track
from spacevllm.evaluation.scoring import Answer
from spacevllm.words.answers import parse_spans

FIELDS = ("answer", "begin_frame", "end_frame", "begin_s", "end_s", "boxes", "spans", "more")
_LARGEST = 2**53  # up to here a float64 holds every integer


class Problems:
    """What was wrong in a file: how often each kind, and the first case in words."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def add(self, where: str, kind: str, message: str) -> None:
        self._counts[kind] += 1
        self._first.setdefault(kind, f"{where}: {message}")

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """``{"unknown_id": {"count": 2, "first": "line 7: …"}, …}``, the most frequent first."""
        return {kind: {"count": n, "first": self._first[kind]} for kind, n in self._counts.most_common()}


class _Bad(ValueError):
    """A line that cannot be used, or only in part. kind: as it is counted."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


Note = Callable[[str, str], None]  # (kind, message) of something that did not cost the whole line


def read_predictions(
    lines: Iterable[bytes | str], instances: Mapping[str, Instance], problems: Problems
) -> dict[str, Answer | None]:
    """Answers by ``Instance.id``; what is wrong goes to ``problems``.

    Args:
        lines: of the file; blank ones are skipped.
        instances: by every id that a line may use for them.

    Returns:
        An entry for each query that has a line: an answer as ``scoring.score`` takes it, ``Unreadable`` where the line
        is bad, None where it says that there is no answer. Of two lines with one id the first counts.
    """
    answers: dict[str, Answer | None] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"line {number}"
        try:
            fields, instance = _fields(line, instances)
            if instance.id in answers:
                raise _Bad("duplicate_id", f"{fields['id']!r} has a line before, which counts")
        except _Bad as error:
            problems.add(where, error.kind, str(error))
            continue
        note = partial(problems.add, f"line {number} ({fields['id']})")
        if len(fields) > 1 and not fields.keys() & set(FIELDS):
            found = ", ".join(sorted(fields.keys() - {"id"}))
            note("unknown_fields", f"it has {found[:80]}, and none of {', '.join(FIELDS)}: it counts as missing")
        answers[instance.id] = _answer(fields, instance, note)
    return answers


def _fields(line: bytes | str, instances: Mapping[str, Instance]) -> tuple[dict[str, Any], Instance]:
    try:
        fields = from_json(line)  # twice as fast as json.loads
    except ValueError as error:  # of JSON or of UTF-8
        raise _Bad("not_json", str(error)) from None
    if not isinstance(fields, dict):
        raise _Bad("not_an_object", f"expected an object, found a {type(fields).__name__}")
    name = fields.get("id")
    if not isinstance(name, str | int) or isinstance(name, bool):
        raise _Bad("no_id", f"id is {name!r}, not a text")
    instance = instances.get(str(name))
    if instance is None:
        raise _Bad("unknown_id", f"no query has the id {name!r}")
    return fields, instance


def _answer(fields: Mapping[str, Any], instance: Instance, note: Note) -> Answer | None:
    try:
        text = fields.get("answer")
        if text is not None and not isinstance(text, str):
            raise _Bad("wrong_type", f"answer is a {type(text).__name__}, not a text")
        return _READERS[instance.task](fields, text, instance, note)
    except _Bad as error:
        note(error.kind, str(error))
        return Unreadable(str(error))


def _tube(fields: Mapping[str, Any], text: str | None, instance: Instance, note: Note) -> Prediction | None:
    spans = _frame_spans(fields, text, instance)
    if not spans:
        _need_no_more(fields)
        return None
    track = _track(fields, instance, note)
    begin, end = _inside(spans[0], instance, note)
    more = [Prediction(*span, track, track) for span in _those_inside(spans[1:], instance, note)]
    for further in _more(fields):
        own = _track(further, instance, note) if further.get("boxes") else track
        found = _frame_spans(further, None, instance)
        more += [Prediction(*span, own, own) for span in _those_inside(found, instance, note)]
    return Prediction(begin, end, track, track, tuple(more))


def _track(fields: Mapping[str, Any], instance: Instance, note: Note) -> Track:
    return clean_track(*_boxes(fields, note), instance.width, instance.height)


def _need_no_more(fields: Mapping[str, Any]) -> None:
    if fields.get("more"):
        raise _Bad("no_span", "more lists further tubes, but the line itself has no span, which is the first")


def _more(fields: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    more = fields.get("more") or []
    if not isinstance(more, list) or not all(isinstance(further, dict) for further in more):
        raise _Bad("wrong_type", "more is not a list of objects with a span each")
    return more


def _seconds(
    fields: Mapping[str, Any], text: str | None, instance: Instance, note: Note
) -> Interval | Intervals | None:
    spans = _second_spans(fields, text, instance)
    if not spans:
        _need_no_more(fields)
        return None
    for further in _more(fields):
        spans += _second_spans(further, None, instance)
    return Intervals(tuple(spans)) if len(spans) > 1 else spans[0]


def _second_spans(fields: Mapping[str, Any], text: str | None, instance: Instance) -> list[Interval]:
    frames = _pair(fields, "begin_frame", "end_frame")
    if frames is None:
        return _seconds_pairs(fields, text)
    if not instance.fps:
        raise _Bad("no_fps", "the annotations give no frame rate: give begin_s and end_s")
    return [(float(frames[0] / instance.fps), float(frames[1] / instance.fps))]


def _box(fields: Mapping[str, Any], text: str | None, instance: Instance, note: Note) -> np.ndarray | None:
    _, boxes = _boxes(fields, note)
    if len(boxes):
        return boxes[0]  # (4,)
    if text is None and not fields.get("boxes"):
        return None
    raise _Bad("no_box", "boxes holds no box of four numbers")


def _words(fields: Mapping[str, Any], text: str | None, instance: Instance, note: Note) -> str | None:
    return text


def _frame_spans(fields: Mapping[str, Any], text: str | None, instance: Instance) -> list[tuple[int, int]]:
    """The spans as they are given, in whole frames."""
    frames = _pair(fields, "begin_frame", "end_frame")
    if frames is not None:
        begin, end = frames
        if begin % 1 or end % 1:
            raise _Bad("wrong_type", f"begin_frame and end_frame are {begin} and {end}, not whole numbers")
        return [(int(begin), int(end))]
    spans = []
    for seconds in _seconds_pairs(fields, text):
        if not instance.fps:
            raise _Bad("no_fps", "the annotations give no frame rate: give begin_frame and end_frame")
        begin, end = (math.ceil(border * instance.fps - 0.5) for border in seconds)  # the nearest frame border
        spans.append((begin, max(end, begin + 1)))
    return spans


def _seconds_pairs(fields: Mapping[str, Any], text: str | None) -> list[Interval]:
    seconds = _pair(fields, "begin_s", "end_s")
    if seconds is not None:
        return [seconds]
    if listed := fields.get("spans"):
        return [_listed(span) for span in listed] if isinstance(listed, list) else [_listed(listed)]
    if text is None:
        return []
    spans = parse_spans(text)
    if not spans:
        raise _Bad("no_span", f"no span can be read from the answer {text[:80]!r}")
    return [(span.begin_s, span.end_s) for span in spans]


def _listed(span: Any) -> Interval:
    if not isinstance(span, list) or len(span) != 2:
        raise _Bad("wrong_type", f"spans holds {str(span)[:80]}, not [begin, end] in seconds")
    pair = _pair({"a span's begin": span[0], "its end": span[1]}, "a span's begin", "its end")
    if pair is None:
        raise _Bad("wrong_type", "spans holds a span of nulls")
    return pair


def _pair(fields: Mapping[str, Any], begin_name: str, end_name: str) -> Interval | None:
    """Both borders of a span that is not empty, None where neither is given."""
    begin, end = fields.get(begin_name), fields.get(end_name)
    if begin is None and end is None:
        return None
    for name, value in ((begin_name, begin), (end_name, end)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _LARGEST:
            raise _Bad("wrong_type", f"{name} is {value!r}, not a number")
    assert begin is not None and end is not None
    if begin >= end:
        kind = "empty_span" if begin == end else "inverted_span"
        raise _Bad(kind, f"{begin_name} {begin} is not before {end_name} {end}")
    return begin, end


def _inside(span: tuple[int, int], instance: Instance, note: Note) -> tuple[int, int]:
    """The part of the span that lies in the video. Some annotations end after it: they are believed."""
    stop = max(instance.num_frames, instance.end_frame or 0)
    begin, end = max(span[0], 0), min(span[1], stop)
    if begin >= end:
        raise _Bad("span_outside_video", f"frames [{span[0]}, {span[1]}) lie outside the video's {stop}")
    if (begin, end) != span:
        note("span_past_video", f"frames [{span[0]}, {span[1]}) are cut to the video's [0, {stop})")
    return begin, end


def _those_inside(spans: Iterable[tuple[int, int]], instance: Instance, note: Note) -> Iterator[tuple[int, int]]:
    """Further spans: one that lies outside the video costs only itself."""
    for span in spans:
        try:
            yield _inside(span, instance, note)
        except _Bad as error:
            note(error.kind, str(error))


def _boxes(fields: Mapping[str, Any], note: Note) -> tuple[np.ndarray, np.ndarray]:
    """(K,) increasing int64 frames and (K, 4) float64 boxes; bad ones are left out and counted."""
    given = fields.get("boxes")
    if given is None:
        given = []
    if not isinstance(given, list):
        raise _Bad("wrong_type", f"boxes is a {type(given).__name__}, not a list of [frame, x1, y1, x2, y2]")
    table = _table(given)  # (K, 5)
    good = np.isfinite(table).all(-1) & (table[:, 0] % 1 == 0) & (np.abs(table[:, 0]) <= _LARGEST)
    if not good.all():
        first = given[int(np.flatnonzero(~good)[0])]
        note(
            "bad_box", f"{int((~good).sum())} of {len(given)} boxes are not [frame, x1, y1, x2, y2]: {str(first)[:80]}"
        )
    frames, first_of = np.unique(table[good, 0].astype(np.int64), return_index=True)
    if len(frames) < int(good.sum()):
        note("repeated_box", "a frame has several boxes, of which the first counts")
    return frames, table[good, 1:][first_of]


def _table(rows: list[Any]) -> np.ndarray:
    """(K, 5) float64; a row that is not five numbers becomes NaN."""
    try:
        table = np.array(rows)
    except ValueError:  # rows of different lengths
        table = np.zeros(0)
    if table.shape == (len(rows), 5) and table.dtype.kind in "if":
        return table.astype(np.float64)
    return np.array([_row(row) for row in rows], np.float64).reshape(-1, 5)


def _row(row: Any) -> list[float]:
    if isinstance(row, list) and len(row) == 5 and all(isinstance(value, int | float) for value in row):
        with suppress(OverflowError):  # an integer of hundreds of digits
            return [float(value) for value in row]
    return [math.nan] * 5


_READERS: dict[str, Callable[[Mapping[str, Any], str | None, Instance, Note], Any]] = {
    "stvg": _tube,
    "vtg": _seconds,
    "rec": _box,
    "qa": _words,
}
