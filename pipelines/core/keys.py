"""Which rows of a plan are done, and how they ended: the rules of ``results.Row`` in SQL, for millions of rows.

The database has a table ``pairs`` with ``id`` and ``fingerprint`` as numbers (UBIGINT: 16 hex digits; fingerprint NULL:
it cannot be told now). ``load`` puts the table ``keys`` beside it: the key columns of all files that the log names.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.dataset
import pyarrow.fs

from pipelines.core import sql, storage
from pipelines.core.delta import File, Log
from pipelines.core.results import KEY, Again, Results

_NUMBER = "CASE WHEN length({0}) = 16 THEN TRY_CAST('0x' || {0} AS UBIGINT) END"
_LOAD = f"""INSERT INTO keys SELECT {_NUMBER.format("id")}, {_NUMBER.format("fingerprint")}, status = 'ok', ?,
    CASE WHEN coalesce(error, '') = '' THEN '' ELSE split_part(error, ':', 1) || ':' END FROM rows"""
_MISSING = """CREATE OR REPLACE TABLE missing AS
    SELECT p.*, p.id IN (SELECT id FROM keys) AS replaces FROM (
        SELECT * FROM pairs p WHERE fingerprint IS NOT NULL AND NOT EXISTS (
            SELECT 1 FROM keys k WHERE k.id = p.id AND k.fingerprint = p.fingerprint
            AND (k.ok OR NOT list_contains(?, k.reason)))
        UNION ALL
        SELECT * FROM pairs p WHERE fingerprint IS NULL AND NOT EXISTS (
            SELECT 1 FROM keys k WHERE k.id = p.id AND k.ok)) p"""
_ENDED = """SELECT ok, reason, count(*) AS number, sum(id::HUGEINT) AS total FROM (
        SELECT k.id, k.ok, k.reason FROM keys k JOIN pairs p ON k.id = p.id AND k.fingerprint = p.fingerprint
        UNION ALL
        SELECT k.id, k.ok, k.reason FROM keys k JOIN pairs p ON k.id = p.id
        WHERE p.fingerprint IS NULL AND NOT k.hidden) GROUP BY ALL ORDER BY number DESC"""


class Keys:
    """The table ``keys`` of a database: as it was at the last ``load``."""

    def __init__(self, database: sql.Database, results: Results) -> None:
        self.database, self.results = database, results
        self.num_files = 0
        self._version = -2

    def load(self) -> None:
        """Reads what was committed since; nothing if that is nothing."""
        log = Log(self.results.folder)
        if log.version == self._version:
            return
        self._version = log.version
        self.database.execute(
            "CREATE OR REPLACE TABLE keys (id UBIGINT, fingerprint UBIGINT, ok BOOLEAN, hidden BOOLEAN, reason VARCHAR)"
        )
        self.num_files = 0
        for generation in (self.results.generation, self.results.waiting):
            if files := log.files(generation):
                self.num_files += len(files)
                self.database.register("rows", self._reader(files))
                self.database.execute(_LOAD, [generation == self.results.waiting])
                self.database.unregister("rows")

    def find_missing(self, again: Again) -> None:
        """Makes the table ``missing``: the ``pairs`` that are not done; ``replaces``: another row is there.

        Args:
            again: which failed rows are done once more; it is asked once a reason.
        """
        self.load()
        reasons = self.database.execute("SELECT DISTINCT reason FROM keys WHERE NOT ok").fetchall()
        self.database.execute(_MISSING, [[reason for (reason,) in reasons if again(reason)]])

    def count(self) -> dict[str, object]:
        """``results.count_rows`` of all ``pairs``.

        Raises:
            RuntimeError: rows are missing or doubled.
        """
        self.load()
        ended = self.database.execute(_ENDED).fetchall()
        [(expected, total)] = self.database.execute("SELECT count(*), sum(id::HUGEINT) FROM pairs").fetchall()
        found = sum(number for _, _, number, _ in ended)
        if found != expected or sum(part for _, _, _, part in ended) != (
            total or 0
        ):  # ids are hashes: none hides another
            raise RuntimeError(f"{expected} rows expected, {found} found: run the same command again")
        ok = sum(number for good, _, number, _ in ended if good)
        errors: dict[str, int] = {}
        for _, reason, number, _ in ended:
            if reason:
                errors[reason[:-1]] = errors.get(reason[:-1], 0) + number
        return {"in": expected, "ok": ok, "failed": expected - ok, "errors": errors}

    def _reader(self, files: list[File]) -> Any:
        """The key columns, a few thousand rows at a time."""
        fs, _ = storage.arrow(self.results.folder)
        paths = [storage.arrow(self.results.uri(file))[1] for file in files]
        schema = pa.schema([(name, pa.string()) for name in KEY])
        found = pyarrow.dataset.dataset(paths, schema, "parquet", fs or pyarrow.fs.LocalFileSystem())
        return found.scanner(columns=KEY, batch_size=1 << 15, batch_readahead=4, fragment_readahead=8).to_reader()
