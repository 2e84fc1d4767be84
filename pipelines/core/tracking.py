"""One MLflow run per stage, driven from the controller through ``MlflowClient`` and an explicit run id.

MLflow never ends a job and never slows it: records go through an ``Outbox``, and a job whose store is not there at its
start runs untracked, which is said.

(The fluent API's active run belongs to a thread; callbacks of Ray Train come from another one.)
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from pipelines.core import locks, scratch, storage
from pipelines.core.outbox import Outbox, Send, one_line
from spacevllm.config import Config, ConfigError

SQLITE = "sqlite:///"
LOCAL_PATIENCE_S = 120.0  # a file is not gone: the machine is busy
# of one request; MLflow's own are 120 s and seven repetitions, minutes for which a start or an end would wait
PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}


class TrackingConfig(Config):
    """Where runs are recorded.

    Attributes:
        store: MLflow tracking URI; ``""``: MLFLOW_TRACKING_URI, else ``mlflow.db`` in the folder that holds the
            stage's output (so that the stages of one experiment share a store), or in the working folder when that
            output is remote, which is said.
        experiment: name of the MLflow experiment.
        enabled: False records nothing.
    """

    store: str = ""
    experiment: str = "spacevllm"
    enabled: bool = True


class Run:
    """An open run. Every method may be called from any thread and returns at once; none raises what MLflow does.

    Without a client (no tracking) all of them do nothing.
    """

    def __init__(self, client: Any, run_id: str, store: str) -> None:
        self.client, self.run_id, self.store = client, run_id, store
        patience_s = LOCAL_PATIENCE_S if store.startswith(SQLITE) else None
        self.outbox = None if client is None else Outbox(one_line(f"MLflow at {store}"), patience_s)

    def settle(self) -> int:
        """How many records were dropped, when all others have arrived."""
        if self.outbox is None:
            return 0
        self.outbox.settle()
        return self.outbox.dropped

    def close(self, status: str) -> None:
        """The run's end: FINISHED, FAILED or KILLED."""
        if self.outbox is not None:
            self.outbox.put(lambda: self.client.set_terminated(self.run_id, status))
            self.outbox.close()

    def _put(self, send: Send, records: int = 1) -> None:
        assert self.outbox is not None
        self.outbox.put(send, records)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """One point of each curve; ``step`` defaults to 0."""
        if self.client is None:
            return
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        points = [Metric(name, float(value), now, step or 0) for name, value in metrics.items()]
        self._put(lambda: self.client.log_batch(self.run_id, metrics=points), len(points))

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Nested mappings become dotted names."""
        if self.client is None:
            return
        from mlflow.entities import Param

        flat = [Param(name, str(value)[:6000]) for name, value in flatten(params).items()]
        for start in range(0, len(flat), 100):  # a batch holds at most 100
            some = flat[start : start + 100]
            self._put(partial(self.client.log_batch, self.run_id, params=some), len(some))

    def log_artifact(self, uri: str | Path) -> None:
        """Copies a file, local or remote, to the run, as it is when its turn comes."""
        if self.client is None:
            return

        def send() -> None:
            with scratch.local_copy(uri) as path:
                self.client.log_artifact(self.run_id, path)

        self._put(send)

    def set_dataset(self, digest: str, name: str, source: str = "") -> None:
        """Records which data the run read: as MLflow's data set input and as the tag ``dataset_digest``."""
        if self.client is None:
            return
        from mlflow.entities import Dataset, DatasetInput

        data = Dataset(name=name, digest=digest[:36], source_type="local", source=source or name)
        self._put(lambda: self.client.log_inputs(self.run_id, datasets=[DatasetInput(dataset=data)]))
        self._put(lambda: self.client.set_tag(self.run_id, "dataset_digest", digest))


@contextmanager
def tracked_run(config: TrackingConfig, stage: str, out: str, params: Mapping[str, Any]) -> Iterator[Run]:
    """A run named ``stage`` with the flattened ``params``; FINISHED at the end, FAILED or KILLED on an exception.

    A store that cannot be opened is a line on stderr, and the run does nothing.

    Raises:
        ConfigError: the store can never be one, such as an unknown scheme.
    """
    run = _open_run(config, stage, out) if config.enabled else Run(None, "", "")
    status = "FAILED"
    try:
        run.log_params(params)
        yield run
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        run.close(status)


def store_uri(config: TrackingConfig, out: str) -> str:
    """The tracking URI that ``tracked_run`` uses; give it to ``mlflow ui --backend-store-uri``."""
    if config.store:
        return config.store
    if os.environ.get("MLFLOW_TRACKING_URI"):
        return os.environ["MLFLOW_TRACKING_URI"]
    folder = storage.parent(out) if storage.is_local(out) else os.getcwd()
    return f"{SQLITE}{storage.join(folder, 'mlflow.db')}"


def be_brief() -> None:
    """MLflow's client shall give up in seconds, without a line for each try; the user's own settings come first."""
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    for noisy, level in {"alembic": logging.WARNING, "mlflow": logging.WARNING, "urllib3": logging.ERROR}.items():
        logging.getLogger(noisy).setLevel(level)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"a": {"b": 1}}`` → ``{"a.b": 1}``."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _open_run(config: TrackingConfig, stage: str, out: str) -> Run:
    store = store_uri(config, out)
    if not (config.store or os.environ.get("MLFLOW_TRACKING_URI") or storage.is_local(out)):
        hint = "tracking.store or MLFLOW_TRACKING_URI names another place"
        print(f"runs are recorded in {store} of this machine: {hint}", file=sys.stderr)
    be_brief()
    try:
        client, experiment = _open_store(store, config.experiment)
        tags = {"stage": stage, "out": str(out)}
        return Run(client, client.create_run(experiment, run_name=stage, tags=tags).info.run_id, store)
    except ConfigError:
        raise
    except Exception as error:  # every store has errors of its own
        print(one_line(f"MLflow at {store} cannot be used, this run is not recorded: {error}"), file=sys.stderr)
        return Run(None, "", store)


def _open_store(store: str, experiment: str) -> tuple[Any, str]:
    """Client and experiment id."""
    if not store.startswith(SQLITE):
        return _find_experiment(_client(store), experiment, None)
    path = storage.absolute(store.removeprefix(SQLITE))
    folder = storage.make_folder(storage.parent(path))
    with locks.waiting_lock(f"{path}.lock"):  # stages may start together on a store that is not there yet
        artifacts = Path(folder, "mlartifacts").as_uri()  # beside the store, not in the working folder
        return _find_experiment(_client(store), experiment, artifacts)


def _client(store: str) -> Any:
    from mlflow import MlflowClient  # takes seconds: only when something is recorded
    from mlflow.exceptions import MlflowException

    try:
        return MlflowClient(store)
    except MlflowException as error:
        if error.error_code != "INVALID_PARAMETER_VALUE":
            raise
        raise ConfigError(one_line(f"tracking.store {store}: {error}")) from None


def _find_experiment(client: Any, name: str, artifacts: str | None) -> tuple[Any, str]:
    found = client.get_experiment_by_name(name)
    return client, found.experiment_id if found else client.create_experiment(name, artifact_location=artifacts)
