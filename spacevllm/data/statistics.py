"""What a data set holds, in numbers: counts, spans, boxes. Tables go in one by one: memory does not grow with them."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

SPAN_S = (0, 1, 2, 3, 5, 7, 10, 15, 20, 30, 45, 60, 90, 120, np.inf)
BOX_SHARE = (0, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, np.inf)
WORDS = (0, 3, 5, 7, 9, 12, 15, 20, 30, 50, np.inf)
SHARES = tuple(tenth / 10 for tenth in range(11))  # linspace would give 0.6000000000000001
GRID = (9, 16)  # rows and columns of the picture


class Kind(NamedTuple):
    task: str
    source: str
    split: str


class Histogram:
    """``counts[i]`` values lie in ``[edges[i], edges[i + 1])``; what lies outside goes into the nearest bin."""

    def __init__(self, edges: tuple[float, ...]) -> None:
        self.edges = edges
        self.counts = np.zeros(len(edges) - 1, np.int64)

    def add(self, values: np.ndarray) -> None:
        bins = np.searchsorted(self.edges, values[np.isfinite(values)], side="right") - 1
        self.counts += np.bincount(bins.clip(0, len(self.counts) - 1), minlength=len(self.counts))


class Statistics:
    """Attributes:
    kinds: records of each task, source and split.
    span_s: lengths in seconds. begin, end: where in the video spans begin and end, as shares. span_share: their length
        as a share of the video's. box_share: of the frame's area. words: of the question.
    centres: (9, 16) int64, box centres over the frame. num_boxes: of all records.
    """

    def __init__(self) -> None:
        self.kinds: Counter[Kind] = Counter()
        self.span_s, self.box_share, self.words = Histogram(SPAN_S), Histogram(BOX_SHARE), Histogram(WORDS)
        self.begin, self.end, self.span_share = Histogram(SHARES), Histogram(SHARES), Histogram(SHARES)
        self.centres = np.zeros(GRID, np.int64)
        self.num_boxes = 0

    @property
    def num_records(self) -> int:
        return self.kinds.total()

    def by_task(self, split: str | None = None) -> Counter[str]:
        """Records of each task, of one split or of all."""
        found: Counter[str] = Counter()
        for kind, count in self.kinds.items():
            if split in (None, kind.split):
                found[kind.task] += count
        return found

    def add(self, table: pa.Table) -> None:
        """Rows of ``spacevllm.data.instance.SCHEMA``."""
        columns = (table[name].to_pylist() for name in Kind._fields)
        self.kinds.update(Kind(*row) for row in zip(*columns, strict=True))
        self.words.add(np.array([len(text.split()) for text in table["question"].to_pylist()], float))
        self._add_spans(table)
        self._add_boxes(table)

    def _add_spans(self, table: pa.Table) -> None:
        begin, end, row = _all_spans(table)
        duration = _floats(table, "duration_s")[row]
        self.span_s.add(end - begin)
        known = duration > 0
        begin, end, duration = begin[known], end[known].clip(max=duration[known]), duration[known]
        self.begin.add(begin / duration)
        self.end.add(end / duration)
        self.span_share.add((end - begin) / duration)

    def _add_boxes(self, table: pa.Table) -> None:
        boxes, row = all_boxes(table)
        size = np.stack([_floats(table, name)[row] for name in ("width", "height")], axis=-1)
        known = (size > 0).all(-1)
        boxes, size = boxes[known], size[known]
        self.num_boxes += len(boxes)
        self.box_share.add((boxes[:, 2:] - boxes[:, :2]).clip(min=0).prod(-1) / size.prod(-1).clip(min=1))
        centre = ((boxes[:, :2] + boxes[:, 2:]) / 2 / size.clip(min=1)).clip(0, 1 - 1e-9)  # (N, 2) x, y
        at = (centre[:, 1] * GRID[0]).astype(int) * GRID[1] + (centre[:, 0] * GRID[1]).astype(int)
        self.centres += np.bincount(at, minlength=GRID[0] * GRID[1]).reshape(GRID)


def all_boxes(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Every box of rows of ``SCHEMA``, those of further tubes behind all others.

    Returns:
        (N, 4) float64 xyxy, and (N,) int, the row of each.
    """
    own, further = table["boxes"].combine_chunks(), _further(table)
    found = [_flat(own, np.arange(table.num_rows))]
    if further is not None:
        found.append(_flat(pc.struct_field(further.tubes, "boxes"), further.rows))
    boxes, rows = zip(*found, strict=True)
    return np.concatenate(boxes), np.concatenate(rows)


class _Further(NamedTuple):
    """tubes: of the column ``more`` of all rows, one struct each. rows: (M,) int, the row of each."""

    tubes: pa.StructArray
    rows: np.ndarray


def _further(table: pa.Table) -> _Further | None:
    """None in tables that are older than the column."""
    if "more" not in table.column_names:
        return None
    column = table["more"].combine_chunks()
    return _Further(pc.list_flatten(column), pc.list_parent_indices(column).to_numpy())


def _all_spans(table: pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N,) begins and ends in seconds of all spans, and the row of each."""
    rows = np.flatnonzero(table["begin_s"].is_valid().to_numpy())
    found = [[*(_floats(table, name)[rows] for name in ("begin_s", "end_s")), rows]]
    if further := _further(table):
        begin, end = (pc.struct_field(further.tubes, name).to_numpy() for name in ("begin_s", "end_s"))
        found.append([begin, end, further.rows])
    begin, end, row = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return begin, end, row


def _flat(boxes: pa.Array, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A list of boxes for each of ``rows`` → (N, 4) float64 and (N,) their rows."""
    counts = pc.list_value_length(boxes).fill_null(0).to_numpy()
    corners = boxes.flatten().flatten().to_numpy(zero_copy_only=False)
    return corners.astype(np.float64).reshape(-1, 4), np.repeat(rows, counts)


def _floats(table: pa.Table, name: str) -> np.ndarray:
    return table[name].to_numpy().astype(np.float64)
