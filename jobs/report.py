"""One HTML page for a grounded archive: scores, clips with their tubes drawn in, the truth beside where it is known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from jobs.common import finish, need_folder, resolve, show_plan
from pipelines import storage
from pipelines.manifest import read_records
from pipelines.predict import row_to_answer
from pipelines.progress import Progress
from spacevllm.config import Config, ConfigError
from spacevllm.data.instance import Instance
from spacevllm.drawing.overlay import draw_overlay
from spacevllm.drawing.report import ReportItem, write_report
from spacevllm.evaluation.scoring import score
from spacevllm.tube import Span, Tube


class ReportConfig(Config):
    """``report``: OUT/report.html and OUT/clips/*.mp4.

    Attributes:
        tubes: output folder of ``ground``.
        out: local folder.
        data: Uni-STG data set whose records are the truth, if there is one. split: which of them.
        scores: output folder of ``evaluate``, if there is one.
        question: show only the answers to it; ``""``: all.
        order: ``spread``: evenly over the archive; ``confidence``: the surest first, without those that are not there.
        max_clips: answers shown with their clip.
        margin_s: clips are cut to so many seconds around the span; None: the whole video is shown.
        title: heading of the page.
    """

    tubes: str
    out: str
    data: str = ""
    split: str = "test"
    scores: str = ""
    question: str = ""
    order: Literal["spread", "confidence"] = "spread"
    max_clips: int = Field(40, ge=1)
    margin_s: float | None = Field(default=None, ge=0)
    title: str = "Grounded archive"


def run(tubes: str, out: str, data: str, scores: str, overrides: list[str], dry_run: bool) -> int:
    """Draws and writes the page; returns the exit status."""
    config = resolve(ReportConfig, "", overrides, tubes=tubes, out=out, data=data, scores=scores)
    need_folder("--tubes", tubes, "tubes", "give the folder that `spacevllm ground` wrote as OUT")
    if scores:
        need_folder("--scores", scores, "summary.json", "give the folder that `spacevllm evaluate` wrote as OUT")
    if not storage.is_local(out):
        raise ConfigError(f"--out {out}: the report is written to a local folder")
    if dry_run:
        return show_plan("report", config)
    finish(f"report: {make(config)['report']}")
    return 0


def make(config: ReportConfig) -> dict[str, Any]:
    """Writes clips and page; returns the summary that is also OUT/summary.json."""
    rows = storage.read_table(storage.join(config.tubes, "tubes")).to_pylist()
    rows = sorted((r for r in rows if config.question in ("", r["question"])), key=_place)
    good, failed = ([row for row in rows if (row["status"] == "ok") is ok] for ok in (True, False))
    found = [row for row in good if row["begin_s"] is not None and row.get("present") is not False]
    shown = _choice(found if config.order == "confidence" else good, config)
    truths = _truths(config) if config.data else {}
    with Progress("report", len(shown), "clips") as progress:
        items = []
        for number, row in enumerate(shown):
            truth = truths.get((row["video"], row["question"]))
            items.append(_item(row, truth, Path(config.out, f"clips/{number:04d}.mp4"), config.margin_s))
            progress.advance(1)
    items += [ReportItem(r["question"], r["video"], status=r["status"], error=r["error"]) for r in failed]
    scores = storage.read_json(storage.join(config.scores, "summary.json")) if config.scores else None
    facts = {"answers": len(good), "shown": len(shown), "failed": len(failed), "model": _models(rows)}
    page = write_report(
        Path(config.out, "report.html"), config.title, scores, items, facts, max_videos=config.max_clips
    )
    counts = {"in": len(rows), "ok": len(good), "failed": len(failed), "found": len(found)}
    summary = {"stage": "report", **counts, "report": str(page)}
    storage.write_json(storage.join(config.out, "summary.json"), summary)
    return summary


def _place(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["video"], row["question"]


def _choice(rows: list[dict[str, Any]], config: ReportConfig) -> list[dict[str, Any]]:
    count = config.max_clips
    if config.order == "confidence":
        return sorted(rows, key=lambda row: -(row["confidence"] or 0.0))[:count]
    return [rows[i * len(rows) // count] for i in range(count)] if len(rows) > count else rows


def _truths(config: ReportConfig) -> dict[tuple[str, str], Instance]:
    """(absolute media, question) → the record that answers it."""
    folder = storage.absolute(config.data)
    records = [Instance.from_row(row) for row in read_records(config.data, config.split).to_pylist()]
    return {(storage.join(folder, r.media), r.question): r for r in records if r.task == "stvg"}


def _item(row: Mapping[str, Any], truth: Instance | None, clip: Path, margin_s: float | None) -> ReportItem:
    tube = row_to_answer(row)
    assert isinstance(tube, Tube)  # ground asks for nothing else
    shown = None
    if margin_s is not None and tube.span is not None:
        shown = Span(max(tube.span.begin_s - margin_s, 0.0), min(tube.span.end_s + margin_s, tube.duration_s))
    with storage.local_copy(row["video"]) as path:
        draw_overlay(path, [tube], clip, truth, shown)
    scores = score([truth], {truth.id: tube})[0] if truth else {}
    return ReportItem(
        row["question"], row["video"], tube, truth, clip, scores.get("tiou"), scores.get("viou"), shown=shown
    )


def _models(rows: list[dict[str, Any]]) -> str:
    return ", ".join(sorted({f"{row['model_id']} ({row['model_digest']})" for row in rows}))
