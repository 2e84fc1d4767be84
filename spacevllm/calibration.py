"""How sure is sure? Token probabilities → the probability that what was asked for is there, and when to say so.

Platt scaling (Platt 1999, with its smoothed targets) of the raw confidence's log-odds, fitted on held-out questions of
which some are about things that are not there. It is ``calibration.json`` beside the weights; the predictor reads it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from spacevllm.config import ConfigError

FILE = "calibration.json"
RECALL = 0.95  # of what is there, found at the threshold
_EDGE = 1e-6  # log-odds of 0 and 1 are infinite


@dataclass(frozen=True)
class Calibration:
    """Probability ``sigmoid(slope * logit(raw) + intercept)``; from ``threshold`` on it counts as there.

    Attributes:
        n_present, n_absent: questions it was fitted on.
    """

    slope: float = 1.0
    intercept: float = 0.0
    threshold: float = 0.0
    n_present: int = 0
    n_absent: int = 0

    def __call__(self, raw: float) -> float:
        """raw, in [0, 1] → probability, in [0, 1]; without a fit the same number."""
        if (self.slope, self.intercept) == (1.0, 0.0):
            return raw
        return _sigmoid(self.slope * _logit(raw) + self.intercept)

    def save(self, folder: str | Path) -> Path:
        path = Path(folder, FILE)
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")
        return path

    @classmethod
    def load(cls, folder: str | Path) -> Calibration:
        """What stands beside the weights; without a file, raw confidences, and everything counts as there.

        Raises:
            ConfigError: the file is none of ours.
        """
        path = Path(folder, FILE)
        if not path.exists():
            return cls()
        try:
            found = cls(**json.loads(path.read_text()))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{path}: not a calibration: {error}") from None
        if not all(isinstance(v, int | float) and math.isfinite(v) for v in asdict(found).values()):
            raise ConfigError(f"{path}: not a calibration: its numbers are not finite")
        return found


def fit(raw: Sequence[float], present: Sequence[bool]) -> Calibration:
    """Maximum likelihood on held-out questions.

    Args:
        raw: (N,) confidences in [0, 1] of an uncalibrated predictor. present: (N,) whether it is there.

    Raises:
        ValueError: all are there, or none is.
    """
    truth = np.asarray(present, bool)
    x = np.array([_logit(value) for value in raw])  # (N,)
    n_present, n_absent = int(truth.sum()), int((~truth).sum())
    if not n_present or not n_absent:
        raise ValueError(f"{n_present} questions about what is there and {n_absent} about what is not: both are needed")
    target = np.where(truth, (n_present + 1) / (n_present + 2), 1 / (n_absent + 2))
    slope, intercept = _logistic(x, target)
    scored = Calibration(slope, intercept)
    threshold = np.quantile([scored(value) for value in np.asarray(raw)[truth]], 1 - RECALL, method="lower")
    return Calibration(slope, intercept, float(threshold), n_present, n_absent)


def _logistic(x: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """Newton's method for two parameters; the loss is convex, a little ridge keeps a flat one solvable."""
    design = np.stack([x, np.ones_like(x)], axis=-1)  # (N, 2)
    weights = np.zeros(2)
    for _ in range(100):
        p = 1 / (1 + np.exp(-np.clip(design @ weights, -30, 30)))
        slope = design.T @ (p - target) + 1e-6 * weights
        curvature = (design * (p * (1 - p))[:, None]).T @ design + 1e-6 * np.eye(2)
        step = np.clip(np.linalg.solve(curvature, slope), -5, 5)
        weights -= step
        if np.abs(step).max() < 1e-9:
            break
    return float(weights[0]), float(weights[1])


def _logit(value: float) -> float:
    value = min(max(value, _EDGE), 1 - _EDGE)
    return math.log(value / (1 - value))


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))
