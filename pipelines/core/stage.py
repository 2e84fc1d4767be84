"""What all stages share: one job per output, the resolved config and the summary beside it, one MLflow run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pipelines.core import storage
from pipelines.core.tracking import Run, TrackingConfig, flatten, tracked_run
from spacevllm.config import Config, dump_config

Summary = dict[str, Any]


@contextmanager
def open_stage(name: str, config: Config, out: str, tracking: TrackingConfig, shard: str = "") -> Iterator[Run]:
    """Writes ``config.yaml`` and yields the stage's run. Hold ``locks.exclusive(out, shard)`` around it.

    Args:
        shard: name of a part of the work that others do beside; files are called ``config-<shard>.yaml`` and so on.
    """
    with tracked_run(tracking, name, out, config.model_dump(mode="json")) as run:
        uri = storage.join(out, named("config.yaml", shard))
        storage.write_text(uri, dump_config(config))
        run.log_artifact(uri)
        yield run


def named(file: str, shard: str) -> str:
    """``summary.json`` → ``summary-1-of-4.json``"""
    stem, _, ending = file.partition(".")
    return f"{stem}-{shard}.{ending}" if shard else file


def write_summary(run: Run, out: str, summary: Mapping[str, Any], shard: str = "") -> Summary:
    """``summary.json`` beside the output, its numbers as the run's last metrics; returns it.

    ``tracking_dropped``: records that MLflow did not take, if any.
    """
    uri = storage.join(out, named("summary.json", shard))
    if dropped := run.settle():
        summary = {**summary, "tracking_dropped": dropped}
    storage.write_json(uri, summary)
    run.log_artifact(uri)
    numbers = {k: v for k, v in flatten(summary).items() if isinstance(v, int | float) and not isinstance(v, bool)}
    run.log_metrics({_metric_name(name): value for name, value in numbers.items()})
    return dict(summary)


def _metric_name(name: str) -> str:
    """MLflow allows letters, digits and ``_-. :/``; ours also hold ``vIoU@0.5`` and reasons of failures."""
    return "".join(c if c.isalnum() or c in "_-. /" else "_" for c in name)
