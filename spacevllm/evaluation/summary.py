"""From rows (one a query) to means, counts and confidence intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from spacevllm.evaluation.metrics import mean

Row = dict[str, Any]
Summary = dict[str, Any]

LEVEL, RESAMPLES = 0.95, 1000
_SCRATCH = 4_000_000  # numbers drawn at once


def summarise(rows: Sequence[Row]) -> Summary:
    """Means and counts over the rows of one task; for stvg the same again for each sentence type that occurs."""
    summary = means_and_counts(rows)
    if rows and rows[0]["task"] == "stvg":
        for kind, group in groups(rows).items():
            summary[kind] = means_and_counts(group)
    return summary


def groups(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each sentence type (or whatever else the benchmark reports apart), by name."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["sentence_type"], []).append(row)
    return dict(sorted(found.items()))


def confidence(rows: Sequence[Row], seed: int = 0, mean_over: str | None = None) -> Summary:
    """Intervals of the means of ``means_and_counts``: percentiles of a bootstrap over videos.

    Queries about one video stand or fall together, so whole videos are drawn, with replacement.

    Returns:
        ``{"level": 0.95, "n_videos": …, "m_vIoU": [low, high], …}``.
    """
    scored = _scored(rows)
    names, videos = np.unique([row["media"] for row in scored], return_inverse=True)
    about: Summary = {"level": LEVEL, "n_videos": len(names)}
    if not scored:
        return about
    columns, weights = _columns(rows), _weights(scored, mean_over)
    values = np.stack([*(weights * column for column in columns.values()), weights], axis=-1)  # (N, M + 1)
    sums = np.zeros((len(names), values.shape[1]))
    np.add.at(sums, videos, values)
    means = _resampled(sums, np.random.default_rng(seed))  # (RESAMPLES, M)
    borders = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)  # (2, M)
    return about | {name: borders[:, i].tolist() for i, name in enumerate(columns)}


def _resampled(sums: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(V, M + 1) weighted sums a video, the last column the weights' → (RESAMPLES, M) means."""
    num_videos = len(sums)
    step = max(1, _SCRATCH // num_videos)
    totals = []
    for start in range(0, RESAMPLES, step):
        drawn = rng.multinomial(num_videos, np.full(num_videos, 1 / num_videos), min(step, RESAMPLES - start))
        totals.append(drawn @ sums)
    summed = np.concatenate(totals)
    return summed[:, :-1] / summed[:, -1:]


def means_and_counts(rows: Sequence[Row], mean_over: str | None = None) -> Summary:
    """Means over the rows of one task, and how many were asked, missing, unparsable (and not scored).

    Args:
        mean_over: field of a row; the means are then those of its values' means, however many rows each has.
    """
    status = Counter(row["status"] for row in rows)
    counts = {"n_queries": len(rows), "n_missing": status["missing"], "n_unparsable": status["unparsable"]}
    if status["not_scored"]:
        counts["n_not_scored"] = status["not_scored"]
    weights = _weights(_scored(rows), mean_over)
    return {name: mean((weights * values).tolist()) for name, values in _columns(rows).items()} | counts


def _scored(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["status"] != "not_scored"]


def _weights(rows: Sequence[Row], mean_over: str | None) -> np.ndarray:
    """(N,) 1 each, or such that every value of the field weighs the same; N in all."""
    if mean_over is None or not rows:
        return np.ones(len(rows))
    _, value, count = np.unique([row[mean_over] for row in rows], return_inverse=True, return_counts=True)
    return (len(rows) / len(count) / count)[value]


def _columns(rows: Sequence[Row]) -> dict[str, np.ndarray]:
    """Name of each mean → what it is the mean of, one number for each scored row."""
    return _COLUMNS[rows[0]["task"]](_scored(rows)) if rows else {}


def _column(rows: Sequence[Row], name: str) -> np.ndarray:
    return np.array([row[name] for row in rows], np.float64)


def _stvg_columns(rows: Sequence[Row]) -> dict[str, np.ndarray]:
    viou = _column(rows, "viou")
    above = {f"vIoU@{r}": (viou > r).astype(float) for r in (0.3, 0.5)}  # strictly
    return {"m_tIoU": _column(rows, "tiou"), "m_vIoU": viou, **above, "gt_vIoU": _column(rows, "gt_viou")}


def _vtg_columns(rows: Sequence[Row]) -> dict[str, np.ndarray]:
    tiou = _column(rows, "tiou")
    return {f"R1@{m}": (tiou >= m).astype(float) for m in (0.3, 0.5, 0.7)} | {"mIoU": tiou}


def _rec_columns(rows: Sequence[Row]) -> dict[str, np.ndarray]:
    iou = _column(rows, "iou")
    return {"acc@0.5": (iou >= 0.5).astype(float), "mIoU": iou}


def _qa_columns(rows: Sequence[Row]) -> dict[str, np.ndarray]:
    return {"accuracy": _column(rows, "correct")}


_COLUMNS: dict[str, Callable[[Sequence[Row]], dict[str, np.ndarray]]] = {
    "stvg": _stvg_columns,
    "vtg": _vtg_columns,
    "rec": _rec_columns,
    "qa": _qa_columns,
}
