"""The data card: what a data set holds, where it comes from, what was left out. An HTML page, and the same as Markdown.

The page is self-contained: pictures are data: URIs, plots are SVG, nothing is fetched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from spacevllm.data.instance import Instance
from spacevllm.data.leakage import TRAIN
from spacevllm.data.statistics import Histogram, Statistics
from spacevllm.data.synthesis.funnel import FunnelStage, funnel_table
from spacevllm.drawing.funnel import draw_funnel
from spacevllm.drawing.page import template

PAPER = {"stvg": 110_000, "vtg": 50_000, "rec": 320_000, "qa": 200_000}  # arXiv 2503.13983; qa beside the 480K
TASK_NAMES = {
    "stvg": "spatio-temporal (STVG)",
    "vtg": "temporal (VTG)",
    "rec": "in one image (REC)",
    "qa": "general (QA)",
}


class Origin(NamedTuple):
    """A source as it was read: how many questions were ``published``; ``dropped`` by reason."""

    name: str
    files: str
    read: int
    kept: int
    published: int | None
    dropped: dict[str, int]
    where: str


class Example(NamedTuple):
    """A record and its strip of frames, as a data: URI; ``""`` where the media could not be read."""

    instance: Instance
    picture: str


@dataclass(frozen=True)
class DataCard:
    """All that the card tells.

    Attributes:
        title: of the page. facts: printed below it, e.g. the digest.
        statistics: of the finished records. num_media: that they refer to.
        origins: where records come from. funnel: of the synthesis; empty: there was none.
        left_out: lines that the builder dropped, per reason. files: what lies in the folder, name → what it is.
        examples: some records. command: that builds the same again.
    """

    title: str
    facts: dict[str, str]
    statistics: Statistics
    num_media: int
    origins: Sequence[Origin] = ()
    funnel: Sequence[FunnelStage] = ()
    left_out: dict[str, int] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    examples: Sequence[Example] = ()
    command: str = ""


def render_html(card: DataCard) -> str:
    return template("data_card.html").render(title=card.title, **_context(card))


def render_markdown(card: DataCard) -> str:
    return template("data_card.md").render(title=card.title, **_context(card))


class TaskRow(NamedTuple):
    """``share``: training records over the paper's, None where the paper names none."""

    name: str
    train: int
    held_out: int
    paper: int | None
    share: float | None


class SourceRow(NamedTuple):
    source: str
    task: str
    splits: list[int]


class Bar(NamedTuple):
    """One bin; ``height`` in percent of the tallest."""

    label: str
    number: int
    height: float


class Plot(NamedTuple):
    title: str
    unit: str
    bars: list[Bar]
    note: str = ""


def _context(card: DataCard) -> dict[str, Any]:
    statistics = card.statistics
    splits = sorted({kind.split for kind in statistics.kinds}, key=lambda name: (name != TRAIN, name))
    return {
        "card": card,
        "tasks": _task_rows(statistics),
        "splits": splits,
        "sources": _source_rows(statistics, splits),
        "plots": _plots(statistics),
        "heat": _heat(statistics.centres),
        "funnel_svg": draw_funnel(card.funnel) if card.funnel else "",
        "funnel_text": funnel_table(card.funnel) if card.funnel else "",
        "task_names": TASK_NAMES,
    }


def _task_rows(statistics: Statistics) -> list[TaskRow]:
    train, every = statistics.by_task(TRAIN), statistics.by_task()
    return [
        TaskRow(name, train[task], every[task] - train[task], PAPER.get(task),
                train[task] / PAPER[task] if task in PAPER else None)
        for task, name in TASK_NAMES.items()
        if every[task] or task in PAPER
    ]  # fmt: skip


def _source_rows(statistics: Statistics, splits: Sequence[str]) -> list[SourceRow]:
    order = list(TASK_NAMES)
    pairs = sorted({(kind.task, kind.source) for kind in statistics.kinds}, key=lambda p: (order.index(p[0]), p[1]))
    return [
        SourceRow(source, task, [statistics.kinds[task, source, split] for split in splits])  # type: ignore[index]
        for task, source in pairs
    ]


def _plots(statistics: Statistics) -> list[Plot]:
    median = _median_bin(statistics.span_s)
    return [
        Plot("How long spans last", "seconds", _bars(statistics.span_s), f"half: under {median:g} s" if median else ""),
        Plot("How much a span takes", "share of the video", _bars(statistics.span_share, percent=True)),
        Plot("Where spans begin", "share of the video", _bars(statistics.begin, percent=True)),
        Plot("Where spans end", "share of the video", _bars(statistics.end, percent=True)),
        Plot("How large boxes are", "share of the frame", _bars(statistics.box_share, percent=True)),
        Plot("How long questions are", "words", _bars(statistics.words)),
    ]


def _bars(histogram: Histogram, percent: bool = False) -> list[Bar]:
    counts, edges = histogram.counts.tolist(), histogram.edges
    tallest = max([*counts, 1])
    bins = zip(pairwise(edges), counts, strict=True)
    return [Bar(_label(*edge, percent), count, 100 * count / tallest) for edge, count in bins]


def _label(low: float, high: float, percent: bool) -> str:
    scale, sign = (100, " %") if percent else (1, "")
    if not np.isfinite(high):
        return f"{scale * low:g}{sign} and more"
    return f"{scale * low:g} to {scale * high:g}{sign}"


def _median_bin(histogram: Histogram) -> float:
    """The upper edge of the bin that holds the median; 0 without values."""
    total = histogram.counts.sum()
    if not total:
        return 0.0
    upper = histogram.edges[int(np.searchsorted(histogram.counts.cumsum(), total / 2)) + 1]
    return float(upper) if np.isfinite(upper) else 0.0


def _heat(centres: np.ndarray) -> list[list[float]]:
    """Rows of opacities in [0, 1]; the square root, so that what is rare is seen."""
    return np.sqrt(centres / max(centres.max(), 1)).round(3).tolist()
