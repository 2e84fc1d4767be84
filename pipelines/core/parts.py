"""Finished rows: a folder of Parquet files, each written whole or not at all. What is in it is done.

The output is its own record of completion. A second record beside it (such as Ray Data's checkpoint) would have to
agree with it after every kind of crash, and it could not say "done, but for another model". A row carries

    id            what it answers: a hash of uri (and question)
    status        "ok" or "failed"
    fingerprint   a hash of everything else it was made from: the video's bytes, the model, the sampling plan

and is done when a row with the same id and fingerprint is in a file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.core import storage
from spacevllm.data.instance import instance_id

KEY = ["id", "status", "fingerprint"]


class Parts:
    """Part files in ``folder``. One job at a time (``storage.exclusive``), any number of its workers."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def write(self, table: pa.Table) -> None:
        """Adds a file, named after its rows: a worker that is retried replaces its own file."""
        name = f"part-{instance_id(*table['id'].to_pylist())}.parquet"
        storage.write_table(storage.join(self.folder, name), table)

    def tidy(self, wanted: Mapping[str, str], retry_failed: bool = False) -> set[str]:
        """Drops what has to be made again; returns the ids that are done.

        Dropped: a wanted row with another fingerprint, a wanted row that failed (only with ``retry_failed``), and a row
        that is there twice (a worker outlived its killed driver). Rows that nobody wants now stay.

        Args:
            wanted: id → fingerprint.
        """
        done: set[str] = set()
        for uri in self._files():
            table = storage.read_table(uri, KEY)
            keep = []
            for row in table.to_pylist():
                stale = wanted.get(row["id"], row["fingerprint"]) != row["fingerprint"]
                retry = retry_failed and row["status"] != "ok" and row["id"] in wanted
                keep.append(not stale and not retry and row["id"] not in done)
                if keep[-1]:
                    done.add(row["id"])
            if not all(keep):
                self._rewrite(uri, keep)
        return done

    def collect(self, wanted: Mapping[str, str], columns: list[str] | None = None) -> pa.Table:
        """The wanted rows in the order of their ids; ``columns`` must hold ``id``.

        Tidies first: a worker that outlived its killed driver may have written after this run began.
        """
        self.tidy(wanted)
        table = pa.concat_tables(self.tables(columns), promote_options="default")  # older rows may lack a column
        return table.filter(pc.is_in(table["id"], pa.array(list(wanted), pa.string()))).sort_by("id")

    def rows(self, columns: list[str]) -> Iterator[tuple[dict[str, Any], str]]:
        """Every row with the file it lies in, one file at a time."""
        for uri in self._files():
            for row in storage.read_table(uri, columns).to_pylist():
                yield row, uri

    def tables(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """One file after the other."""
        for uri in self._files():
            yield storage.read_table(uri, columns)

    def _files(self) -> list[str]:
        return [uri for uri in storage.find(self.folder) if uri.endswith(".parquet")]

    def _rewrite(self, uri: str, keep: list[bool]) -> None:
        if any(keep):
            storage.write_table(uri, storage.read_table(uri).filter(pa.array(keep)))
        else:
            storage.remove(uri)


def count_rows(table: pa.Table, expected: int) -> dict[str, object]:
    """``{"in", "ok", "failed", "errors": {reason: count}}`` of finished rows with columns status and error.

    Raises:
        RuntimeError: rows are missing or doubled; in = ok + failed is the promise of every summary.
    """
    ok = table["status"].to_pylist().count("ok")
    if table.num_rows != expected or len(set(table["id"].to_pylist())) != expected:
        raise RuntimeError(f"{expected} rows expected, {table.num_rows} found: run the same command again")
    errors = Counter(text.partition(":")[0] for text in table["error"].to_pylist() if text)
    return {"in": expected, "ok": ok, "failed": expected - ok, "errors": dict(errors.most_common())}
