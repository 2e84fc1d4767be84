"""One HTML page for a grounded archive: scores, clips with their tubes drawn in, the truth beside where it is known."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from jobs.common import finish, need_folder, resolve, show_plan
from jobs.errors import OK, SOME_FAILED
from pipelines.archive.answers import row_to_answer
from pipelines.archive.tubes import visible
from pipelines.core import scratch, storage
from pipelines.core.progress import Progress
from pipelines.media.manifest import read_records
from pipelines.media.reading import ReadOptions
from spacevllm.answer import Answer
from spacevllm.config import Config, ConfigError
from spacevllm.data.instance import Instance
from spacevllm.drawing.overlay import draw_overlay
from spacevllm.drawing.report import NOT_THERE, ReportItem, write_report
from spacevllm.evaluation.scoring import score
from spacevllm.span import Span
from spacevllm.video.errors import VideoError
from spacevllm.video.guard import GuardedSampler

DRAW_TIMEOUT_S = 4 * 3600.0  # of one clip: without margin_s all of a film is drawn
# Of an answer, all but its boxes: enough to choose by, and little enough to hold of a whole archive.
LIGHT = ["id", "video", "question", "status", "error", "begin_s", "confidence", "present", "model_id", "model_digest"]


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
        margin_s: clips are cut to so many seconds around the answer; None: the whole video is shown.
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
    """Draws and writes the page; returns 3 when some clips could not be drawn."""
    config = resolve(ReportConfig, "", overrides, tubes=tubes, out=out, data=data, scores=scores)
    need_folder("--tubes", tubes, "tubes", "give the folder that `spacevllm ground` wrote as OUT")
    if scores:
        need_folder("--scores", scores, "summary.json", "give the folder that `spacevllm evaluate` wrote as OUT")
    if not storage.is_local(out):
        raise ConfigError(f"--out {out}: the report is written to a local folder")
    if dry_run:
        return show_plan("report", config)
    page = make(config)
    finish(f"report: {page['report']}" + (f" ({undrawn(page)})" if page["undrawn"] else ""))
    return SOME_FAILED if page["undrawn"] else OK


def make(config: ReportConfig, asked: Container[str] | None = None) -> dict[str, Any]:
    """Writes clips and page; returns the summary that is also OUT/summary.json.

    Args:
        asked: ids of the answers to look at; None: all.

    Raises:
        ConfigError: there is no answer at all.
    """
    rows = sorted(_answers(config, asked), key=_place)
    if not rows and not config.question:
        raise ConfigError(f"{config.tubes} holds no answers: give the folder that `spacevllm ground` wrote as OUT")
    good, failed = ([row for row in rows if (row["status"] == "ok") is ok] for ok in (True, False))
    found, absent = ([row for row in good if _is_found(row) is yes] for yes in (True, False))
    ranked = config.order == "confidence"
    shown = _choice(found if ranked else good, config)
    items = _draw(shown, config)
    undrawn = sum(item.status != "ok" for item in items)
    items += [ReportItem(r["question"], r["video"], status=r["status"], error=r["error"]) for r in failed]
    num_absent = len(absent) if ranked else 0
    for row in _choice(absent, config) if ranked else ():  # of a large archive most are: those that came nearest
        items.append(ReportItem(row["question"], row["video"], status=NOT_THERE, error=_why(row)))
    scores = storage.read_json(storage.join(config.scores, "summary.json")) if config.scores else None
    facts = {"answers": len(good), "shown": len(shown) - undrawn, "failed": len(failed), "model": _models(rows)}
    page = write_report(
        Path(config.out, "report.html"), config.title, scores, items, facts, config.max_clips, num_absent=num_absent
    )
    counts = {"in": len(rows), "ok": len(good), "failed": len(failed), "found": len(found), "undrawn": undrawn}
    counts["not_there"] = num_absent
    summary = {"stage": "report", **counts, "report": str(page)}
    storage.write_json(storage.join(config.out, "summary.json"), summary)
    return summary


def _is_found(row: Mapping[str, Any]) -> bool:
    """``present`` is missing in answers of older releases."""
    return row["begin_s"] is not None and row.get("present") is not False


def _why(row: Mapping[str, Any]) -> str:
    return "no time could be read" if row["begin_s"] is None else f"confidence {row['confidence']:.0%}"


def undrawn(page: Mapping[str, Any]) -> str:
    """How many of its clips a page lacks, in words; ``""``: none."""
    return f"{page['undrawn']} clips could not be drawn, the page says why" if page["undrawn"] else ""


def _answers(config: ReportConfig, asked: Container[str] | None) -> list[dict[str, Any]]:
    """The columns ``LIGHT``, and in which ``file`` the rest is."""
    return [
        row | {"file": file}
        for row, file in visible(config.tubes).rows(LIGHT)
        if config.question in ("", row["question"]) and (asked is None or row["id"] in asked)
    ]


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


def _draw(chosen: list[dict[str, Any]], config: ReportConfig) -> list[ReportItem]:
    """An item with its clip for each of the chosen answers; where that cannot be drawn, the reason."""
    truths = _truths(config) if config.data else {}
    whole = _whole_rows(chosen)
    items = []
    clips = Path(config.out, "clips")
    clips.mkdir(parents=True, exist_ok=True)
    drawer = GuardedSampler(DRAW_TIMEOUT_S, ReadOptions().memory_mb, writes_to=clips.resolve())
    with Progress("report", len(chosen), "clips") as progress, drawer:
        for number, light in enumerate(chosen):
            row, truth = whole[light["id"]], truths.get(_place(light))
            try:
                items.append(_item(row, truth, clips / f"{number:04d}.mp4", config.margin_s, drawer))
            except (VideoError, OSError) as error:  # the video is gone since, or its store is
                reason = error.reason if isinstance(error, VideoError) else f"storage: {row['video']}"
                items.append(ReportItem(row["question"], row["video"], status="failed", error=f"{reason}: {error}"))
            progress.advance(1, items[-1].status != "ok")
    return items


def _whole_rows(chosen: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """id → the row with its boxes, read from the files that hold them."""
    files: dict[str, list[str]] = defaultdict(list)
    for row in chosen:
        files[row["file"]].append(row["id"])
    found: dict[str, dict[str, Any]] = {}
    for file, ids in files.items():
        table = storage.read_table(file)
        found |= {row["id"]: row for row in table.filter(pc.is_in(table["id"], pa.array(ids))).to_pylist()}
    return found


def _item(
    row: Mapping[str, Any], truth: Instance | None, clip: Path, margin_s: float | None, drawer: GuardedSampler
) -> ReportItem:
    """Raises VideoError, OSError: the clip cannot be drawn."""
    answer = row_to_answer(row)
    assert isinstance(answer, Answer)  # ground asks for nothing else
    shown, spans = None, [tube.span for tube in answer if tube.span]
    if margin_s is not None and spans:
        begin_s, end_s = min(span.begin_s for span in spans), max(span.end_s for span in spans)
        shown = Span(max(begin_s - margin_s, 0.0), min(end_s + margin_s, answer.duration_s))
    with scratch.local_copy(row["video"]) as path:
        most = ReadOptions().max_pixels
        drawer.run(draw_overlay, path, [answer], clip.resolve(), truth, shown, max_pixels=most)
    scores = score([truth], {truth.id: answer})[0] if truth else {}
    return ReportItem(
        row["question"], row["video"], answer, truth, clip, scores.get("tiou"), scores.get("viou"), shown=shown
    )


def _models(rows: list[dict[str, Any]]) -> str:
    return ", ".join(sorted({f"{row['model_id']} ({row['model_digest']})" for row in rows}))
