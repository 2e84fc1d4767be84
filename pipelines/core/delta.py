"""Delta tables as this project uses them: files that somebody else wrote become rows, or cease to be, in one commit.

A commit is refused when anybody has committed since the table was looked at last: then the writer looks again and
decides anew. Object stores hold this, too (conditional puts), which no lock of theirs could.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from typing import NamedTuple, Self

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Schema
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction

from pipelines.core import storage
from spacevllm.config import ConfigError

GENERATION = "generation"  # the column by which the table is partitioned
ONCE = CommitProperties(max_commit_retries=0)  # deltalake itself would try again without another look
KEPT_H = 1  # files that have ceased to be rows: readers may be at them
SMALL_FILES, LARGE_BYTES = 200, 128 << 20  # so many small files are made into files of about so many bytes
PROPERTIES = {"delta.deletedFileRetentionDuration": "interval 1 hours", "delta.checkpointInterval": "50"}


class Conflict(Exception):
    """Somebody else has committed meanwhile."""


class File(NamedTuple):
    """A Parquet file of the table. path: relative to its folder. size: bytes. added: ms since 1970; 0: not yet."""

    path: str
    size: int
    rows: int
    generation: str
    added: int = 0

    def of(self, generation: str) -> Self:
        return self._replace(generation=generation)


class Log:
    """The table in ``folder`` as it was at the last ``look``."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._table = _open(folder)
        self._columns: set[str] = set()

    @property
    def version(self) -> int:
        """Of the last look; -1: there is no table yet."""
        return -1 if self._table is None else int(self._table.version())

    @property
    def there(self) -> bool:
        return self._table is not None

    def look(self) -> None:
        """Sees what was committed since."""
        if self._table is None:
            self._table = _open(self.folder)
        else:
            self._table.update_incremental()

    def files(self, *generations: str) -> list[File]:
        """In the order of their paths, which is that of no time; none named: of all generations."""
        if self._table is None:
            return []
        actions = pa.table(self._table.get_add_actions(flatten=True))
        names = ("path", "size_bytes", "num_records", f"partition.{GENERATION}", "modification_time")
        files = sorted(File(*row) for row in zip(*(actions[name].to_pylist() for name in names), strict=True))
        return [file for file in files if not generations or file.generation in generations]

    def commit(self, come: Iterable[File], gone: Iterable[File] = ()) -> None:
        """All of it or nothing. A file that is there already may come with another generation.

        Raises:
            Conflict: the table is not any more as it was at the last look; nothing was done.
            OutputError: the store refuses.
        """
        come, now = list(come), int(time.time() * 1000)
        add = [AddAction(f.path, f.size, {GENERATION: f.generation}, now, True, json.dumps({"numRecords": f.rows}))
               for f in come]  # fmt: skip
        remove = [RemoveAction(f.path, True, now, f.size, {GENERATION: f.generation}) for f in gone]
        try:
            table = self._ready(come)
            table.create_write_transaction(
                [*remove, *add], "append", table.schema(), partition_by=[GENERATION], commit_properties=ONCE
            )
        except (DeltaError, OSError) as error:
            if isinstance(error, CommitFailedError) and self._has_moved():
                raise Conflict(str(error)) from None
            why = " ".join(re.sub(r"\x1b\[[0-9;]*m|↳", "", str(error)).split())  # it is drawn as a tree, in colours
            raise storage.OutputError(f"cannot write {self.folder}: {why}; then run the same command again") from error

    def _has_moved(self) -> bool:
        """Whether anybody has committed since the last look, which this one becomes; else a refused commit is no
        conflict, but a store that does not let anybody write."""
        version = self.version
        self.look()
        return self.version != version

    def sweep(self, hours: int = KEPT_H) -> None:
        """Deletes the files that no row has needed for so long; who reads an older version of the table misses them."""
        if self._table is not None:
            self.look()
            vacuum = partial(self._table.vacuum, hours, enforce_retention_duration=False)
            if vacuum(dry_run=True):  # else it would write to the log that there was nothing
                vacuum(dry_run=False)

    def compact(self, generation: str, least: int = SMALL_FILES) -> bool:
        """Makes few large files of many small ones, if there are at least so many; readers and ids notice nothing."""
        small = [file for file in self.files(generation) if file.size < LARGE_BYTES // 2]
        if self._table is None or len(small) < least:
            return False
        with suppress(CommitFailedError):  # somebody else has committed: another time
            self._table.optimize.compact(partition_filters=[(GENERATION, "=", generation)], target_size=LARGE_BYTES)
        self.look()
        return True

    def _ready(self, come: list[File]) -> DeltaTable:
        """The table with the columns of what comes; made if there is none."""
        if self._columns and self._table is not None:
            return self._table
        schemas = [pa.schema([]), *(_schema(storage.join(self.folder, file.path)) for file in come)]
        schema = pa.unify_schemas(schemas, promote_options="permissive")
        if self._table is None:
            self._table = DeltaTable.create(
                _address(self.folder),
                schema,
                mode="ignore",
                partition_by=[GENERATION],
                configuration=PROPERTIES,
                storage_options=options(self.folder),
            )
            if self.version > 0:  # somebody else made it, and it may hold rows already
                raise Conflict("the table was made meanwhile")
        self._columns = {field.name for field in self._table.schema().fields}
        if new := [field for field in schema if field.name not in self._columns]:  # of a later release
            self._table.alter.add_columns(Schema.from_arrow(pa.schema(new)).fields)
            self._table.update_incremental()
            self._columns |= {field.name for field in new}
        return self._table


def _open(folder: str) -> DeltaTable | None:
    try:
        return DeltaTable(_address(folder), storage_options=options(folder))
    except TableNotFoundError:
        return None


def _schema(uri: str) -> pa.Schema:
    with storage.open_read(uri) as file:
        schema: pa.Schema = pq.ParquetFile(file).schema_arrow
    return schema.append(pa.field(GENERATION, pa.string()))


def _address(folder: str) -> str:
    """Raises ConfigError: deltalake would take a ``%41`` in the path for an ``A``, a backslash for a slash."""
    if "://" not in folder and re.search(r"%[0-9A-Fa-f]{2}|\\", folder):
        raise ConfigError(f"{folder}: results cannot be kept below a folder with a backslash or %hex in its name")
    return folder


def options(folder: str) -> dict[str, str] | None:
    """What fsspec knows from the environment and deltalake has to be told."""
    if folder.startswith("s3://") and os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://"):
        return {"allow_http": "true"}
    return None
