"""How rows land: written by the actor that made them, committed and counted by the driver.

A task of its own for writing would cost one more process with all its imports, and a hand-over a block.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from typing import Any

import pyarrow as pa

from pipelines.core.commits import Block, committing
from pipelines.core.delta import File
from pipelines.core.failures import Breaker, MachineFault
from pipelines.core.results import Results
from pipelines.core.storage import OutputError
from spacevllm.config import ConfigError

PAUSES_S = (1.0, 4.0)  # before a file is written a second and a third time
_FOR_THE_USER = (OutputError, ConfigError, FileNotFoundError, MachineFault)  # Ray would wrap them in a page of traces


def writing(worker: type, results: Results) -> type:
    """The same Ray Data actor, which writes its rows for ``results``; what leaves it is how each went: ``landed``."""

    class Writing(worker):
        def __init__(self, *arguments: Any) -> None:
            self.trouble: Exception | None = None
            try:
                super().__init__(*arguments)
            except _FOR_THE_USER as error:
                self.trouble = error

        def __call__(self, table: pa.Table) -> pa.Table:
            if self.trouble:
                return _report(table, self.trouble)
            try:
                return self._written(super().__call__(table))
            except (MachineFault, OutputError) as error:
                return _report(table, error)

        def _written(self, made: pa.Table) -> pa.Table:
            """A worker with ``leave`` leaves where it cannot write, and others have its block; ``wrote``: it could."""
            try:
                report = _report(made, file=patiently(lambda: results.write(made, shard=results.shard)))
            except OutputError as error:
                if error.passes and hasattr(self, "leave"):
                    self.leave(MachineFault(str(error)))
                raise
            if hasattr(self, "wrote"):
                self.wrote()
            return report

    Writing.__name__ = Writing.__qualname__ = worker.__name__  # by which Ray calls its process
    return Writing


def landed(rows: Any, results: Results, replacing: AbstractSet[str]) -> Iterator[tuple[int, int]]:
    """(rows, failed rows) of each block of a Ray data set, which is committed meanwhile; ``rows`` come from ``writing``
    actors.

    Args:
        replacing: see ``Results.done``.

    Raises:
        OutputError: a block cannot be written; those before it are there.
        MachineFault: a machine fails whatever it is given. TooManyFailures: see ``Breaker``.
        ConfigError, FileNotFoundError: an actor could not be made, such as a model that does not load.
    """
    breaker = Breaker()
    with committing(results, replacing) as commits:
        for table in rows.iter_batches(batch_format="pyarrow", batch_size=None, prefetch_batches=0):
            for block in _by_file(table):
                commits.add(block)
            if trouble := next(filter(None, table["trouble"].to_pylist()), b""):
                raise pickle.loads(trouble)
            breaker.see(table["error"].to_pylist())
            status = table["status"].to_pylist()
            yield len(status), len(status) - status.count("ok")


def patiently(write: Callable[[], File]) -> File:
    """Tries again what may pass. Raises OutputError."""
    for pause_s in PAUSES_S:
        try:
            return write()
        except OutputError as error:
            if not error.passes:
                raise
        time.sleep(pause_s)
    return write()


def written(rows: Any, results: Results, replacing: AbstractSet[str]) -> Iterator[tuple[int, int]]:
    """``landed`` for a data set whose last stage is tasks, not actors: the writing joins them."""

    def write(table: pa.Table) -> pa.Table:
        return _write(table, results)

    return landed(rows.map_batches(write, batch_format="pyarrow", batch_size=None), results, replacing)


def _write(table: pa.Table, results: Results) -> pa.Table:
    try:
        return _report(table, file=patiently(lambda: results.write(table, shard=results.shard)))
    except OutputError as error:
        return _report(table, error)


def _report(table: pa.Table, trouble: Exception | None = None, file: File | None = None) -> pa.Table:
    """Each row's id, status and error and, in every row, the file that holds it or what stopped the block; of rows
    that were not even made, ``failed`` without an id."""
    count = table.num_rows
    made = {name: table[name] for name in ("id", "status", "error") if name in table.column_names}
    none = {name: pa.array([value] * count) for name, value in (("id", ""), ("status", "failed"), ("error", ""))}
    told = {"file": pickle.dumps(file) if file else b"", "trouble": pickle.dumps(trouble) if trouble else b""}
    return pa.table(none | made | {name: pa.array([value] * count, pa.binary()) for name, value in told.items()})


def _by_file(table: pa.Table) -> list[Block]:
    """Ray may hand several workers' blocks over as one."""
    ids: dict[bytes, list[str]] = {}
    for name, file in zip(table["id"].to_pylist(), table["file"].to_pylist(), strict=True):
        ids.setdefault(file, []).append(name)
    return [Block(pickle.loads(file), names) for file, names in ids.items() if file]
