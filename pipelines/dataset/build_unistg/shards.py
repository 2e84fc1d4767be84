"""Last pass: sorted buckets → shards, the manifest of media and the list of what was dropped."""

from __future__ import annotations

import heapq
import json
from collections import Counter
from collections.abc import Iterator
from itertools import accumulate, chain, groupby
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.core import storage
from pipelines.dataset.build_unistg.buckets import MEDIA, MEDIA_ROWS
from pipelines.dataset.build_unistg.chunks import Chunk, Recipe
from pipelines.dataset.build_unistg.runs import Merges, merge_in_steps, read_batch, read_batches, write_batches
from spacevllm.data.instance import instance_id

MANIFEST = pa.schema([("id", pa.string()), *MEDIA])
MANIFEST_ROWS = 1 << 13  # in a row group; as Python objects they take ten times their size


def write_shards(
    number: int, counts: list[list[int]], splits: list[str], rows_per_shard: int, out: str, recipe: Recipe
) -> dict[str, Any]:
    """Writes the shards whose first row lies in bucket ``number``; returns {name: rows}.

    Args:
        counts: rows of each split in each bucket.
    """
    shards = {}
    for s, split in enumerate(splits):
        ends = [0, *accumulate(bucket[s] for bucket in counts)]  # bucket b holds rows ends[b] to ends[b + 1]
        first = -(-ends[number] // rows_per_shard)
        for shard in range(first, -(-ends[number + 1] // rows_per_shard)):
            begin, end = shard * rows_per_shard, min((shard + 1) * rows_per_shard, ends[-1])
            name = f"unistg/{split}/{shard:05d}.parquet"
            storage.write_table(storage.join(out, name), _rows(begin, end, ends, number, s, recipe))
            shards[name] = end - begin
    return {"number": number, "shards": shards}


def _rows(begin: int, end: int, ends: list[int], bucket: int, split: int, recipe: Recipe) -> pa.Table:
    tables = []
    while begin < end:
        rows = read_batch(storage.join(recipe.spill, f"bucket-{bucket:04d}.arrow"), split)
        part = rows.slice(begin - ends[bucket], end - begin)
        tables.append(part)
        begin += part.num_rows
        bucket += 1
    return pa.concat_tables(tables)


def write_manifest(out: str, num_buckets: int, recipe: Recipe) -> dict[str, int]:
    """OUT/manifest.parquet: id, split, media, media_type of every medium, sorted by split and name, with a few thousand
    rows of few files in memory. Returns how many each split has."""

    def merge(merges: Merges) -> None:
        for files, merged in merges:
            rows = map(_media_table, _batched(_unique_media(files), MEDIA_ROWS))
            write_batches(merged, chain([MEDIA.empty_table()], rows))  # the first has the schema, if none follows

    spilled = [storage.join(recipe.spill, f"bucket-{bucket:04d}.media") for bucket in range(num_buckets)]
    files = merge_in_steps(spilled, storage.join(recipe.spill, "media"), merge)
    counts: Counter[str] = Counter()
    manifest = storage.join(out, "manifest.parquet")
    with storage.open_write(manifest) as file, pq.ParquetWriter(file, MANIFEST, compression="zstd") as writer:
        for rows in _batched(_unique_media(files), MANIFEST_ROWS):
            ids = [instance_id(media) for _, media, _ in rows]
            writer.write_table(pa.table([ids, *map(list, zip(*rows, strict=True))], schema=MANIFEST))
            counts.update(split for split, _, _ in rows)
    return dict(counts)


def _unique_media(files: list[str]) -> Iterator[tuple[str, str, str]]:
    return (row for row, _ in groupby(heapq.merge(*map(_media_run, files))))


def _media_table(rows: list[tuple[str, str, str]]) -> pa.Table:
    return pa.table(list(map(list, zip(*rows, strict=True))), schema=MEDIA)


def _media_run(uri: str) -> Iterator[tuple[str, str, str]]:
    for batch in read_batches(uri):
        yield from zip(*(batch[name].to_pylist() for name in MEDIA.names), strict=True)


def _batched(rows: Iterator[Any], size: int) -> Iterator[list[Any]]:
    batch: list[Any] = []
    for row in rows:
        batch.append(row)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def write_dropped(out: str, chunks: list[Chunk], lines: list[int], num_buckets: int, recipe: Recipe) -> Counter[str]:
    """OUT/dropped.jsonl: file, split, line (from 1), key and reason of every line that is no record, in their order.

    Args:
        lines: how many each chunk has: what turns a place in a chunk into a line number.

    Returns:
        How many went for each reason.
    """
    before: dict[tuple[int, int], int] = {}  # lines of the file that lie before the chunk
    already = 0
    for chunk, count in zip(chunks, lines, strict=True):
        already = already if chunk.begin else 0
        before[chunk.file, chunk.begin] = already
        already += count
    names = {chunk.file: chunk.uri for chunk in chunks}
    spilled = [storage.join(recipe.spill, f"bucket-{number:04d}.jsonl") for number in range(num_buckets)]
    files = merge_in_steps(spilled, storage.join(recipe.spill, "dropped"), _merge_dropped)
    of_chunks = [storage.join(recipe.spill, f"chunk-{chunk.number:06d}.jsonl") for chunk in chunks]  # in order
    runs = [chain.from_iterable(map(_dropped_run, of_chunks)), *map(_dropped_run, files)]
    reasons: Counter[str] = Counter()
    uri = storage.join(out, "dropped.jsonl")
    others = _converters_rows(uri)
    with storage.open_write(uri) as file:
        file.writelines(others)
        for (number, begin, index), row in heapq.merge(*runs, key=lambda item: item[0]):
            line = before[number, begin] + index + 1
            told = {"file": names[number], "split": row["split"], "line": line}
            told |= {"key": row["key"], "reason": row["reason"]}
            file.write(json.dumps(told, ensure_ascii=False).encode() + b"\n")
            reasons[row["reason"]] += 1
    return reasons


def _converters_rows(uri: str) -> Iterator[bytes]:
    """What ``convert`` dropped into the same folder stays listed: its rows name their source."""
    if storage.exists(uri):
        for line in storage.read_lines(uri):
            if "source" in json.loads(line):
                yield line + b"\n"


def _merge_dropped(merges: Merges) -> None:
    for files, merged in merges:
        with storage.open_write(merged) as file:
            for _, row in heapq.merge(*map(_dropped_run, files), key=lambda item: item[0]):
                file.write(json.dumps(row).encode() + b"\n")


def _dropped_run(uri: str) -> Iterator[tuple[tuple[int, int, int], dict[str, Any]]]:
    for line in storage.read_lines(uri):
        row = json.loads(line)
        yield (row["file"], row["begin"], row["index"]), row
