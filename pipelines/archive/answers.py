"""An answer as a row: the columns of ``tubes``, from what a predictor gives and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from spacevllm.answer import Answer
from spacevllm.span import Span
from spacevllm.tube import Tube

UNPARSABLE = "unparsable"
BOX = pa.struct([("frame", pa.int64()), *((side, pa.float32()) for side in ("x1", "y1", "x2", "y2"))])
MORE = pa.struct(
    [
        ("track", pa.int64()),  # which thing: 0 is the best tube's
        ("begin_s", pa.float64()),
        ("end_s", pa.float64()),
        ("begin_frame", pa.int64()),
        ("end_frame", pa.int64()),
        ("confidence", pa.float64()),
        ("boxes", pa.list_(BOX)),
    ]
)
ANSWERS = pa.schema(
    [
        ("id", pa.string()),  # hash of video (and part) and question
        ("video", pa.string()),  # its uri
        ("part_begin_s", pa.float64()),  # what was looked at, if a manifest says so; null: from the start, to the end
        ("part_end_s", pa.float64()),
        ("question", pa.string()),
        ("task", pa.string()),  # stvg · vtg · rec · qa
        ("status", pa.string()),  # ok · failed
        ("error", pa.string()),  # "" or "<reason>: <message>"
        ("begin_s", pa.float64()),  # seconds from the first frame; null without a span, as are the frames
        ("end_s", pa.float64()),
        ("begin_frame", pa.int64()),  # 0-based, half-open
        ("end_frame", pa.int64()),
        ("boxes", pa.list_(BOX)),  # xyxy pixels, one on every frame of the span (rec: frame 0)
        ("confidence", pa.float64()),  # in [0, 1]
        ("present", pa.bool_()),  # whether the confidence is enough to say that it is there
        ("windows", pa.int64()),  # looks at a film; 1: seen at once
        ("windows_unread", pa.int64()),  # of its windows, those that could not be decoded
        ("answer", pa.string()),  # the model's words
        ("fps", pa.float64()),
        ("num_frames", pa.int64()),
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("duration_s", pa.float64()),
        ("more", pa.list_(MORE)),  # further tubes of the answer, the surest first; all else is about the best one
        ("sampled_boxes", pa.list_(BOX)),  # on the frames that the model saw, in and out of the span
        ("model_id", pa.string()),
        ("model_digest", pa.string()),
        ("fingerprint", pa.string()),  # changes with the video's bytes, the model and the sampling plan
        ("decode_ms", pa.float64()),  # of the whole video
        ("predict_ms", pa.float64()),  # of all questions about it together
    ]
)


class Boxes(NamedTuple):
    """A list of ``BOX`` to be. frames: (K,) int. corners: (K, 4) float32 xyxy."""

    frames: np.ndarray
    corners: np.ndarray


def to_row(task: str, answer: Any) -> dict[str, Any]:
    if task == "qa":
        return {"status": "ok", "error": "", "answer": answer}
    if task == "rec":
        return {"status": "ok", "error": "", "boxes": Boxes(np.zeros(1), answer[None])}
    assert isinstance(answer, Answer)
    tube = answer.best
    row = {
        "status": "ok",
        "error": "",
        "answer": tube.answer,
        "confidence": tube.confidence,
        "present": tube.present,
        "windows": tube.windows,
        "windows_unread": tube.windows_unread,
        "boxes": _boxes(tube),
        "more": answer[1:],
        "sampled_boxes": Boxes(tube.sampled_frames, tube.sampled_boxes),
    }
    if tube.span is None and tube.says_absent:
        return row
    if tube.span is None:
        return row | {"status": "failed", "error": f"{UNPARSABLE}: no span in the answer {tube.answer!r}"}
    return row | {name: getattr(tube, name) for name in ("begin_s", "end_s", "begin_frame", "end_frame")}


def row_to_answer(row: Mapping[str, Any]) -> Answer | np.ndarray | str | None:
    """The inverse, as evaluation scores it: an Answer, a (4,) box or words by task; None when there was no answer. Of
    further tubes, sampled boxes are not kept."""
    if row["status"] != "ok" and not row["error"].startswith(UNPARSABLE):
        return None
    _, boxes = _box_arrays(row["boxes"])
    if row["task"] == "qa":
        return str(row["answer"])
    if row["task"] == "rec":
        return boxes[0]  # (4,)
    sampled_frames, sampled_boxes = _box_arrays(row["sampled_boxes"])
    known = row["begin_s"] is not None
    plain = ("video", "question", "answer", "num_frames", "width", "height", "duration_s", "confidence")
    best = Tube(
        span=Span(row["begin_s"], row["end_s"]) if known else None,
        begin_frame=row["begin_frame"] if known else 0,
        end_frame=row["end_frame"] if known else 0,
        boxes=boxes,
        fps=row["fps"] or 0.0,
        present=known if row.get("present") is None else row["present"],
        sampled_frames=sampled_frames,
        sampled_boxes=sampled_boxes,
        **{name: row[name] for name in plain},
    )
    return Answer([best, *(_further(best, further) for further in row.get("more") or ())])


def _further(best: Tube, row: Mapping[str, Any]) -> Tube:
    """A tube of the column ``more``; it shares the rest with the best one."""
    _, boxes = _box_arrays(row["boxes"])
    return replace(
        best,
        track=row["track"],
        span=Span(row["begin_s"], row["end_s"]),
        begin_frame=row["begin_frame"],
        end_frame=row["end_frame"],
        confidence=row["confidence"],
        boxes=boxes,
        sampled_frames=best.sampled_frames[:0],
        sampled_boxes=best.sampled_boxes[:0],
    )


def to_table(rows: list[dict[str, Any]]) -> pa.Table:
    """Rows with the columns of ``ANSWERS``. Boxes stay arrays: as a dict each they would cost more than the model."""
    plain = pa.schema([field for field in ANSWERS if field.type not in (pa.list_(BOX), pa.list_(MORE))])
    columns = dict(zip(plain.names, pa.Table.from_pylist(rows, schema=plain).columns, strict=True))
    columns["more"] = _more_column([row.get("more") or () for row in rows])
    columns |= {name: _box_column([row.get(name) for row in rows]) for name in ANSWERS.names if name not in columns}
    return pa.table([columns[name] for name in ANSWERS.names], schema=ANSWERS)


def _more_column(cells: Sequence[Sequence[Tube]]) -> pa.Array:
    """A list of ``MORE`` a cell."""
    tubes = [tube for cell in cells for tube in cell]
    fields = [pa.array([getattr(tube, field.name) for tube in tubes], field.type) for field in list(MORE)[:-1]]
    items = pa.StructArray.from_arrays([*fields, _box_column([_boxes(tube) for tube in tubes])], fields=list(MORE))
    return pa.ListArray.from_arrays(pa.array(np.cumsum([0, *map(len, cells)]), pa.int32()), items)


def _boxes(tube: Tube) -> Boxes:
    return Boxes(np.arange(tube.begin_frame, tube.end_frame), tube.boxes)


def _box_column(cells: Sequence[Boxes | None]) -> pa.Array:
    """A list of ``BOX`` a cell, null for None."""
    known = [Boxes(np.zeros(0), np.zeros((0, 4))), *filter(None, cells)]
    frames = np.concatenate([boxes.frames for boxes in known]).astype(np.int64)
    corners = np.concatenate([boxes.corners for boxes in known]).astype(np.float32)  # (sum of K, 4)
    items = pa.StructArray.from_arrays([pa.array(x) for x in (frames, *corners.T)], fields=list(BOX))
    ends = np.cumsum([0, *(len(cell.frames) if cell else 0 for cell in cells)])
    absent = pa.array([cell is None for cell in cells], pa.bool_())
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), items, mask=absent)


def _box_arrays(rows: Sequence[Mapping[str, float]] | None) -> tuple[np.ndarray, np.ndarray]:
    """(K,) int64 frames and (K, 4) float32 boxes."""
    listed = [[row[name] for name in ("frame", "x1", "y1", "x2", "y2")] for row in rows or []]
    table = np.array(listed, dtype=np.float64).reshape(-1, 5)
    return table[:, 0].astype(np.int64), table[:, 1:].astype(np.float32)
