"""One self-contained HTML page about a grounded archive: the scores beside their baselines, then every question with
its clip playing, its tube, and the truth beside it where it is known. Nothing is fetched: videos are data: URIs.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from spacevllm.answer import Answer
from spacevllm.calibration import RECALL
from spacevllm.data.instance import TASKS, Instance, TrueTube
from spacevllm.drawing.page import template
from spacevllm.span import Span
from spacevllm.tube import Tube
from spacevllm.video.overlay import COLOURS

MEBIBYTE = 2**20
NOT_THERE = "not there"  # status of an answer that says so
BASELINE_NAMES = {
    "centre_box_whole_clip": "centre box, whole clip",
    "random_object_random_span": "random object, random span",
}
TASK_TITLES = {
    "stvg": "When and where",
    "vtg": "When",
    "rec": "Where, in one image",
    "qa": "Multiple choice",
}
_PRESENCE_NAMES = {
    "auroc": "AUROC",
    f"false_alarms@recall{RECALL:g}": f"false alarms at {RECALL:.0%} recall",
    "recall": "recall as flagged",
    "false_alarms": "false alarms as flagged",
}


@dataclass(frozen=True)
class ReportItem:
    """One question about one video.

    Attributes:
        question, video: as asked and as given.
        tube: the answer, an ``Answer`` where it has several; None for a row that failed.
        truth: the right answer where it is known.
        overlay: the MP4 with the tube drawn in, if one was made.
        tiou, viou: in [0, 1], None where there is no truth.
        status, error: ``"ok"``, ``NOT_THERE`` or ``"failed"``, and why.
        shown: what of the video the overlay shows; None: all of it.
    """

    question: str
    video: str
    tube: Answer | Tube | None = None
    truth: Instance | None = None
    overlay: str | Path | None = None
    tiou: float | None = None
    viou: float | None = None
    status: str = "ok"
    error: str | None = None
    shown: Span | None = None


class Bar(NamedTuple):
    """A span on the timeline: percent of the clip, and its seconds in words. Things share its height: ``top`` and
    ``height`` are shares of it; ``colour`` is that of the box in the clip, ``""``: the page's own, of the first."""

    left: float
    width: float
    words: str
    colour: str
    top: float
    height: float


class Line(NamedTuple):
    """One row of a score table; ``kind`` is model, split or baseline; values are fractions, in column order."""

    name: str
    kind: str
    values: list[float | None]
    queries: int


class Table(NamedTuple):
    title: str
    note: str
    columns: list[str]
    lines: list[Line]


class Clip(NamedTuple):
    """What becomes of an item's overlay: embedded bytes, or the reason why not and where it lies."""

    data: str = ""
    left_out: str = ""
    link: str = ""


def write_report(
    out_html: str | Path,
    title: str,
    scores: Mapping[str, Any] | None,
    items: Sequence[ReportItem],
    meta: Mapping[str, Any] | None = None,
    max_videos: int = 40,
    max_megabytes: float = 60,
    num_absent: int = 0,
) -> Path:
    """Writes the page.

    Args:
        out_html: the file to write; its folder is made.
        title: heading of the page.
        scores: the summary of ``spacevllm.evaluation.scoring.evaluate``, or None where no truth is known.
        items: one per (video, question), failed ones included.
        meta: facts to print below the title, e.g. the model and the date.
        max_videos, max_megabytes: at most so many clips, of so many bytes in all, are embedded, in the order of the
            items; the page says what was left out and links to the file where it lies beneath the page's folder.
        num_absent: answers that it is not there, of which ``items`` may hold some.

    Returns:
        ``out_html`` as a Path.

    Raises:
        FileNotFoundError: an overlay that is named does not exist.
    """
    out = Path(out_html)
    out.parent.mkdir(parents=True, exist_ok=True)
    clips = _embed(items, out.parent, max_videos, round(max_megabytes * MEBIBYTE))
    failed = [item for item in items if item.status != "ok"]
    shown = [_card(item, clip) for item, clip in zip(items, clips, strict=True) if item.status == "ok"]
    page = template("report.html").render(
        title=title,
        meta=dict(meta or {}),
        tables=score_tables(scores or {}),
        cards=shown,
        failed=failed,
        num_absent=num_absent,
        num_failed=sum(item.status not in ("ok", NOT_THERE) for item in items),
        num_questions=len({item.question for item in items}),
        num_videos=len({item.video for item in items}),
        has_random_object="random_object" in str(scores),
        num_embedded=sum(bool(clip.data) for clip in clips),
        num_left_out=sum(bool(clip.left_out) for clip in clips),
        limits=f"{max_videos} clips and {max_megabytes:g} MB",
    )
    part = out.with_name(f".{out.name}.part")
    part.write_text(page, encoding="utf-8")
    part.replace(out)
    return out


def score_tables(scores: Mapping[str, Any]) -> list[Table]:
    """One table per task and protocol: the model, its splits, then the baselines, in the same columns; then one of
    presence, if questions were about what is not there.

    Args:
        scores: evaluation's summary; keys that are no task (counts, timings) are left to others.
    """
    tables = []
    for task in TASKS:
        summary = scores.get(task)
        if not summary:  # the data set asks nothing of this kind
            continue
        beside = summary.get("baselines", {})
        protocols = {k: v for k, v in summary.items() if k != "baselines"} if task == "stvg" else {"": summary}
        for protocol, table in protocols.items():
            tables.append(_table(task, protocol, table, beside))
    return [*tables, *_several(scores.get("several") or {}), *_presence(scores.get("presence") or {})]


def _several(found: Mapping[str, Any]) -> Iterator[Table]:
    """All right tubes of the questions that have more than one."""
    for task, values in found.items():
        columns = [key for key, value in values.items() if isinstance(value, float)]
        line = Line("this model", "model", [values[column] for column in columns], values["n_queries"])
        note = f"{values['n_queries']} questions with several right tubes, all of them counted"
        yield Table(f"{TASK_TITLES[task]}: several", note, columns, [line])


def _presence(found: Mapping[str, Any]) -> Iterator[Table]:
    """How well confidences tell what is there from what is not; chance gets half the pairs right."""
    if not found:
        return
    columns = [key for key, value in found.items() if isinstance(value, float)]
    chance = {"auroc": 0.5, f"false_alarms@recall{RECALL:g}": RECALL}
    queries = found["n_present"] + found["n_absent"]
    lines = [Line("this model", "model", [found[column] for column in columns], queries)]
    lines += [Line("chance", "baseline", [chance.get(column) for column in columns], queries)]
    note = f"{found['n_present']} questions about what is there, {found['n_absent']} about what is not"
    yield Table("Is it there?", note, [_PRESENCE_NAMES.get(column, column) for column in columns], lines)


def _table(task: str, protocol: str, scores: Mapping[str, Any], baselines: Mapping[str, Any]) -> Table:
    columns = [key for key, value in scores.items() if isinstance(value, float)]

    def line(name: str, kind: str, row: Mapping[str, Any]) -> Line:
        return Line(name.replace("_", " "), kind, [row.get(column) for column in columns], row["n_queries"])

    splits = {key: value for key, value in scores.items() if isinstance(value, dict) and key != "baselines"}
    lines = [line("this model", "model", scores)]
    lines += [line(name, "split", split) for name, split in splits.items()] if len(splits) > 1 else []
    lines += [line(BASELINE_NAMES.get(name, name), "baseline", row) for name, row in baselines.items()]
    counts = [f"{scores['n_queries']} questions", f"{scores['n_missing']} without an answer"]
    counts += [f"{scores['n_unparsable']} unreadable"]
    note = " · ".join(([f"protocol {protocol}"] if protocol else []) + counts)
    return Table(TASK_TITLES.get(task, task), note, columns, lines)


def _card(item: ReportItem, clip: Clip) -> dict[str, Any]:
    tube, truth = item.tube, item.truth
    duration = (tube.duration_s if tube else truth.duration_s if truth else 0.0) or 1e-3
    answer = Answer([tube]) if isinstance(tube, Tube) else tube
    tracks = answer.tracks() if answer else []
    spans = [_bar(_seconds(t), duration, n, len(tracks)) for n, track in enumerate(tracks) for t in track if t.span]
    truths = [_bar(_seconds(one), duration) for one in truth.tubes] if truth else []
    return {
        "item": item,
        "clip": clip,
        "name": item.video.rsplit("/", 1)[-1],
        "duration": duration,
        "clip_begin": item.shown.begin_s if item.shown else 0.0,
        "rest_s": _rest_s(tube, item.shown) if tube and tube.span else None,
        "answers": spans,
        "truths": truths,
        "answer": "; ".join(bar.words for bar in spans),
        "truth": "; ".join(bar.words for bar in truths),
        "score": item.viou if item.viou is not None else item.tiou,
    }


def _rest_s(tube: Answer | Tube, shown: Span | None) -> float:
    """The middle of the span's first frame, in the clip, which begins with the frame that ``shown`` begins in."""
    first = math.floor(shown.begin_s * tube.fps + 1e-6) if shown else 0
    return max(tube.begin_frame - first + 0.5, 0.0) / tube.fps


def _seconds(tube: Tube | TrueTube) -> tuple[Any, Any]:
    return tube.begin_s, tube.end_s


def _bar(span: tuple[Any, Any], duration: float, track: int = 0, num_tracks: int = 1) -> Bar:
    begin, end = (min(max(float(second) / duration, 0.0), 1.0) * 100 for second in span)
    words, colour = f"{span[0]:.2f} – {span[1]:.2f} s", COLOURS[track % len(COLOURS)] if track else ""
    return Bar(round(begin, 3), round(max(end - begin, 0.4), 3), words, colour, track / num_tracks, 1 / num_tracks)


def _embed(items: Sequence[ReportItem], folder: Path, max_videos: int, max_bytes: int) -> list[Clip]:
    clips, embedded, spent = [], 0, 0
    for item in items:
        if item.overlay is None or item.status != "ok":
            clips.append(Clip())
            continue
        path = Path(item.overlay)
        size = path.stat().st_size
        if embedded < max_videos and spent + size <= max_bytes:
            embedded, spent = embedded + 1, spent + size
            clips.append(Clip(data="data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode("ascii")))
        else:
            clips.append(Clip(left_out=f"{path.name}, {size / MEBIBYTE:.1f} MB", link=_relative(path, folder)))
    return clips


def _relative(path: Path, folder: Path) -> str:
    """The path as seen from the page, or nothing when the file does not travel with it."""
    path, folder = path.resolve(), folder.resolve()
    return quote(path.relative_to(folder).as_posix()) if path.is_relative_to(folder) else ""
