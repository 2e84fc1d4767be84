"""One MLflow run per stage, driven from the controller through ``MlflowClient`` and an explicit run id.

(The fluent API's active run belongs to a thread; callbacks of Ray Train come from another one.)
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipelines.core import locks, storage
from spacevllm.config import Config

SQLITE = "sqlite:///"


class TrackingConfig(Config):
    """Where runs are recorded.

    Attributes:
        store: MLflow tracking URI; ``""``: MLFLOW_TRACKING_URI, else ``mlflow.db`` in the folder that holds the
            stage's output (so that the stages of one experiment share a store), or in the working folder when that
            output is remote.
        experiment: name of the MLflow experiment.
        enabled: False records nothing.
    """

    store: str = ""
    experiment: str = "spacevllm"
    enabled: bool = True


class Run:
    """An open run. Every method may be called from any thread; without tracking all of them do nothing."""

    def __init__(self, client: Any, run_id: str, store: str) -> None:
        self.client, self.run_id, self.store = client, run_id, store

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """One point of each curve; ``step`` defaults to 0."""
        if self.client is None:
            return
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        points = [Metric(name, float(value), now, step or 0) for name, value in metrics.items()]
        self.client.log_batch(self.run_id, metrics=points)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Nested mappings become dotted names."""
        if self.client is None:
            return
        from mlflow.entities import Param

        flat = [Param(name, str(value)[:6000]) for name, value in flatten(params).items()]
        for start in range(0, len(flat), 100):  # a batch holds at most 100
            self.client.log_batch(self.run_id, params=flat[start : start + 100])

    def log_artifact(self, uri: str | Path) -> None:
        """Copies a file, local or remote, to the run."""
        if self.client is None:
            return
        with storage.local_copy(uri) as path:
            self.client.log_artifact(self.run_id, path)

    def set_dataset(self, digest: str, name: str, source: str = "") -> None:
        """Records which data the run read: as MLflow's data set input and as the tag ``dataset_digest``."""
        if self.client is None:
            return
        from mlflow.entities import Dataset, DatasetInput

        data = Dataset(name=name, digest=digest[:36], source_type="local", source=source or name)
        self.client.log_inputs(self.run_id, datasets=[DatasetInput(dataset=data)])
        self.client.set_tag(self.run_id, "dataset_digest", digest)


@contextmanager
def tracked_run(config: TrackingConfig, stage: str, out: str, params: Mapping[str, Any]) -> Iterator[Run]:
    """A run named ``stage`` with the flattened ``params``; FINISHED at the end, FAILED or KILLED on an exception."""
    if not config.enabled:
        yield Run(None, "", "")
        return
    store = store_uri(config, out)
    client, experiment = _open_store(store, config.experiment)
    run_id = client.create_run(experiment, run_name=stage, tags={"stage": stage, "out": str(out)}).info.run_id
    run = Run(client, run_id, store)
    status = "FAILED"
    try:
        run.log_params(params)
        yield run
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        client.set_terminated(run_id, status)


def store_uri(config: TrackingConfig, out: str) -> str:
    """The tracking URI that ``tracked_run`` uses; give it to ``mlflow ui --backend-store-uri``."""
    if config.store:
        return config.store
    if os.environ.get("MLFLOW_TRACKING_URI"):
        return os.environ["MLFLOW_TRACKING_URI"]
    folder = storage.parent(out) if storage.is_local(out) else os.getcwd()
    return f"{SQLITE}{storage.join(folder, 'mlflow.db')}"


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"a": {"b": 1}}`` → ``{"a.b": 1}``."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _open_store(store: str, experiment: str) -> tuple[Any, str]:
    """Client and experiment id."""
    from mlflow import MlflowClient  # takes seconds: only when something is recorded

    for noisy in ("alembic", "mlflow"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    if not store.startswith(SQLITE):
        return _find_experiment(MlflowClient(store), experiment, None)
    path = storage.absolute(store.removeprefix(SQLITE))
    folder = storage.make_folder(storage.parent(path))
    with locks.waiting_lock(f"{path}.lock"):  # stages may start together on a store that is not there yet
        artifacts = Path(folder, "mlartifacts").as_uri()  # beside the store, not in the working folder
        return _find_experiment(MlflowClient(store), experiment, artifacts)


def _find_experiment(client: Any, name: str, artifacts: str | None) -> tuple[Any, str]:
    found = client.get_experiment_by_name(name)
    return client, found.experiment_id if found else client.create_experiment(name, artifact_location=artifacts)
