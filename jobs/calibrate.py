"""Fits a model's confidences to held-out questions, some of which are about what is not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jobs.common import finish, need_folder, need_model, resolve, show_plan
from pipelines.archive.predict import describe, load_predictor
from pipelines.core import models, storage
from spacevllm.calibration import FILE, RECALL, fit
from spacevllm.config import Config, ConfigError


class CalibrateConfig(Config):
    """``calibrate``: MODEL/calibration.json.

    Attributes:
        model: folder of a trained model without a calibration.
        scores: output folder of ``evaluate`` for this model, on a data set with questions about what does not occur.
    """

    model: str
    scores: str


def run(model: str, scores: str, overrides: list[str], dry_run: bool) -> int:
    """Writes the calibration; returns the exit status."""
    config = resolve(CalibrateConfig, "", overrides, model=model, scores=scores)
    need_model(model)
    need_folder("--scores", scores, "queries.parquet", "give the folder that `spacevllm evaluate` wrote as OUT")
    _check(config)
    asked = [row for row in _rows(config) if row.get("truth_present") is not None]
    rows = [row for row in asked if row["confidence"] >= 0]  # no answer at all says nothing of what an answer's means
    try:
        calibration = fit([row["confidence"] for row in rows], [row["truth_present"] for row in rows])
    except ValueError as error:
        raise ConfigError(f"--scores {scores}: {error} (moving-shapes: world.absent_per_video=3)") from None
    if dry_run:
        return show_plan("calibrate", config, f"{calibration}")
    path = calibration.save(model)
    finish(
        f"calibration: {path} (questions: {calibration.n_present} about what is there, {calibration.n_absent} about "
        f"what is not, {len(asked) - len(rows)} without an answer left out; present from {calibration.threshold:.3f} "
        f"on, which keeps {RECALL:.0%})"
    )
    return 0


def _rows(config: CalibrateConfig) -> list[dict[str, Any]]:
    return list(storage.read_table(storage.join(config.scores, "queries.parquet")).to_pylist())


def _check(config: CalibrateConfig) -> None:
    if models.is_remote(config.model):
        raise ConfigError(f"--model {config.model}: the calibration is written into a local folder")
    if Path(config.model, FILE).exists():
        raise ConfigError(f"--model {config.model} has a {FILE}: remove it, evaluate again, then calibrate")
    scored = storage.read_json(storage.join(config.scores, "summary.json"))["model_digest"]
    if scored != describe(config.model, load_predictor).digest:
        raise ConfigError(f"--scores {config.scores} are those of another model: evaluate {config.model} first")
