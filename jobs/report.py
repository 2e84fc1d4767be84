"""One HTML page for a grounded archive: scores, clips with their tubes drawn in, the truth beside where it is known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
from spacevllm.tube import Tube


class ReportConfig(Config):
    """``report``: OUT/report.html and OUT/clips/*.mp4.

    Attributes:
        tubes: output folder of ``ground``.
        out: local folder.
        data: Uni-STG data set whose records are the truth, if there is one. split: which of them.
        scores: output folder of ``evaluate``, if there is one.
        max_clips: answers shown with their clip, spread evenly over the archive.
        title: heading of the page.
    """

    tubes: str
    out: str
    data: str = ""
    split: str = "test"
    scores: str = ""
    max_clips: int = Field(40, ge=1)
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
    rows.sort(key=lambda row: (row["video"], row["question"]))
    good, failed = ([row for row in rows if (row["status"] == "ok") is ok] for ok in (True, False))
    shown = (
        [good[i * len(good) // config.max_clips] for i in range(config.max_clips)]
        if len(good) > config.max_clips
        else good
    )
    truths = _truths(config) if config.data else {}
    with Progress("report", len(shown), "clips") as progress:
        items = []
        for number, row in enumerate(shown):
            items.append(
                _item(row, truths.get((row["video"], row["question"])), Path(config.out, f"clips/{number:04d}.mp4"))
            )
            progress.advance(1)
    items += [ReportItem(r["question"], r["video"], status=r["status"], error=r["error"]) for r in failed]
    scores = storage.read_json(storage.join(config.scores, "summary.json")) if config.scores else None
    facts = {"answers": len(good), "shown": len(shown), "failed": len(failed), "model": _models(rows)}
    page = write_report(
        Path(config.out, "report.html"), config.title, scores, items, facts, max_videos=config.max_clips
    )
    summary = {"stage": "report", "in": len(rows), "ok": len(good), "failed": len(failed), "report": str(page)}
    storage.write_json(storage.join(config.out, "summary.json"), summary)
    return summary


def _truths(config: ReportConfig) -> dict[tuple[str, str], Instance]:
    """(absolute media, question) → the record that answers it."""
    folder = storage.absolute(config.data)
    records = [Instance.from_row(row) for row in read_records(config.data, config.split).to_pylist()]
    return {(storage.join(folder, r.media), r.question): r for r in records if r.task == "stvg"}


def _item(row: Mapping[str, Any], truth: Instance | None, clip: Path) -> ReportItem:
    tube = row_to_answer(row)
    assert isinstance(tube, Tube)  # ground asks for nothing else
    with storage.local_copy(row["video"]) as path:
        draw_overlay(path, [tube], clip, truth)
    scores = score([truth], {truth.id: tube})[0] if truth else {}
    return ReportItem(
        row["question"], row["video"], tube, truth, clip, tiou=scores.get("tiou"), viou=scores.get("viou")
    )


def _models(rows: list[dict[str, Any]]) -> str:
    return ", ".join(sorted({f"{row['model_id']} ({row['model_digest']})" for row in rows}))
