"""Removes answers from OUT/tubes for good."""

from __future__ import annotations

from jobs.common import finish, need_folder
from jobs.errors import OK
from pipelines.archive import tubes
from pipelines.core import storage


def run(out: str, video: str, question: str, other_models: bool, dry_run: bool) -> int:
    """Exports and reports that were made before are not touched; the last line says so."""
    need_folder("--out", out, tubes.FOLDER, "give the folder that `spacevllm ground` wrote")
    removed = sum(tubes.prune(out, dry_run).values()) if other_models else 0
    if video or question or not other_models:
        removed += tubes.forget(out, video, question, dry_run)
    where = storage.join(out, tubes.FOLDER)
    if dry_run:
        finish(f"{removed} answers of {where} would be forgotten, nothing done")
    else:
        finish(f"forgotten: {removed} answers of {where}; exports and reports made before still hold them")
    return OK
