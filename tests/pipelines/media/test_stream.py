"""Work from files comes in the blocks that were planned, the same ones each time."""

from __future__ import annotations

import pyarrow as pa

from pipelines.core import storage
from pipelines.media.stream import Chunks, blocks_of


def shapes(work, block_rows):
    """First value and rows of each block that a worker gets."""

    def shape(block: pa.Table) -> pa.Table:
        return pa.table({"first": block["n"][:1], "rows": [block.num_rows]})

    rows = blocks_of(work, block_rows).map_batches(shape, batch_format="pyarrow", batch_size=None)
    return sorted((row["first"], row["rows"]) for row in rows.iter_rows())


def test_a_file_is_cut_where_it_is_read(tmp_path, ray_cluster):
    tables = [pa.table({"n": range(10)}), pa.table({"n": range(10, 13)}), pa.table({"n": range(13, 21)})]
    uris = [str(tmp_path / f"{n}.parquet") for n in range(3)]
    for uri, table in zip(uris, tables, strict=True):
        storage.write_table(uri, table)
    work = Chunks(uris, 21)
    cut = [(0, 4), (4, 4), (8, 2), (10, 3), (13, 4), (17, 4)]
    assert shapes(work, 4) == shapes(work, 4) == cut
    assert shapes(pa.concat_tables(tables), 8) == [(0, 8), (8, 8), (16, 5)]
