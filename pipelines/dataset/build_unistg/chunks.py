"""First pass: annotation files, cut into chunks of bytes → checked records, sorted by their place in the order.

A record's place is a hash of seed and id. Its first bits choose one of ``num_buckets`` buckets, so buckets are equally
full, whatever the ids are, and each can be finished without the others. A chunk leaves::

    chunk-000007.arrow    a run (see ``runs``) of rows of ``CHECKED``
    chunk-000007.jsonl    its dropped lines
    chunk-000007.json     its facts; written last: with it the chunk is done
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.core import storage
from pipelines.dataset.build_unistg.runs import write_run
from spacevllm.config import ConfigError
from spacevllm.data.instance import SCHEMA, Instance, instance_id
from spacevllm.data.leakage import TRAIN, preference, tested_thing, twin
from spacevllm.data.sources.base import box_faults
from spacevllm.data.statistics import all_boxes

PLACE = [("file", pa.int64()), ("begin", pa.int64()), ("index", pa.int64())]  # chunk's file and first byte, line in it
CHECKED = pa.schema(
    [*SCHEMA, *PLACE, ("order", pa.string()), ("tested", pa.uint64()), ("twin", pa.uint64()), ("dropped", pa.string())]
)
LINES_AT_ONCE = 1024  # as Python objects; they take ten times the memory of their text


class Chunk(NamedTuple):
    """The lines that begin in bytes ``[begin, end)`` of a file; ``media_root`` goes before relative media, if it is not
    ``""``."""

    number: int
    file: int
    uri: str
    split: str
    begin: int
    end: int
    media_root: str = ""


class Recipe(NamedTuple):
    """What the passes have in common. ``spill`` is the folder of everything temporary."""

    spill: str
    seed: int
    num_buckets: int


def find_files(folders: str | Sequence[str]) -> dict[str, str]:
    """The annotation files in order: uri → the folder they were found for.

    Raises:
        ConfigError: a folder holds none.
    """
    found: dict[str, str] = {}
    for folder in [folders] if isinstance(folders, str) else folders:
        files = [uri for uri in storage.find(storage.join(folder, "annotations")) if uri.endswith(".jsonl")]
        if not files:
            raise ConfigError(f"{folder} has no annotations/*.jsonl")
        found |= dict.fromkeys(files, storage.absolute(folder))
    return found


def cut(files: Mapping[str, str], chunk_bytes: int, out: str) -> list[Chunk]:
    """Chunks in order of files and lines; a file's name says its split. Media stay relative where ``out`` is their
    folder."""
    chunks: list[Chunk] = []
    for number, (uri, folder) in enumerate(files.items()):
        size, split = storage.size(uri), storage.name(uri).removesuffix(".jsonl")
        root = "" if folder == storage.absolute(out) else folder
        for begin in range(0, size, chunk_bytes):
            end = min(begin + chunk_bytes, size)
            chunks.append(Chunk(len(chunks), number, uri, split, begin, end, root))
    return chunks


def check_chunk(chunk: Chunk, recipe: Recipe) -> dict[str, Any]:
    """Does one chunk, unless it is done.

    Returns:
        Its facts: ``lines``, ``records`` and ``dropped`` are counts, the others are for the second pass.
    """
    base = storage.join(recipe.spill, f"chunk-{chunk.number:06d}")
    if storage.exists(f"{base}.json"):
        return dict(storage.read_json(f"{base}.json"))
    tables, dropped, count = [], [], 0
    for lines in _batches(chunk):
        count = lines[-1][0] + 1
        told = [(index, line) for index, line in lines if line.strip()]
        table = check_lines(chunk, told, recipe)
        good = pc.is_null(table["dropped"])
        dropped += [_drop(chunk, row) for row in table.filter(pc.invert(good)).to_pylist()]
        tables.append(table.filter(good))
    records = pa.concat_tables(tables) if tables else CHECKED.empty_table()
    write_run(f"{base}.arrow", records, recipe.num_buckets)
    storage.write_text(f"{base}.jsonl", "".join(json.dumps(row) + "\n" for row in dropped))
    facts = {"number": chunk.number, "lines": count, "records": records.num_rows, "dropped": len(dropped)}
    facts |= _relations(records)
    storage.write_json(f"{base}.json", facts)
    return facts


def check_lines(chunk: Chunk, lines: list[tuple[int, bytes]], recipe: Recipe) -> pa.Table:
    """(index in the chunk, line) → rows of ``CHECKED``; ``dropped`` is null, or says why the record cannot be used."""
    place = {"file": chunk.file, "begin": chunk.begin, "split": chunk.split}
    rows = [_check_line(line, place | {"index": index}, chunk, recipe) for index, line in lines]
    try:
        table = pa.Table.from_pylist(rows, schema=CHECKED)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):  # a value of the wrong type somewhere: find it
        table = pa.Table.from_pylist([_check_types(row) for row in rows], schema=CHECKED)
    reasons = pc.coalesce(table["dropped"], _box_reasons(table))
    return table.set_column(CHECKED.get_field_index("dropped"), "dropped", reasons)


def _batches(chunk: Chunk) -> Iterator[list[tuple[int, bytes]]]:
    """Lines with their index in the chunk, blank ones too, some at a time. A line belongs where its first byte lies."""
    with storage.open_read(chunk.uri) as file:
        if chunk.begin:
            file.seek(chunk.begin - 1)
            file.readline()  # ends the chunk before; nothing but "\n" if this chunk begins with a line
        batch: list[tuple[int, bytes]] = []
        index, at = 0, file.tell()
        while at < chunk.end and (line := file.readline()):
            at += len(line)
            if index == 0 and chunk.begin == 0:
                line = line.removeprefix(codecs.BOM_UTF8)
            batch.append((index, line.rstrip(b"\r\n")))
            index += 1
            if len(batch) == LINES_AT_ONCE:
                yield batch
                batch = []
        if batch:
            yield batch


def _check_line(line: bytes, place: dict[str, Any], chunk: Chunk, recipe: Recipe) -> dict[str, Any]:
    key = None
    try:
        tree = json.loads(line)
        key = tree.get("id") if isinstance(tree, dict) else None
        instance = Instance.from_row(tree)
    except json.JSONDecodeError:
        return place | {"dropped": "the line is no JSON"}
    except UnicodeDecodeError:
        return place | {"dropped": "the line is no UTF-8"}
    except (ValueError, TypeError, AttributeError, KeyError, OverflowError, RecursionError) as error:
        reason = " ".join(str(error).removeprefix(f"instance {key}: ").split())  # equal causes count together
        return place | {"id": _text(key), "dropped": reason}
    if instance.split != place["split"]:
        reason = f"split {instance.split!r} in a file of split {place['split']!r}"
        return place | {"id": _text(key), "dropped": reason}
    at_root = chunk.media_root and instance.media  # text has none
    media = storage.join(chunk.media_root, str(instance.media)) if at_root else instance.media
    order = instance_id(recipe.seed, instance.id)
    further = {"more": [vars(tube) for tube in instance.more] or None}
    return vars(instance) | further | place | {"media": media, "order": order, **_keys(instance)}


def _keys(instance: Instance) -> dict[str, int | None]:
    try:
        return {"tested": tested_thing(instance), "twin": twin(instance)}
    except (TypeError, AttributeError):  # a field of the wrong type: _check_types says which
        return {"tested": None, "twin": None}


def _check_types(row: dict[str, Any]) -> dict[str, Any]:
    try:
        pa.Table.from_pylist([row], schema=CHECKED)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        place = {name: row[name] for name in ("split", "file", "begin", "index")}
        return place | {"id": _text(row.get("id")), "dropped": f"wrong type: {error}"}
    return row


def _box_reasons(table: pa.Table) -> pa.Array:
    """(N,) what is wrong with a box of each record, all of them at once; null: nothing."""
    size = np.stack([table[name].fill_null(0).to_numpy() for name in ("width", "height")], axis=-1)  # (N, 2)
    boxes, of_row = all_boxes(table)
    reasons = np.full(table.num_rows, None, object)
    for reason, found in box_faults(boxes, size[of_row]).items():
        reasons[of_row[found]] = reason
    return pa.array(reasons, pa.string())


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _drop(chunk: Chunk, row: dict[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in ("file", "begin", "index", "split")} | {"key": row["id"], "reason": row["dropped"]}


def _relations(records: pa.Table) -> dict[str, Any]:
    """``held``: what held-out records test. ``twins``: [twin, preference, order, place] of records with sisters."""
    held = pc.not_equal(records["split"], TRAIN)
    known = records.filter(pc.is_valid(records["twin"]))
    columns = [known[name].to_pylist() for name in ("twin", "source", "order", "file", "begin", "index")]
    twins = [[key, preference(source), order, [*at]] for key, source, order, *at in zip(*columns, strict=True)]
    return {"held": sorted(set(records.filter(held)["tested"].to_pylist())), "twins": twins}
