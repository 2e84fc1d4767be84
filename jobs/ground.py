"""Asks an archive: videos × questions → OUT/tubes, a Delta table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jobs.common import finish, need_model, resolve, show_plan
from jobs.errors import OK, SOME_FAILED
from pipelines.archive.ground import GroundConfig
from pipelines.archive.ground import run as ground
from pipelines.archive.plan import open_plan
from pipelines.archive.questions import read_questions
from pipelines.core import storage
from pipelines.core.rows import is_rows
from pipelines.media.manifest import list_videos
from spacevllm.config import ConfigError


def run(
    model: str,
    videos: str,
    questions: str,
    out: str,
    windows: str,
    overrides: list[str],
    dry_run: bool,
    more: Mapping[str, Any],
    *,
    allow: list[str],
    question: list[str],
    export: list[str],
) -> int:
    """Answers what is missing in OUT; returns 3 when a larger share of rows failed than may.

    Args:
        more: of ``GroundConfig``, where they are given.
    """
    if not questions and not question and not is_rows(videos):
        raise ConfigError("nothing is asked: give --questions FILE, --question TEXT, or a manifest as --videos")
    options: dict[str, Any] = {"model": model, "videos": videos, "question": question, "out": out}
    options |= {"questions": questions or None, "windows": windows} | ({"export": export} if export else {})
    options |= ({"allow": allow} if allow else {}) | {name: value for name, value in more.items() if value}
    config = resolve(GroundConfig, "", overrides, **options)
    need_model(model)
    if dry_run:
        found = list_videos(config.videos, config.allow)
        with open_plan() as plan:
            plan.ask(found, read_questions(config.question, config.questions))
            if config.part:
                plan.keep(config.part)
            facts = f"{found.num_rows} videos, {plan.num_pairs} questions about them in all"
        return show_plan("ground", config, facts)
    summary = ground(config)
    counts = f"{summary['ok']} ok, {summary['failed']} failed"
    finish(f"tubes: {storage.join(out, 'tubes')} ({summary['videos']} videos; answers: {counts}{_reasons(summary)})")
    return SOME_FAILED if summary["failed"] > config.max_failed * summary["in"] else OK


def _reasons(summary: dict[str, object]) -> str:
    errors = summary.get("errors")
    listed = ", ".join(f"{count} {reason}" for reason, count in errors.items()) if isinstance(errors, dict) else ""
    return f": {listed}" if listed else ""
