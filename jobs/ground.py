"""Asks an archive: videos × questions → OUT/tubes/*.parquet."""

from __future__ import annotations

from jobs.common import finish, need_model, resolve, show_plan
from jobs.errors import OK, SOME_FAILED
from pipelines import storage
from pipelines.ground import GroundConfig, read_questions
from pipelines.ground import run as ground
from pipelines.manifest import list_videos
from spacevllm.config import ConfigError


def run(
    model: str, videos: str, questions: str, question: list[str], out: str, overrides: list[str], dry_run: bool
) -> int:
    """Answers what is missing in OUT; returns 3 when some rows failed."""
    if not questions and not question:
        raise ConfigError("nothing is asked: give --questions FILE or --question TEXT")
    options = {"model": model, "videos": videos, "question": question, "questions": questions or None, "out": out}
    config = resolve(GroundConfig, "", overrides, **options)
    need_model(model)
    if dry_run:
        asked, found = len(read_questions(config)), list_videos(config.videos).num_rows
        return show_plan("ground", config, f"{found} videos, {asked} questions")
    summary = ground(config)
    counts = f"{summary['ok']} ok, {summary['failed']} failed"
    finish(f"tubes: {storage.join(out, 'tubes')} ({summary['videos']} videos; answers: {counts}{_reasons(summary)})")
    return SOME_FAILED if summary["failed"] else OK


def _reasons(summary: dict[str, object]) -> str:
    errors = summary.get("errors")
    listed = ", ".join(f"{count} {reason}" for reason, count in errors.items()) if isinstance(errors, dict) else ""
    return f": {listed}" if listed else ""
