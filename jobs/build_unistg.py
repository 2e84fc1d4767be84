"""Builds Uni-STG: from a folder of records, or from a configuration that names sources and synthesis."""

from __future__ import annotations

from jobs.common import finish, need_folder, resolve, say, show_plan
from pipelines.core import storage
from pipelines.core.stage import Summary
from pipelines.dataset import unistg
from pipelines.dataset.build_unistg import BuildUnistgConfig, find_files, read_through
from pipelines.dataset.build_unistg import run as build
from pipelines.dataset.data_card import read_origins, write_data_card
from pipelines.dataset.unistg import UnistgConfig
from spacevllm.config import ConfigError


def run(config: str, data: str, out: str, overrides: list[str], dry_run: bool) -> int:
    """Builds the shards and the data card, unless they are there already; returns the exit status."""
    if bool(config) == bool(data):
        raise ConfigError("give either --data, a folder with annotations, or --config, a file that names the sources")
    if data and not out:
        raise ConfigError("--out is needed with --data")
    return _from_config(config, out, overrides, dry_run) if config else _from_folder(data, out, overrides, dry_run)


def _from_folder(data: str, out: str, overrides: list[str], dry_run: bool) -> int:
    config = resolve(BuildUnistgConfig, "", overrides, data=data, out=out)
    need_folder("--data", data, "annotations", "records are read from DIR/annotations/<split>.jsonl")
    if dry_run:
        return show_plan("build-unistg", config, f"{read_through(find_files(data)).number} records")
    summary = build(config)
    write_data_card(out, storage.name(storage.absolute(data)), summary["errors"], read_origins([data]))
    return _finish(summary, out)


def _from_config(path: str, out: str, overrides: list[str], dry_run: bool) -> int:
    config = resolve(UnistgConfig, path, overrides, **({"out": out} if out else {}))
    if dry_run:
        return show_plan("build-unistg", config, f"{len(config.sources)} annotation files")
    summary = unistg.run(config, f"spacevllm build-unistg --config {path}")
    if config.synthesis is not None:
        say(storage.read_text(storage.join(config.out, "synthesis", "funnel.txt")).removesuffix("\n"))
    return _finish(summary, config.out)


def _finish(summary: Summary, out: str) -> int:
    dropped = f", {summary['failed']} dropped, see {storage.join(out, 'dropped.jsonl')}" if summary["failed"] else ""
    say(f"data card: {storage.join(out, 'data_card.html')}")
    finish(f"shards: {storage.join(out, 'unistg')} ({summary['ok']} records{dropped})")
    return 0
