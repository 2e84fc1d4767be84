"""The columns of every stage's Parquet files. Each row carries its caption: a stage can be replayed from its files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from spacevllm.data.synthesis.sample import Caption, Rejected
from spacevllm.video.errors import VideoError

Row = dict[str, Any]

WORK = pa.schema(
    [
        *((name, pa.string()) for name in ("id", "fingerprint", "source", "split", "media", "text")),
        *((name, pa.float64()) for name in ("begin_s", "end_s")),
        ("subject", pa.string()),
        ("part", pa.string()),
    ]
)
_JUDGED = [*WORK, ("status", pa.string()), ("error", pa.string())]
CARRIED = [*WORK.names, "fps_num", "fps_den", "num_frames", "width", "height", "duration_s"]  # from stage to stage
_BOXES = pa.list_(pa.list_(pa.float64()))
_CLIP = [
    *((name, pa.int64()) for name in ("fps_num", "fps_den", "num_frames", "width", "height")),
    ("duration_s", pa.float64()),
]
SCHEMAS = {
    "analyzer": pa.schema([*_JUDGED, ("objects", pa.list_(pa.string()))]),
    "annotator": pa.schema(
        [
            *_JUDGED,
            *_CLIP,
            ("rough_begin_frame", pa.int64()),
            ("rough_end_frame", pa.int64()),
            ("frames", pa.list_(pa.int64())),
            ("times_s", pa.list_(pa.float64())),
            ("boxes", pa.list_(_BOXES)),
            ("scores", pa.list_(pa.list_(pa.float64()))),
        ]
    ),
    "refiner": pa.schema(
        [
            *_JUDGED,
            *_CLIP,
            ("begin_frame", pa.int64()),
            ("end_frame", pa.int64()),
            ("tube_begin_s", pa.float64()),
            ("tube_end_s", pa.float64()),
            ("frames", pa.list_(pa.int64())),
            ("boxes", _BOXES),
            ("scores", pa.list_(pa.float64())),
            ("counts", pa.list_(pa.int64())),
        ]
    ),
    "filter": pa.schema([*_JUDGED, ("record", pa.string())]),
}


def caption_of(row: Mapping[str, Any]) -> Caption:
    return Caption(**{name: row[name] for name in Caption.__dataclass_fields__})


def judge(table: pa.Table, stage: str, work_on: Callable[[Row], Row]) -> pa.Table:
    """One row out for each row in: with what ``work_on`` gave, or with the reason why it gave nothing.

    ``status`` is ``ok``, ``rejected`` (the sample is of no use) or ``failed`` (something was missing or broke).
    """
    return finish([_judge(row, work_on) for row in table.to_pylist()], stage)


def finish(rows: list[Row], stage: str) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=SCHEMAS[stage])


def _judge(row: Row, work_on: Callable[[Row], Row]) -> Row:
    kept = {name: row[name] for name in CARRIED if name in row}
    try:
        return kept | {"status": "ok", "error": ""} | work_on(row)
    except Rejected as error:
        status = "failed" if error.reason == "no_answer" else "rejected"
        return kept | {"status": status, "error": str(error)}
    except VideoError as error:
        return kept | {"status": "failed", "error": f"{error.reason}: {error}"}
    except OSError as error:  # the download, not the decoder
        return kept | {"status": "failed", "error": f"storage: {row['media']}: {error}"}
    except Exception as error:  # nobody's plan, but one sample must not end a data set; the row keeps the reason
        return kept | {"status": "failed", "error": f"bug: {row['media']}: {type(error).__name__}: {error}"}


def plain(boxes: np.ndarray) -> list[list[float]]:
    return [[float(v) for v in box] for box in boxes]
