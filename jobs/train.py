"""Trains a model; the same command continues from the last checkpoint."""

from __future__ import annotations

from jobs.common import finish, need_dataset, resolve, show_plan
from pipelines import storage
from pipelines.train import TrainJobConfig
from pipelines.train import run as train


def run(config: str, data: str, out: str, overrides: list[str], dry_run: bool) -> int:
    """Trains until the configured step; returns the exit status."""
    resolved = resolve(TrainJobConfig, config, overrides, data=data, out=out)
    need_dataset(data)
    if dry_run:
        return show_plan("train", resolved)
    train(resolved)
    finish(f"model: {storage.join(out, 'model')}")
    return 0
