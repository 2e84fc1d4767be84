"""The table of tubes as readers see it: one generation, by default that of the last finished run."""

from __future__ import annotations

from pipelines.core import storage
from pipelines.core.delta import Log
from pipelines.core.results import WAITING, Results

FOLDER = "tubes"


def results_of(out: str, generation: str) -> Results:
    """The answers of one model, in OUT/tubes; a good answer stays until a good one takes its place."""
    return Results(storage.join(out, FOLDER), generation, keep_good=True)


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
