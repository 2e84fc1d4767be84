"""Arrow files of sorted rows, and what merges many of them into few, so that few files are open at once.

A *run* holds the records of a chunk, or of several, in the order of their buckets. Its record batches are *pages*:
page ``p`` of ``P`` holds every bucket ``b`` with ``b * P // num_buckets == p``, so a bucket is found without an index.
Places in the order are hashes, so pages are equally full; there are no more of them than the rows are worth: what all
runs take grows with the number of records, not with chunks times buckets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain, pairwise

import numpy as np
import pyarrow as pa

from pipelines.core import storage

FAN_IN = 64  # files that are open at once
PAGE_ROWS = 256  # at least, on average, if the file has so many

Merges = list[tuple[list[str], str]]  # (files, the one they become)


def merge_in_steps(files: list[str], stem: str, merge: Callable[[Merges], None]) -> list[str]:
    """Merges ``FAN_IN`` neighbours at a time, again and again, until no more than ``FAN_IN`` files are left: those.

    Args:
        stem: how the names of the new ones begin.
        merge: does all merges of one step.
    """
    step = 0
    while len(files) > FAN_IN:
        groups = [files[start : start + FAN_IN] for start in range(0, len(files), FAN_IN)]
        merged = [f"{stem}-{step}-{number:06d}" for number in range(len(groups))]
        merge(list(zip(groups, merged, strict=True)))
        files, step = merged, step + 1
    return files


def write_run(uri: str, records: pa.Table, num_buckets: int) -> None:
    """``records``, in any order, as a run."""
    num_pages = max(1, min(num_buckets, records.num_rows // PAGE_ROWS))
    buckets = bucket_of(records, num_buckets)  # (N,)
    ordered = np.argsort(buckets, kind="stable")  # (N,)
    borders = np.searchsorted(buckets[ordered], _first_buckets(num_pages, num_buckets))  # (P + 1,)
    write_batches(uri, (records.take(pa.array(ordered[a:b])) for a, b in pairwise(borders)))


def merge_runs(files: list[str], uri: str, num_buckets: int) -> None:
    """The records of several runs as one, with a page of each in memory; does nothing where it is done."""
    if storage.exists(uri):
        return
    with ExitStack() as stack:
        runs = [stack.enter_context(_open(file, num_buckets)) for file in files]
        num_pages = min(num_buckets, sum(run.num_pages for run in runs))
        pages = pairwise(_first_buckets(num_pages, num_buckets))
        write_batches(uri, (_joined([run.rows(first, last) for run in runs], num_buckets) for first, last in pages))


def read_bucket(uri: str, bucket: int, num_buckets: int) -> pa.Table:
    """The records of one bucket; only its page is read."""
    with _open(uri, num_buckets) as run:
        return run.rows(bucket, bucket + 1)


def bucket_of(records: pa.Table, num_buckets: int) -> np.ndarray:
    """(N,) int64; bucket b holds the b-th of ``num_buckets`` equal parts of the order."""
    return np.array([int(order[:8], 16) * num_buckets >> 32 for order in records["order"].to_pylist()], np.int64)


def write_batches(uri: str, tables: Iterable[pa.Table]) -> None:
    """An Arrow file with one record batch for each table, empty ones too; there must be at least one."""
    rest = iter(tables)
    first = next(rest)
    with storage.open_write(uri) as file, pa.ipc.new_file(file, first.schema) as writer:
        for table in chain([first], rest):
            batches = table.combine_chunks().to_batches()
            writer.write_batch(batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema))


def read_batch(uri: str, number: int) -> pa.Table:
    """One of them; the others are not read."""
    with storage.open_read(uri) as file:
        return pa.Table.from_batches([pa.ipc.open_file(file).get_batch(number)])


def read_batches(uri: str) -> Iterator[pa.Table]:
    """All of them in order, one in memory at a time; the file is closed between them."""
    with storage.open_read(uri) as file:
        count = pa.ipc.open_file(file).num_record_batches
    for number in range(count):
        yield read_batch(uri, number)


class _Run:
    """An open run that remembers its last page: whoever merges asks for every page many times in a row."""

    def __init__(self, reader: pa.ipc.RecordBatchFileReader, num_buckets: int) -> None:
        self.reader, self.num_buckets, self.num_pages = reader, num_buckets, reader.num_record_batches
        self.number = -1

    def rows(self, first: int, last: int) -> pa.Table:
        """The records of buckets ``[first, last)``."""
        pages = range(first * self.num_pages // self.num_buckets, (last - 1) * self.num_pages // self.num_buckets + 1)
        return pa.concat_tables([self._part(page, first, last) for page in pages])

    def _part(self, number: int, first: int, last: int) -> pa.Table:
        if number != self.number:
            self.number, self.page = number, pa.Table.from_batches([self.reader.get_batch(number)])
            self.buckets = bucket_of(self.page, self.num_buckets)  # (N,) rising
        begin, end = np.searchsorted(self.buckets, [first, last])
        return self.page.slice(begin, end - begin)


@contextmanager
def _open(uri: str, num_buckets: int) -> Iterator[_Run]:
    with storage.open_read(uri) as file:
        yield _Run(pa.ipc.open_file(file), num_buckets)


def _joined(tables: list[pa.Table], num_buckets: int) -> pa.Table:
    rows = pa.concat_tables(tables)
    return rows.take(pa.array(np.argsort(bucket_of(rows, num_buckets), kind="stable")))


def _first_buckets(num_pages: int, num_buckets: int) -> list[int]:
    """Where each page begins, and where the last one ends: (P + 1) rising numbers."""
    return [-(-page * num_buckets // num_pages) for page in range(num_pages + 1)]
