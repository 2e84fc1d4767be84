"""Turns annotations (DATA/annotations/*.jsonl) into Uni-STG Parquet shards."""

from __future__ import annotations

from jobs.common import finish, need_folder, resolve, show_plan
from pipelines import storage
from pipelines.build_unistg import BuildUnistgConfig, find_files, read_through
from pipelines.build_unistg import run as build


def run(data: str, out: str, overrides: list[str], dry_run: bool) -> int:
    """Builds the shards, unless they are there already; returns the exit status."""
    config = resolve(BuildUnistgConfig, "", overrides, data=data, out=out)
    need_folder("--data", data, "annotations", "records are read from DIR/annotations/<split>.jsonl")
    if dry_run:
        return show_plan("build-unistg", config, f"{read_through(find_files(data)).count} records")
    summary = build(config)
    dropped = f", {summary['failed']} dropped, see {storage.join(out, 'dropped.jsonl')}" if summary["failed"] else ""
    finish(f"shards: {storage.join(out, 'unistg')} ({summary['ok']} records{dropped})")
    return 0
