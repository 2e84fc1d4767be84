"""Work → blocks of a Ray data set. A block is what travels together, and what is done again when its worker is lost.

A small table is cut into blocks here. Of a large one only the names of its files leave the driver: each block that the
driver puts into Ray costs 2 ms before anything runs, and stays in memory. A file is cut by who reads it, bit by bit as
Ray asks for more, and always in the same places.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pyarrow as pa

from pipelines.core import storage

READERS = 2  # files that are read at once; a reader holds a CPU while it is at work


class Chunks(NamedTuple):
    """Parquet files that every node can read, and how many rows they have together."""

    uris: list[str]
    num_rows: int


def blocks_of(work: pa.Table | Chunks, block_rows: int) -> Any:
    """A Ray data set of ``work``'s rows, ``block_rows`` in a block."""
    import ray
    from ray.data import TaskPoolStrategy

    if isinstance(work, pa.Table):
        cuts = range(0, work.num_rows, block_rows)
        # from_arrow would look at each block in a task, and start workers for it
        return ray.data.from_blocks([work.slice(start, block_rows).combine_chunks() for start in cuts])
    files = ray.data.from_blocks([pa.table({"uri": [uri]}) for uri in work.uris])
    read = files.map_batches(_read, batch_format="pyarrow", batch_size=None, compute=TaskPoolStrategy(READERS))
    return read.repartition(target_num_rows_per_block=block_rows)  # which cuts, and joins nothing across files


def _read(files: pa.Table) -> pa.Table:
    return pa.concat_tables([storage.read_table(uri) for uri in files["uri"].to_pylist()])
