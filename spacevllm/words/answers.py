"""Text ⇄ spans and boxes. The temporal answer is plain text in seconds, e.g. ``From 12.00s to 18.50s.``, and where it
happens twice ``From 1.00s to 2.00s; from 5.00s to 6.00s.``

Boxes are text only for the baseline without queries (``space_head: text_coordinates``): ``[12,30,45,67]`` a frame, its
left, top, right and bottom in percent of the picture. Integers, because every digit is a token.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import islice

import numpy as np

from spacevllm.span import Span

SPAN_FORM = "From {begin:.2f}s to {end:.2f}s."
MOST_SPANS = 16  # of one answer: what a model writes beyond that is no answer any more

_NUMBER = r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d+)?)"  # [hh:][mm:]ss[.ff]
_UNIT = r"\s*(?:s|sec|secs|seconds?)?\.?"
_END = r"(?:(?:it\s+)?(?:ends?|stops?|finishes)(?:\s+time)?\s*(?:at|around|:|=)?\s*)?"  # "starts at 3s and ends at 5s"
_SPAN = re.compile(rf"{_NUMBER}{_UNIT}\s*(?:to|until|till|and|-|–|—|~|,)+\s*{_END}{_NUMBER}", re.IGNORECASE)

_BOX = re.compile(r"\[\s*(\d{1,3})\s*,\s*(\d{1,3})\s*,\s*(\d{1,3})\s*,\s*(\d{1,3})\s*\]")


def format_span(span: Span, form: str = SPAN_FORM) -> str:
    """``From 12.00s to 18.50s.``, or another form with two decimals and an s behind each time."""
    return form.format(begin=span.begin_s, end=span.end_s)


def format_spans(spans: Sequence[Span], form: str = SPAN_FORM) -> str:
    """Each span in the same form, one after the other: ``From 1.00s to 2.00s; from 5.00s to 6.00s.``"""
    first, *others = (format_span(span, form.rstrip(".")) for span in spans)
    text = "; ".join([first, *(other[0].lower() + other[1:] for other in others)])
    return text + "." if form.endswith(".") else text


def parse_span(text: str) -> Span | None:
    """The first span in ``text``, or None where none can be read.

    Accepts ``From 24.3s to 30.4s.``, ``24.3 - 30.4``, ``24.3s to 30.4``, ``00:24.3 to 00:30.4``. Borders in the wrong
    order are sorted. An empty span is no answer.
    """
    return next(iter(parse_spans(text)), None)


def parse_spans(text: str) -> list[Span]:
    """Every span in ``text``, at most ``MOST_SPANS``, in the order written: the first one is the answer where only one
    counts. Read as ``parse_span`` does; they may overlap, but none is there twice. Where the first is empty, so is the
    answer."""
    found = [_read(match.groups()) for match in islice(_SPAN.finditer(_BOX.sub("", text)), MOST_SPANS)]
    return list(dict.fromkeys(filter(None, found))) if found and found[0] else []


def format_boxes(boxes: np.ndarray) -> str:
    """(K, 4) xyxy in [0, 1] → ``[12,30,45,67][13,30,46,67]…``"""
    return "".join(f"[{','.join(str(int(v)) for v in box)}]" for box in np.rint(np.clip(boxes, 0, 1) * 100))


def parse_boxes(text: str) -> np.ndarray:
    """Every box in ``text``: (K, 4) float32 xyxy in [0, 1], corners in order. A box cut short is no box."""
    found = np.array(_BOX.findall(text), dtype=np.float32).reshape(-1, 4).clip(0, 100) / 100
    return np.concatenate([np.minimum(found[:, :2], found[:, 2:]), np.maximum(found[:, :2], found[:, 2:])], axis=1)


def number_starts(answer: str) -> list[int]:
    """Character offsets of the times in an answer of ``format_spans``, two a span."""
    return [found.start() for found in re.finditer(r"\d+\.\d+", answer)]


def _read(groups: Sequence[str]) -> Span | None:
    begin, end = sorted((_seconds(*groups[:3]), _seconds(*groups[3:])))
    return Span(begin, end) if begin < end and math.isfinite(end) else None


def _seconds(hours: str | None, minutes: str | None, seconds: str) -> float:
    # "01:30.5" matches with the minutes in the second group, "1:02:03" with all three
    return int(hours or 0) * 3600 + int(minutes or 0) * 60 + float(seconds)
