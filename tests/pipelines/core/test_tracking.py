"""A real MLflow store on SQLite: what was logged can be read back by another client."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipelines.core.stage import open_stage, write_summary
from pipelines.core.tracking import TrackingConfig, flatten, store_uri, tracked_run
from spacevllm.config import Config


class Inner(Config):
    rate: float = 0.5


class StageConfig(Config):
    out: str
    inner: Inner = Inner()


@pytest.fixture(autouse=True)
def _no_server(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_a_run_holds_params_curves_data_set_and_artifacts(tmp_path, capfd):
    out = str(tmp_path / "out")
    with open_stage("train", StageConfig(out=out), out, TrackingConfig()) as run:
        for step in range(3):
            run.log_metrics({"loss": 1.0 / (step + 1)}, step)
        run.set_dataset("ab" * 32, "moving shapes")
        write_summary(run, out, {"in": 2, "stvg": {"dense": {"vIoU@0.5": 0.25}}, "note": "text"})

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    stored = client.get_run(run.run_id)
    assert stored.info.status == "FINISHED" and stored.info.run_name == "train"
    assert stored.data.params == {"out": out, "inner.rate": "0.5"}
    curve = [(point.step, point.value) for point in client.get_metric_history(run.run_id, "loss")]
    assert curve == [(0, 1.0), (1, 0.5), (2, 1 / 3)]
    assert stored.data.metrics["stvg.dense.vIoU_0.5"] == 0.25 and stored.data.metrics["in"] == 2
    assert stored.data.tags["dataset_digest"] == "ab" * 32
    assert stored.inputs.dataset_inputs[0].dataset.name == "moving shapes"
    assert sorted(file.path for file in client.list_artifacts(run.run_id)) == ["config.yaml", "summary.json"]
    assert "mlartifacts" in stored.info.artifact_uri and str(tmp_path) in stored.info.artifact_uri
    assert "alembic" not in "".join(capfd.readouterr())


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Creating a store takes seconds, so these tests share one."""
    return TrackingConfig(store=f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db")


@pytest.mark.parametrize(("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_an_exception_is_the_status_and_goes_on(store, error, status):
    with pytest.raises(error), tracked_run(store, "train", "out", {}) as run:
        raise error("no")
    assert MlflowClient(run.store).get_run(run.run_id).info.status == status


def test_metrics_may_come_from_another_thread(store):
    with tracked_run(store, "train", "out", {}) as run:
        thread = threading.Thread(target=run.log_metrics, args=({"loss": 2.0}, 7))
        thread.start()
        thread.join()
    assert MlflowClient(run.store).get_metric_history(run.run_id, "loss")[0].step == 7


def test_without_tracking_nothing_is_written(tmp_path):
    with tracked_run(TrackingConfig(enabled=False), "train", str(tmp_path / "out"), {"a": 1}) as run:
        run.log_metrics({"loss": 1.0})
        run.log_artifact("no such file")
        run.set_dataset("x", "y")
    assert list(tmp_path.iterdir()) == []


def test_stages_of_one_experiment_share_a_store_and_remote_outputs_use_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert store_uri(TrackingConfig(), str(tmp_path / "a/model")) == f"sqlite:///{tmp_path}/a/mlflow.db"
    assert store_uri(TrackingConfig(), "model") == f"sqlite:///{tmp_path}/mlflow.db"
    assert store_uri(TrackingConfig(), "memory://bucket/model") == f"sqlite:///{tmp_path}/mlflow.db"
    assert store_uri(TrackingConfig(store="http://host:5000"), "x") == "http://host:5000"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://other:5000")
    assert store_uri(TrackingConfig(), "x") == "http://other:5000"


def test_flatten():
    assert flatten({"a": {"b": {"c": 1}, "d": [2]}, "e": None}) == {"a.b.c": 1, "a.d": [2], "e": None}


@pytest.mark.slow
def test_processes_that_create_the_store_together_all_get_their_run(tmp_path):
    code = f"""
from pipelines.core.tracking import TrackingConfig, tracked_run
with tracked_run(TrackingConfig(), "stage", {str(tmp_path / "out")!r}, {{}}) as run:
    run.log_metrics({{"x": 1}})
"""
    root = Path(__file__).parents[3]
    processes = [subprocess.Popen([sys.executable, "-c", code], cwd=root, stderr=subprocess.PIPE) for _ in range(3)]
    errors = [process.communicate()[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], errors
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    [experiment] = [e for e in client.search_experiments() if e.name == "spacevllm"]
    assert len(client.search_runs([experiment.experiment_id])) == 3
