"""How rows land: written by the actor that made them, counted by the driver.

A task of its own for writing would cost one more process with all its imports, and a hand-over a block.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from pipelines.core.parts import Parts
from pipelines.core.storage import OutputError
from spacevllm.config import ConfigError

_FOR_THE_USER = (OutputError, ConfigError, FileNotFoundError)  # Ray would wrap them in a page of traces


def writing(worker: type, parts: Parts) -> type:
    """The same Ray Data actor, which writes its rows to ``parts``; what leaves it is how each went, see ``landed``."""

    class Writing(worker):
        def __init__(self, *arguments: Any) -> None:
            self.trouble: Exception | None = None
            try:
                super().__init__(*arguments)
            except _FOR_THE_USER as error:
                self.trouble = error

        def __call__(self, table: pa.Table) -> pa.Table:
            return _report(table, self.trouble) if self.trouble else _write(super().__call__(table), parts)

    Writing.__name__ = Writing.__qualname__ = worker.__name__  # by which Ray calls its process
    return Writing


def landed(rows: Any) -> Iterator[tuple[int, int]]:
    """(rows, failed rows) of each block of a Ray data set, as they land; ``rows`` come from ``writing`` actors.

    Raises:
        OutputError: a block cannot be written; those before it are there.
        ConfigError, FileNotFoundError: an actor could not be made, such as a model that does not load.
    """
    for table in rows.iter_batches(batch_format="pyarrow", batch_size=None, prefetch_batches=0):
        if trouble := next(filter(None, table["trouble"].to_pylist()), b""):
            raise pickle.loads(trouble)
        status = table["status"].to_pylist()
        yield len(status), len(status) - status.count("ok")


def written(rows: Any, parts: Parts) -> Iterator[tuple[int, int]]:
    """``landed`` for a data set whose last stage is tasks, not actors: the writing joins them."""

    def write(table: pa.Table) -> pa.Table:
        return _write(table, parts)

    return landed(rows.map_batches(write, batch_format="pyarrow", batch_size=None))


def _write(table: pa.Table, parts: Parts) -> pa.Table:
    try:
        parts.write(table)
    except OutputError as error:
        return _report(table, error)
    return _report(table)


def _report(table: pa.Table, trouble: Exception | None = None) -> pa.Table:
    """Each row's status and, in every row, what stopped the block; of rows that were not even made, ``failed``."""
    status = table["status"] if "status" in table.column_names else pa.array(["failed"] * table.num_rows)
    told = pickle.dumps(trouble) if trouble else b""
    return pa.table({"status": status, "trouble": pa.array([told] * table.num_rows, pa.binary())})
