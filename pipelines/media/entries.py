"""What manifests and listings name → rows of a manifest table, by columns: a million videos take seconds.

Rows of a Parquet manifest that are plainly right are never looked at one by one; all others are ``manifest``'s affair.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.core import looks, storage
from spacevllm.data.instance import instance_id

SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("id", "uri", "media", "version")),
        ("begin_s", pa.float64()),  # the part to look at; null: from the start, to the end
        ("end_s", pa.float64()),
        ("questions", pa.list_(pa.string())),  # that the manifest file asks of it
        ("error", pa.string()),  # "", or why the row of the manifest file is of no use
        ("size", pa.int64()),  # bytes, where a listing said so
    ]
)
ENTRIES = pa.schema(
    [
        ("uri", pa.string()),
        ("begin_s", pa.float64()),  # null: the video's own borders
        ("end_s", pa.float64()),
        ("question", pa.string()),
        ("error", pa.string()),
        ("version", pa.string()),  # null: not known yet
        ("size", pa.int64()),
    ]
)
LISTED_VERSION, LISTED_SIZE = "listed_version", "listed_size"  # columns of a manifest that ``spacevllm list`` wrote
IN_PYTHON = 1 << 16  # rows whose ids are made at once
KEY = ["uri", "begin_s", "end_s"]  # what makes a row
TEXT = r"^[^\pZ\pC]([^\pC]*[^\pZ\pC])?$"  # no white space around, and nothing that cannot be seen
PLACE = r"^(s3://[a-z0-9][a-z0-9.-]+)?(/[^/?#]+)+$"  # spelled as ``storage.absolute`` does
ODD_PLACE = r"::|/\.\.?(/|$)|^s3://[^/]*$"


class Entry(NamedTuple):
    """One row of ``ENTRIES``."""

    uri: str
    begin_s: float | None = None
    end_s: float | None = None
    question: str = ""
    error: str = ""
    version: str | None = None
    size: int | None = None


def entries_table(rows: Sequence[Entry]) -> pa.Table:
    return pa.Table.from_pylist([row._asdict() for row in rows], schema=ENTRIES)


class PlainRows:
    """A Parquet manifest in columns.

    Args:
        table: as it was read; it has a column ``video`` of strings.
        folder: that its names are relative to.
    """

    def __init__(self, table: pa.Table, folder: str) -> None:
        self.table, self.asks = table, "question" in table.column_names
        video = table["video"].cast(pa.string())
        relative = pc.invert(pc.match_substring_regex(video, r"^/|://"))
        place = pc.if_else(relative, pc.binary_join_element_wise(f"{folder.rstrip('/')}/", video, ""), video)
        question = self._column("question", pa.string())
        begin_s, end_s = self._column("begin_s", pa.float64()), self._column("end_s", pa.float64())
        begin_s = pc.if_else(pc.equal(begin_s, 0), None, begin_s)
        columns = [place, begin_s, end_s, pc.fill_null(question, ""), pa.repeat("", len(video))]
        version, size = self._column(LISTED_VERSION, pa.string()), self._column(LISTED_SIZE, pa.int64())
        known = pc.fill_null(pc.not_equal(version, ""), False)
        columns += [pc.if_else(known, version, None), pc.if_else(known, size, None)]
        self.plain = _all(
            pc.match_substring_regex(video, TEXT),
            pc.match_substring_regex(place, PLACE),
            pc.invert(pc.match_substring_regex(place, ODD_PLACE)),
            pc.match_substring_regex(question, TEXT) if self.asks else pa.repeat(True, len(video)),
            *(pc.fill_null(pc.and_(pc.greater_equal(b, 0), pc.less(b, np.inf)), True) for b in (begin_s, end_s)),
            pc.fill_null(pc.greater(end_s, 0), True),
            pc.fill_null(pc.less(begin_s, end_s), True),
        )  # (N,) bool
        self.entries = pa.table(columns, schema=ENTRIES)

    @property
    def rest(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Number and content of the rows that are not plainly right."""
        numbers = np.flatnonzero(~self.plain)
        return zip(numbers.tolist(), self.table.take(pa.array(numbers)).to_pylist(), strict=True)

    def joined(self, rest: pa.Table) -> pa.Table:
        """All rows in their order. rest: ``ENTRIES`` of those of ``rest``."""
        order = np.argsort(np.concatenate([np.flatnonzero(self.plain), np.flatnonzero(~self.plain)]))
        return pa.concat_tables([self.entries.filter(pa.array(self.plain)), rest]).take(pa.array(order))

    def _column(self, name: str, kind: pa.DataType) -> pa.Array:
        if name not in self.table.column_names:
            return pa.nulls(self.table.num_rows, kind)
        return self.table[name].cast(kind)


def plain_rows(uri: str) -> PlainRows | None:
    """None: no Parquet file, or one whose columns are not what they are called; it is read row by row."""
    if not uri.lower().endswith(".parquet"):
        return None
    try:
        return PlainRows(storage.read_table(uri), storage.parent(uri))
    except (OSError, ValueError, KeyError, pa.ArrowException):  # who reads row by row says what is wrong
        return None


def _all(*conditions: pa.Array) -> np.ndarray:
    """(N,) bool; what is not known does not hold."""
    held = [pc.fill_null(condition, False).to_numpy(zero_copy_only=False) for condition in map(_flat, conditions)]
    return np.logical_and.reduce(held)


def _flat(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def manifest_rows(found: pa.Table, named: pa.Table) -> pa.Table:
    """Rows of ``SCHEMA``, sorted; entries about the same part of a video are one row.

    Args:
        found: ``listing.FOUND``. named: ``ENTRIES``; those whose version is not known are looked up.
    """
    empty = {"begin_s": pa.nulls(found.num_rows, pa.float64()), "end_s": pa.nulls(found.num_rows, pa.float64())}
    whole = {"uri": found["uri"], **empty, "question": pa.repeat("", found.num_rows)}
    whole |= {name: found[name] for name in ("error", "version", "size")}
    rows = pa.concat_tables([pa.table(whole, schema=ENTRIES), _looked_up(named, found)])
    asks = pc.or_(pc.not_equal(rows["question"], ""), pc.not_equal(rows["error"], ""))
    asks = pc.and_(asks, pa.chunked_array([np.arange(rows.num_rows) >= found.num_rows]))
    rows = rows.set_column(3, "question", pc.if_else(asks, rows["question"], None))
    rows = _first(_first(rows, [*KEY, "question"]), KEY, questions=True)
    order = {
        "uri": rows["uri"],
        "begin": pc.fill_null(rows["begin_s"], 0.0),
        "end": pc.fill_null(rows["end_s"], np.inf),
    }
    rows = rows.take(pc.sort_indices(pa.table(order), [(name, "ascending") for name in order]))
    ids = pa.chunked_array(
        [_ids(rows.slice(start, IN_PYTHON)) for start in range(0, rows.num_rows, IN_PYTHON)], pa.string()
    )
    columns = {"id": ids, "media": rows["uri"]} | {name: rows[name] for name in rows.column_names}
    return pa.table([columns[name] for name in SCHEMA.names], schema=SCHEMA)


def _ids(rows: pa.Table) -> pa.Array:
    return pa.array(map(_id, *(rows[name].to_pylist() for name in KEY)), pa.string())


def _id(uri: str, begin_s: float | None, end_s: float | None) -> str:
    return instance_id(uri) if begin_s is None and end_s is None else instance_id(uri, begin_s or 0.0, end_s)


def _first(rows: pa.Table, key: list[str], questions: bool = False) -> pa.Table:
    """The first row of each key, in order; questions: with all its questions."""
    if pc.count_distinct(rows["uri"]).as_py() == rows.num_rows:  # as in most archives; copies of it are large
        return rows.append_column("questions", _one_each(rows["question"])) if questions else rows
    others = [name for name in ENTRIES.names if name not in (*key, "question")]
    as_is = pc.ScalarAggregateOptions(skip_nulls=False)
    wanted: list[Any] = [(name, "first", as_is) for name in others] + [("question", "list")] * questions
    grouped = rows.group_by(key, use_threads=False).aggregate(wanted)
    columns = {name: grouped[name] for name in key} | {name: grouped[f"{name}_first"] for name in others}
    return pa.table(columns | ({"questions": _without_nulls(_flat(grouped["question_list"]))} if questions else {}))


def _one_each(questions: pa.ChunkedArray) -> pa.ListArray:
    """A list of each, empty for null."""
    offsets = np.concatenate([[0], np.cumsum(pc.is_valid(questions).to_numpy())]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), _flat(questions.drop_null()))


def _without_nulls(lists: pa.ListArray) -> pa.ListArray:
    kept = pc.is_valid(lists.flatten()).to_numpy(zero_copy_only=False)
    counts = np.bincount(pc.list_parent_indices(lists).to_numpy()[kept], minlength=len(lists))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), lists.flatten().drop_null())


def _looked_up(named: pa.Table, found: pa.Table) -> pa.Table:
    """``named`` with their versions: known, found, looked up; of what is of no use, its error."""
    place = pc.index_in(named["uri"], value_set=_flat(found["uri"]))
    version = pc.coalesce(named["version"], found["version"].take(place))
    useful = pc.equal(named["error"], "")
    unknown = pc.unique(named["uri"].filter(pc.and_(useful, pc.is_null(version)))).to_pylist()
    alone = not found.num_rows and pc.all(pc.is_null(named["version"])).as_py()
    seen = looks.versions(unknown, some=bool(alone))
    looked = pa.array([seen[uri] for uri in unknown], pa.string())
    version = pc.coalesce(version, looked.take(pc.index_in(named["uri"], value_set=pa.array(unknown, pa.string()))))
    size = pc.coalesce(named["size"], found["size"].take(place))
    version = pc.if_else(useful, version, named["error"])
    return named.set_column(5, "version", version).set_column(6, "size", size)
