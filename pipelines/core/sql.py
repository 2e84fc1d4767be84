"""DuckDB, in this process and within bounds: what does not fit into its memory lies in a temporary folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipelines.core import scratch

MEMORY, THREADS = "384MB", 4

Database = Any  # duckdb.DuckDBPyConnection, which only who opens one imports


@contextmanager
def open_database() -> Iterator[Database]:
    """An empty database for the block; its folder is swept like a fetched file's if this process is killed."""
    import duckdb

    scratch.sweep()
    with scratch.held_folder() as folder:
        settings: dict[str, Any] = {"memory_limit": MEMORY, "threads": THREADS, "temp_directory": f"{folder}/spilled"}
        with duckdb.connect(f"{folder}/plan.duckdb", config=settings) as database:
            database.execute("SET preserve_insertion_order = false")  # else whole results wait in memory for their turn
            database.execute("SET enable_progress_bar = false")
            yield database


def value(database: Database, query: str, *arguments: object) -> Any:
    """The one value that ``query`` gives."""
    [(found,)] = database.execute(query, list(arguments)).fetchall()  # fetchone would leave the query open
    return found


def arrow(database: Database, query: str, *arguments: object) -> Any:
    """All rows of ``query`` as a ``pa.Table``."""
    return database.sql(query, params=list(arguments)).to_arrow_table()
