"""The table of tubes as readers see it: one generation, by default that of the last finished run."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

from pipelines.core import locks, storage
from pipelines.core.delta import Log
from pipelines.core.results import WAITING, Results
from spacevllm.config import ConfigError

FOLDER = "tubes"


def results_of(out: str, generation: str, shard: str = "") -> Results:
    """The answers of one model, in OUT/tubes; a good answer stays until a good one takes its place."""
    return Results(storage.join(out, FOLDER), generation, keep_good=True, shard=shard)


def visible(out: str, generation: str = "") -> Results:
    """What ``ground`` has left in ``out``.

    Args:
        generation: by name; default: the one that OUT/summary.json names, so a run with another model shows when it
            has finished. Before any run has, the first one.
    """
    return results_of(out, generation or _named(out) or next(iter(generations(out)), ""))


def generations(out: str) -> dict[str, int]:
    """Name → rows that readers see, of every model whose answers are there."""
    counts: dict[str, int] = {}
    for file in Log(storage.absolute(storage.join(out, FOLDER))).files():
        if not file.generation.endswith(WAITING):
            counts[file.generation] = counts.get(file.generation, 0) + file.rows
    return counts


def _named(out: str) -> str:
    try:
        return str(storage.read_json(storage.join(out, "summary.json")).get("generation", ""))
    except FileNotFoundError:
        return ""


def prune(out: str, dry_run: bool = False) -> dict[str, int]:
    """Removes what other models have answered, for good; generation → rows.

    Raises:
        StorageBusy: a run writes to ``out``.
    """
    with locks.exclusive(out):
        log = Log(storage.absolute(storage.join(out, FOLDER)))
        kept = visible(out)
        gone = [file for file in log.files() if file.generation not in (kept.generation, kept.waiting)]
        counts = {file.generation: 0 for file in gone}
        for file in gone:
            counts[file.generation] += file.rows
        if gone and not dry_run:
            log.commit([], gone)
            log.sweep(hours=0)
        return counts


def forget(out: str, video: str = "", question: str = "", dry_run: bool = False) -> int:
    """Removes every answer about a video, to a question, or to a question about a video, of whatever model; how many.

    No file that is left holds them, and no earlier version of the table. What was made of them elsewhere (exports,
    reports) is the caller's to remove.

    Args:
        video: uri, path or the end of it, such as the file name. question: its text.
        dry_run: only count.

    Raises:
        ConfigError: neither is given. StorageBusy: a run writes to ``out``.
    """
    if not video and not question:
        raise ConfigError("give the video or the question whose answers are to be forgotten")
    with locks.exclusive(out):
        log = Log(storage.absolute(storage.join(out, FOLDER)))
        come, gone, count = [], [], 0
        for file in log.files():
            results = Results(log.folder, file.generation)
            table = results.read(file)
            rest = table.filter(pa.array([not _is_meant(row, video, question) for row in _asked(table)], pa.bool_()))
            if rest.num_rows < table.num_rows:
                gone.append(file)
                come += [results.write(rest)] if rest.num_rows and not dry_run else []
                count += table.num_rows - rest.num_rows
        if gone and not dry_run:
            log.commit(come, gone)
        if not dry_run:
            log.sweep(hours=0)  # also of rows that were replaced before
        return count


def _asked(table: pa.Table) -> Iterable[tuple[str, str]]:
    return zip(table["video"].to_pylist(), table["question"].to_pylist(), strict=True)


def _is_meant(row: tuple[str, str], video: str, question: str) -> bool:
    uri, asked = row
    found = not video or uri == video or uri == storage.absolute(video) or uri.endswith("/" + video)
    return found and question in ("", asked)
