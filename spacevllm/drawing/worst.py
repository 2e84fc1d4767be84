"""One self-contained HTML page of the queries that a model answered worst: frames, boxes, spans, truth and answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spacevllm.drawing.page import template
from spacevllm.span import Span


@dataclass(frozen=True)
class Case:
    """One query.

    Attributes:
        id, question, media: as asked.
        score: in [0, 1]. metric: its name. status: ``ok``, ``unparsable`` or ``missing``.
        answer: the model's words, or why there are none. wanted: the right words; ``""`` where span or box are it.
        truth, answered: spans in seconds; None: there is none.
        shown: what of the video was looked at; None: an image, or not known.
        picture: frames side by side, as a data: URI; ``""``: they could not be read.
    """

    id: str
    question: str
    media: str
    score: float
    metric: str
    status: str
    answer: str
    wanted: str = ""
    truth: Span | None = None
    answered: Span | None = None
    shown: Span | None = None
    picture: str = ""


def render_worst(title: str, cases: Sequence[Case], facts: Mapping[str, Any]) -> str:
    """The page; cases in the order given. Nothing is fetched: pictures are data: URIs."""
    return template("worst.html").render(title=title, cases=cases, facts=facts, bar=_bar)


def _bar(span: Span, shown: Span) -> dict[str, str]:
    """Left border and width in percent of what was shown, cut to it but never invisible."""
    length = max(shown.end_s - shown.begin_s, 1e-3)
    begin, end = (min(max((s - shown.begin_s) / length, 0.0), 1.0) * 100 for s in (span.begin_s, span.end_s))
    return {"left": f"{min(begin, 99.5):.2f}", "width": f"{max(end - begin, 0.5):.2f}"}
