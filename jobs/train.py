"""Trains a model; the same command continues from the last checkpoint."""

from __future__ import annotations

from jobs.common import finish, need_dataset, resolve, say, show_plan
from pipelines.core import storage
from pipelines.train import TrainJobConfig
from pipelines.train import run as train


def run(config: str, data: str, out: str, overrides: list[str], dry_run: bool) -> int:
    """Trains until the configured step; returns the exit status."""
    resolved = resolve(TrainJobConfig, config, overrides, data=data, out=out)
    need_dataset(data)
    if dry_run:
        return _plan(resolved)
    summary = train(resolved)
    spent = f"{summary['steps']} steps in {summary['seconds']:.0f} s"
    finish(f"model: {storage.join(out, 'model')} ({spent}, {summary['instances']} questions)")
    return 0


def _plan(config: TrainJobConfig) -> int:
    """Reads the records and makes the model without weights, which is how most mistakes in a configuration show."""
    # torch and transformers take seconds to import: a mistake before is told at once
    from pipelines.train.data import need_records, read_instances
    from pipelines.train.plan import plan

    instances = read_instances(config.data, "train")
    lines = plan(config, instances)
    show_plan("train", config, f"{config.schedule.total_steps} steps, {len(instances)} questions")
    say("\n".join(f"# {line}".rstrip() for line in lines))
    need_records(config, instances)
    return 0
