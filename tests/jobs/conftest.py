from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psutil
import pytest

from jobs.cli import main

ROOT = Path(__file__).parents[2]
PATIENCE_S = 180  # until a node is up: seconds, or a minute beside other work


@pytest.fixture
def cli(capsys):
    """Runs the command in this process; gives (status, stdout, stderr)."""

    def run(*arguments):
        status = main([str(argument) for argument in arguments])
        return status, *capsys.readouterr()

    return run


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def cluster(tmp_path_factory, short_folder):
    """The dashboard's address of a Ray head node."""
    with head_node(tmp_path_factory, short_folder) as address:
        wait_for_agent(address)
        yield address


@contextmanager
def head_node(tmp_path_factory, short_folder, agent_port=0):
    """In processes of its own, as ``ray start`` leaves it; gives the dashboard's address.

    ``agent_port`` 0 takes a free one: the default belongs to the test session's own Ray on this machine.
    """
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # the job's `python`
        "RAY_AUTH_MODE": "disabled",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    }
    port, dashboard = free_port(), free_port()
    command = ["ray", "start", "--head", "--block", "--num-cpus=4", "--node-ip-address=127.0.0.1", f"--port={port}"]
    command += [f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1", "--disable-usage-stats"]
    command += [f"--dashboard-agent-listen-port={agent_port}"]
    command += ["--object-store-memory=200000000", f"--temp-dir={short_folder()}"]
    log = tmp_path_factory.mktemp("cluster") / "ray.log"
    with log.open("w") as file:
        head = subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)
    try:
        wait_for_dashboard(dashboard, head, log)
        yield f"http://127.0.0.1:{dashboard}"
    finally:
        stop(head)


def stop(head):
    """At once: asked to end, ``ray start --block`` waits up to half a minute for its log monitor."""
    processes = [psutil.Process(head.pid), *psutil.Process(head.pid).children(recursive=True)]
    for process in processes:
        process.kill()
    head.wait()


@pytest.fixture
def start_head(tmp_path_factory, short_folder):
    """``with start_head(agent_port) as address``: a head node of this test's own."""
    return partial(head_node, tmp_path_factory, short_folder)


def wait_for_dashboard(port, head, log):
    from ray.job_submission import JobSubmissionClient

    end = time.monotonic() + PATIENCE_S
    while head.poll() is None and time.monotonic() < end:
        try:
            JobSubmissionClient(f"http://127.0.0.1:{port}").list_jobs()
            return
        except (ConnectionError, RuntimeError):
            time.sleep(0.5)
    pytest.fail(f"no Ray head came up:\n{log.read_text()}")


def wait_for_agent(address):
    """The dashboard lists jobs before the agent, which starts them, is there: until it takes one."""
    from ray.job_submission import JobSubmissionClient

    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            JobSubmissionClient(address).submit_job(entrypoint="true")
            return
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > end:
                raise
            time.sleep(0.5)


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """Folder of an untrained tiny model."""
    from spacevllm.model.configuration import tiny_config
    from spacevllm.model.modeling import SpaceVLLM
    from spacevllm.model.processing import SpaceVLLMProcessor
    from spacevllm.model.tokenizer import build_tiny_tokenizer
    from spacevllm.predictor import Predictor

    folder = tmp_path_factory.mktemp("untrained") / "model"
    tokenizer = build_tiny_tokenizer(["the small red circle while it moves left", "From 1.00s to 2.00s."])
    config = tiny_config(len(tokenizer))
    Predictor(SpaceVLLM(config), SpaceVLLMProcessor(tokenizer, config)).save(folder)
    return folder


@pytest.fixture(scope="session")
def ray():
    """One Ray session for all jobs that run in this process."""
    from pipelines.core.cluster import ray_session

    with ray_session():
        yield


@pytest.fixture(scope="session")
def data(tmp_path_factory, ray):
    """A data set of four videos."""
    folder = tmp_path_factory.mktemp("shapes") / "data"
    assert main(["moving-shapes", "--out", str(folder), "--num-videos", "4", "--seed", "1"]) == 0
    return folder
