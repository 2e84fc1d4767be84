"""Converts published annotations, or the user's own, to records that ``build-unistg`` turns into shards."""

from __future__ import annotations

import json
from typing import Any

from jobs.common import finish, resolve, show_plan
from pipelines.core import storage
from pipelines.dataset.convert import ConvertConfig, check
from pipelines.dataset.convert import run as convert


def run(options: dict[str, Any], as_json: bool, overrides: list[str], dry_run: bool) -> int:
    """Converts one source; returns the exit status. ``options``: fields of ``ConvertConfig``."""
    config = resolve(ConvertConfig, "", overrides, **options)
    source = check(config)
    if dry_run:
        published = ", ".join(f"{count:,} {split}" for split, count in source.published.items())
        return show_plan("convert", config, f"published: {published}" if published else source.where)
    summary = convert(config)
    if as_json:
        finish(json.dumps(summary, ensure_ascii=False))
        return 0
    known = [f"{n:,} {split} were published" for split, n in summary["published"].items() if n]
    lost = summary["read"] - summary["kept"]
    dropped = f", {lost} dropped, see {storage.join(config.out, 'dropped.jsonl')}" if lost else ""
    facts = "; ".join([f"{summary['kept']} of {summary['read']} questions{dropped}", *known])
    finish(f"annotations: {storage.join(config.out, 'annotations')} ({facts})")
    return 0
