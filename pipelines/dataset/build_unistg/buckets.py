"""Second pass: the records of one bucket in every run → that bucket, sorted, each record once.

A bucket leaves::

    bucket-0003.arrow    one record batch a split, rows of ``SCHEMA`` in their final order
    bucket-0003.media    the media they refer to, sorted, some rows a record batch
    bucket-0003.jsonl    the records left out here: an id that came before, a twin, a training record that is tested
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.core import storage
from pipelines.dataset.build_unistg.chunks import CHECKED, Recipe
from pipelines.dataset.build_unistg.runs import read_bucket, write_batches
from spacevllm.data.instance import SCHEMA
from spacevllm.data.leakage import TRAIN

MEDIA = pa.schema([("split", pa.string()), ("media", pa.string()), ("media_type", pa.string())])
MEDIA_ROWS = 4096  # read at a time, of every file that is merged
REPEATED = "an id that occurs before"
SISTER = "the same clip with the same sentence comes from a sister data set"
TESTED = "a training record about what a held-out split tests"


class Removals(NamedTuple):
    """What no bucket can know alone. held: (H,) uint64, sorted. twins: orders of the records whose sister stays."""

    held: np.ndarray
    twins: frozenset[str]


def gather_removals(facts: Iterable[dict[str, Any]], remove_leaks: bool) -> Removals:
    """From the facts of all chunks; of twins the preferred stays, then the first."""
    held, twins = [], []
    for chunk in facts:
        held.append(np.array(chunk["held"], np.uint64))
        twins += chunk["twins"]
    seen: set[int] = set()
    dropped = set()
    for key, _, order, _ in sorted(twins, key=lambda t: (t[0], t[1], t[3])):
        if key in seen:
            dropped.add(order)
        seen.add(key)
    tested = np.unique(np.concatenate([np.zeros(0, np.uint64), *held])) if remove_leaks else np.zeros(0, np.uint64)
    return Removals(tested, frozenset(dropped))


def save_removals(recipe: Recipe, removals: Removals) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, held=removals.held, twins=np.array(sorted(removals.twins), "U16"))
    storage.write_bytes(storage.join(recipe.spill, "removals.npz"), buffer.getvalue())


def load_removals(recipe: Recipe) -> Removals:
    with storage.open_read(storage.join(recipe.spill, "removals.npz")) as file:
        saved = np.load(io.BytesIO(file.read()))
    return Removals(saved["held"], frozenset(saved["twins"].tolist()))


def sort_bucket(number: int, runs: list[str], splits: list[str], recipe: Recipe) -> dict[str, Any]:
    """Does one bucket; returns its counts."""
    parts = [read_bucket(storage.join(recipe.spill, run), number, recipe.num_buckets) for run in runs]
    records = pa.concat_tables([CHECKED.empty_table(), *parts])
    keys = ("order", "split", "file", "begin", "index")
    records = records.sort_by([(key, "ascending") for key in keys])
    reasons = _reasons(records, load_removals(recipe))
    good = records.filter(pc.is_null(reasons))
    base = storage.join(recipe.spill, f"bucket-{number:04d}")
    _write_dropped(f"{base}.jsonl", records, reasons)
    media = good.filter(pc.not_equal(good["media"], "")).select(MEDIA.names).group_by(MEDIA.names).aggregate([])
    write_batches(f"{base}.media", _slices(media.sort_by([(name, "ascending") for name in MEDIA.names])))
    of_split = [good.filter(pc.equal(good["split"], split)).select(SCHEMA.names) for split in splits]
    write_batches(f"{base}.arrow", of_split)
    kinds = zip(good["task"].to_pylist(), good["source"].to_pylist(), good["split"].to_pylist(), strict=True)
    return {
        "number": number,
        "rows": [table.num_rows for table in of_split],
        "kinds": [[*kind, count] for kind, count in sorted(Counter(kinds).items())],
        "dropped": records.num_rows - good.num_rows,
    }


def _slices(table: pa.Table) -> list[pa.Table]:
    """At least one, so that the file has a schema."""
    return [table.slice(start, MEDIA_ROWS) for start in range(0, max(1, table.num_rows), MEDIA_ROWS)]


def _reasons(records: pa.Table, removals: Removals) -> pa.Array:
    """(N,) why each record goes; null: it stays. The first of an id stays, whatever becomes of it then."""
    ids = records["id"].to_pylist()
    repeated = [a == b for a, b in zip(ids, ids[-1:] + ids[:-1], strict=True)] if len(ids) > 1 else [False] * len(ids)
    if repeated:
        repeated[0] = False  # it was compared with the last
    tested = np.isin(records["tested"].to_numpy(), removals.held) & np.array(
        [split == TRAIN for split in records["split"].to_pylist()], bool
    )
    twins = [order in removals.twins for order in records["order"].to_pylist()]
    rows = zip(repeated, tested.tolist(), twins, strict=True)
    return pa.array([REPEATED if r else TESTED if t else SISTER if w else None for r, t, w in rows], pa.string())


def _write_dropped(uri: str, records: pa.Table, reasons: pa.Array) -> None:
    places = records.select(["file", "begin", "index", "split", "id"]).append_column("reason", reasons)
    rows = places.filter(pc.is_valid(reasons)).rename_columns(["file", "begin", "index", "split", "key", "reason"])
    rows = rows.sort_by([("file", "ascending"), ("begin", "ascending"), ("index", "ascending")])
    storage.write_text(uri, "".join(json.dumps(row) + "\n" for row in rows.to_pylist()))
