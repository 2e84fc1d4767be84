"""``train``: Uni-STG → decoded clips → Ray Train workers with DeepSpeed → OUT/model, OUT/metrics.jsonl.

Running the same command again continues from the last checkpoint, or does nothing when the model is there.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import Any

from pipelines.core import locks, storage
from pipelines.core.cluster import ray_session
from pipelines.core.outbox import one_line
from pipelines.core.progress import Progress
from pipelines.core.stage import Summary, open_stage, write_summary
from pipelines.core.tracking import Run
from pipelines.train.config import TrainJobConfig
from spacevllm.data.instance import instance_id
from spacevllm.imports import no_garbage

__all__ = ["TrainJobConfig", "run"]


def run(config: TrainJobConfig) -> Summary:
    """Trains and leaves OUT/model; returns the summary, of the earlier run if there is nothing left to do.

    Raises:
        ConfigError: see ``TrainJobConfig``. FileNotFoundError: no data. StorageBusy: another job has this output.
        RuntimeError: training failed more often than ``train.max_failures``.
    """
    recipe = instance_id(config.model_dump_json(exclude={"out", "ray", "tracking", "decode", "decoded"}))
    with locks.exclusive(config.out):
        summary_uri = storage.join(config.out, "summary.json")
        if storage.exists(summary_uri) and storage.exists(storage.join(config.out, "model", "config.json")):
            summary = storage.read_json(summary_uri)
            if summary.get("recipe") == recipe:
                return summary
        with ray_session(config.ray):
            return _train(config, recipe)


def _train(config: TrainJobConfig, recipe: str) -> Summary:
    # torch and transformers take seconds to import: a wrong configuration is told before, Ray's controller needs none
    with no_garbage():
        from pipelines.train.data import clip_dataset, decode_clips, need_records, read_instances
        from pipelines.train.model import prepare_model

    instances = read_instances(config.data, "train")
    need_records(config, instances)
    make_model, processor = prepare_model(config, instances)
    decoded, counts = decode_clips(config, processor.config.num_frames, processor.layout.frame_size)
    with open_stage("train", config, config.out, config.tracking) as run:
        digest = storage.read_json(storage.join(config.data, "dataset.json")).get("digest", "")
        run.set_dataset(digest, storage.name(config.data), config.data)
        started = time.monotonic()
        history = MetricsHistory(storage.join(config.out, "metrics.jsonl"), recipe)
        progress = Progress("train", config.schedule.total_steps, "steps", None)
        with progress, Reports(progress, run, history) as reports:
            payload = {"config": config, "make_model": make_model, "processor": processor}
            datasets: dict[str, Any] = {
                source.selection: clip_dataset(decoded, instances, source, config.train.keep_clips)
                for source in sorted(config.schedule.used_sources.values(), key=lambda source: source.selection)
            }
            result = fit(config, recipe, payload, datasets, reports)
        keep_model(result.checkpoint.path, config.out)
        summary = {
            "stage": "train",
            "recipe": recipe,
            "steps": config.schedule.total_steps,
            "clips": counts["ok"],
            "clips_failed": counts["failed"],
            "instances": len(instances),
            "seconds": time.monotonic() - started,
            "last": reports.last,
            "model": storage.join(config.out, "model"),
        }
        return write_summary(run, config.out, summary)


def keep_model(checkpoint: str, out: str) -> None:
    """OUT/model as the last checkpoint holds it; ``checkpoint``: its path in OUT's file system.

    Raises:
        FileNotFoundError: it holds no model.
    """
    model = storage.join(out, "model")
    storage.remove_folder(model)  # a calibration of earlier weights is none of these
    storage.copy_folder(storage.beside(out, storage.join(checkpoint, "model")), model)


def fit(
    config: TrainJobConfig, recipe: str, payload: dict[str, Any], datasets: dict[str, Any], reports: Reports
) -> Any:
    """Ray Train's ``Result``. The run is named after the recipe: another recipe never resumes from its checkpoints."""
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.25")  # a report waits until the one before is fetched
    import ray
    import ray.train
    from ray.data import ExecutionOptions
    from ray.train.torch import TorchConfig, TorchTrainer

    workers = config.workers
    filesystem, checkpoints = storage.arrow(storage.join(config.out, "checkpoints"))
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"payload": ray.put(payload)},  # by reference: the controller does not unpack it
        torch_config=TorchConfig(backend="nccl" if workers.use_gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers.num_workers,
            use_gpu=workers.use_gpu,
            resources_per_worker={"GPU": 1} if workers.use_gpu else {"CPU": 1},
        ),
        run_config=ray.train.RunConfig(
            name=recipe,
            storage_path=checkpoints,
            storage_filesystem=filesystem,
            failure_config=ray.train.FailureConfig(max_failures=config.train.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
            callbacks=[reports.callback()],
        ),
        datasets=datasets,
        # the same rows in the same order every time: runs can be compared, and a resumed one skips what it has seen
        dataset_config=ray.train.DataConfig(execution_options=ExecutionOptions(preserve_order=True)),
    )
    return trainer.fit()


def _worker(boxed: dict[str, Any]) -> None:
    """``train_loop_per_worker``"""
    import ray

    with no_garbage():
        from pipelines.train.loop import train_worker

    train_worker(ray.get(boxed["payload"]))


class MetricsHistory:
    """One JSON line for every report, in the order of steps; a resumed run replaces the lines it takes back.

    The file is written whole each time (some hundred bytes a line, one line in ``train.log_every`` steps), as object
    stores cannot append; so what a store refused once is there after the next time.
    """

    def __init__(self, uri: str, recipe: str) -> None:
        self.uri, self.recipe = uri, recipe
        lines = storage.read_text(uri).splitlines() if storage.exists(uri) else []
        self.rows = [row for row in map(json.loads, lines) if row["recipe"] == recipe]

    def add(self, metrics: dict[str, Any]) -> None:
        earlier = [row for row in self.rows if row["step"] < metrics["step"]]
        self.rows = [*earlier, {"recipe": self.recipe, **metrics}]
        try:
            self.write()
        except Exception as error:  # every store has errors of its own; training goes on without it
            print(f"{self.uri} is behind, the next report brings it up to date: {one_line(error)}", file=sys.stderr)

    def write(self) -> None:
        """All rows. Raises OutputError."""
        storage.write_text(self.uri, "".join(json.dumps(row) + "\n" for row in self.rows))


class Reports:
    """Carries the workers' metrics from Ray's controller process to this one: progress line, file and MLflow curves."""

    def __init__(self, progress: Progress, run: Run, history: MetricsHistory) -> None:
        from ray.util.queue import Queue

        self.progress, self.run, self.history = progress, run, history
        self.queue = Queue(actor_options={"num_cpus": 0})
        self.last: dict[str, Any] = {}
        self._thread = threading.Thread(target=self._pump, daemon=True)

    def callback(self) -> Any:
        from pipelines.train.callback import ForwardReports

        return ForwardReports(self.queue)

    def __enter__(self) -> Reports:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.queue.put(None)
        self._thread.join()
        self.queue.shutdown()
        if kind is None:
            self.history.write()

    def _pump(self) -> None:
        while (metrics := self.queue.get()) is not None:
            self.last = metrics
            self.history.add(metrics)
            self.progress.note = f"loss {metrics['loss']:.3f}"
            self.progress.advance(metrics["step"] - self.progress.done)
            numbers = {k: v for k, v in metrics.items() if isinstance(v, int | float)}
            self.run.log_metrics(numbers, step=metrics["step"])
