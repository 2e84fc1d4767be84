"""Looks at every video and image of a data set: there, decodable, as annotated?"""

from __future__ import annotations

from jobs.common import finish, need_dataset, resolve, say, show_plan
from jobs.errors import OK, SOME_FAILED
from pipelines.core import storage
from pipelines.media.check_media import CheckMediaConfig, list_work
from pipelines.media.check_media import run as check


def run(data: str, out: str, overrides: list[str], dry_run: bool) -> int:
    """Checks what is not checked yet; returns the exit status."""
    config = resolve(CheckMediaConfig, "", overrides, data=data, out=out)
    need_dataset(data)
    if dry_run:
        return show_plan("check-media", config, f"{list_work(config).num_rows} media")
    summary = check(config)
    say(storage.read_text(storage.join(out, "report.txt")).removesuffix("\n"))
    finish(f"media: {storage.join(out, 'media')} ({summary['ok']} ok, {summary['failed']} failed)")
    return SOME_FAILED if summary["failed"] else OK
