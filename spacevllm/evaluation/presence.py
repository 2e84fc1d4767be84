"""Is it there? Scores of confidences where some questions are about things or events that do not occur."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from spacevllm.answer import Answer
from spacevllm.calibration import RECALL
from spacevllm.data.instance import Instance
from spacevllm.tube import Tube

FLOOR = -1.0  # below every confidence: no answer, or none that could be read


def auroc(confidence: np.ndarray, present: np.ndarray) -> float:
    """Chance that a question about what is there gets more confidence than one about what is not; ties count half.

    Args:
        confidence: (N,). present: (N,) bool, both kinds occur.
    """
    _, rank, counts = np.unique(confidence, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - (counts - 1) / 2  # mean rank, from 1, of equal values
    ranks = middle[rank]
    n_present, n_absent = present.sum(), (~present).sum()
    return float((ranks[present].sum() - n_present * (n_present + 1) / 2) / (n_present * n_absent))


def false_alarm_rate(confidence: np.ndarray, present: np.ndarray, recall: float = RECALL) -> float:
    """Share of what is not there that passes the highest threshold which keeps ``recall`` of what is."""
    kept = np.sort(confidence[present])[::-1]
    threshold = kept[int(np.ceil(recall * len(kept))) - 1]
    return float((confidence[~present] >= threshold).mean())


def summarise_presence(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | int]:
    """``{}`` unless both kinds of questions occur.

    Args:
        rows: with ``truth_present``, ``confidence`` and ``present``, as ``presence_rows`` gives them.
    """
    truth = np.array([row["truth_present"] for row in rows], bool)
    if truth.all() or not truth.any():
        return {}
    confidence = np.array([row["confidence"] for row in rows])
    said = np.array([row["present"] for row in rows], bool)
    return {
        "auroc": auroc(confidence, truth),
        f"false_alarms@recall{RECALL:g}": false_alarm_rate(confidence, truth),
        "recall": float(said[truth].mean()),  # as the model's own flag has it
        "false_alarms": float(said[~truth].mean()),
        "n_present": int(truth.sum()),
        "n_absent": int((~truth).sum()),
    }


def presence_rows(instances: Sequence[Instance], answers: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row for each stvg and vtg question: id, truth_present, confidence and the answer's ``present``."""
    return [_row(instance, answers.get(instance.id)) for instance in instances if instance.task in ("stvg", "vtg")]


def _row(instance: Instance, answer: Any) -> dict[str, Any]:
    tube = answer.best if isinstance(answer, Answer) else answer if isinstance(answer, Tube) else None
    readable = tube is not None and (tube.span is not None or tube.says_absent)
    return {
        "id": instance.id,
        "truth_present": instance.present,
        "confidence": tube.confidence if tube is not None and readable else FLOOR,
        "present": tube is not None and tube.present,
    }
