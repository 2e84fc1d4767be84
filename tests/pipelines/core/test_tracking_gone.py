"""MLflow never ends a job and never slows it: servers that die, refuse, or take a call and never answer."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import ExitStack, contextmanager

import pytest
from mlflow import MlflowClient
from mlflow_server import mlflow_server, stop

from pipelines.core import outbox, storage
from pipelines.core.stage import open_stage, write_summary
from pipelines.core.tracking import PATIENCE, TrackingConfig, tracked_run
from spacevllm.config import Config, ConfigError


class StageConfig(Config):
    out: str


@pytest.fixture(autouse=True)
def _direct(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(outbox, "PATIENCE_S", 120)  # a busy machine is slow, not gone
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    for name in PATIENCE:  # a user's own settings come first; a real server's first answer takes its time
        monkeypatch.setenv(name, "60" if name.endswith("TIMEOUT") else "1")


@contextmanager
def taken_port(answers: bool):
    """A port that refuses, or (``answers`` False) takes every connection and never says a word."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        if not answers:
            listening.listen(50)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.slow
def test_a_server_that_dies_in_the_middle_costs_points_and_not_the_run(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(outbox, "BACK_OFF_S", 0.1)
    out = str(tmp_path / "out")
    with mlflow_server(tmp_path) as (server, address):
        with open_stage("train", StageConfig(out=out), out, TrackingConfig(store=address)) as run:
            run.log_metrics({"loss": 1.0}, 1)
            assert run.settle() == 0
            stop(server)
            run.log_metrics({"loss": 0.5, "lm": 0.25}, 2)
            summary = write_summary(run, out, {"in": 2})
        assert summary["tracking_dropped"] == 2 == storage.read_json(f"{out}/summary.json")["tracking_dropped"]
        assert capfd.readouterr().err.count("some records are lost, and the job goes on") == 1
    stored = MlflowClient(f"sqlite:///{tmp_path}/server.db").get_run(run.run_id)
    assert stored.data.metrics == {"loss": 1.0} and stored.data.params == {"out": out}


@pytest.mark.slow
def test_a_server_that_restarts_gets_what_waited(tmp_path, monkeypatch):
    monkeypatch.setattr(outbox, "BACK_OFF_S", 600)  # until the end, which waits for nothing
    with ExitStack() as servers:
        server, address = servers.enter_context(mlflow_server(tmp_path))
        with tracked_run(TrackingConfig(store=address), "train", "out", {}) as run:
            assert run.settle() == 0
            stop(server)
            for step in range(3):
                run.log_metrics({"loss": 1.0}, step)
            servers.enter_context(mlflow_server(tmp_path, int(address.rpartition(":")[2])))
            assert run.settle() == 0
    client = MlflowClient(f"sqlite:///{tmp_path}/server.db")
    assert len(client.get_metric_history(run.run_id, "loss")) == 3
    assert client.get_run(run.run_id).info.status == "FINISHED"


@pytest.mark.parametrize("answers", [True, False], ids=["refuses", "never answers"])
def test_a_server_that_is_not_there_at_the_start_is_said_and_missed(tmp_path, capfd, monkeypatch, answers):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    out = str(tmp_path / "out")
    with taken_port(answers) as address:
        store = address.replace("http://", "http://user:secret@")
        with open_stage("train", StageConfig(out=out), out, TrackingConfig(store=store)) as run:
            run.log_metrics({"loss": 1.0})
            assert "tracking_dropped" not in write_summary(run, out, {"in": 2})
    told = capfd.readouterr().err
    assert len(told.splitlines()) == 1 and "this run is not recorded" in told and "secret" not in told


@pytest.mark.parametrize("store", ["foo://bar", "/tmp/mlruns"])
def test_a_store_that_can_never_be_one_is_an_error_at_once(store):
    with (
        pytest.raises(ConfigError, match=f"tracking.store {store}: "),
        tracked_run(TrackingConfig(store=store), "train", "out", {}),
    ):
        raise AssertionError("it began")


def test_a_remote_output_says_where_its_runs_are_recorded(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    with tracked_run(TrackingConfig(), "train", "memory://bucket/out", {}):
        pass
    told = capfd.readouterr().err
    assert f"runs are recorded in sqlite:///{tmp_path}/mlflow.db" in told and "MLFLOW_TRACKING_URI" in told


def test_what_hangs_is_given_up_at_the_end_and_counted(capfd):
    box, hangs, arrived = outbox.Outbox("a server", patience_s=1), threading.Event(), []
    box.put(lambda: arrived.append(1), 5)
    box.put(hangs.wait, 2)
    box.put(lambda: arrived.append(2), 3)
    box.close()
    box.put(lambda: arrived.append(3), 4)  # too late
    hangs.set()
    assert arrived == [1] and box.dropped == 2 + 3 + 4
    assert capfd.readouterr().err.count("a server: some records are lost") == 1


def test_one_record_that_is_refused_is_alone(monkeypatch):
    monkeypatch.setattr(outbox, "BACK_OFF_S", 0.01)
    box, tried, arrived = outbox.Outbox("a server"), [], []

    def refuse():
        tried.append(1)
        raise ValueError("no such parameter")

    box.put(refuse)
    for number in range(50):
        box.put(lambda number=number: arrived.append(number))
    box.put(refuse)
    box.settle()
    assert arrived == list(range(50)) and box.dropped == 2 and len(tried) == 2 * outbox.TRIES
    box.put(lambda: arrived.append(50))  # settled is not closed
    box.close()
    assert arrived[-1] == 50


def test_so_much_may_wait_and_no_more(monkeypatch):
    monkeypatch.setattr(outbox, "MOST_WAITING", 3)
    box, go, arrived = outbox.Outbox("a server"), threading.Event(), []
    box.put(go.wait)
    while box._sending is None:  # the thread has taken it
        time.sleep(0.01)
    for number in range(5):
        box.put(lambda number=number: arrived.append(number))
    go.set()
    box.close()
    assert arrived == [0, 1, 2] and box.dropped == 2
