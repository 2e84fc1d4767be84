"""``spacevllm submit`` against a real Ray head node in processes of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from jobs.submit import PROJECT, absolute_paths


def submit(address, *arguments):
    command = [sys.executable, "-m", "jobs.cli", "submit", arguments[0], "--address", address, "--", *arguments[1:]]
    environment = os.environ | {"RAY_AUTH_MODE": "disabled"}
    return subprocess.run(command, env=environment, cwd=PROJECT, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_job_runs_on_the_cluster_and_its_log_is_followed(cluster, tmp_path):
    result = submit(cluster, "moving-shapes", "--out", str(tmp_path / "shapes"), "--num-videos", "4")
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"data set: {tmp_path / 'shapes'}" in result.stdout
    assert len(list((tmp_path / "shapes" / "media").glob("*/*.mp4"))) == 4
    assert list((tmp_path / "shapes" / "unistg" / "train").glob("*.parquet"))


@pytest.mark.slow
def test_status_of_the_job_is_the_status_of_submit(cluster, tmp_path):
    result = submit(cluster, "moving-shapes", "--out", str(tmp_path), "world.fqs=3")
    assert result.returncode == 2, result.stdout + result.stderr
    assert "world.fqs: unknown key, did you mean 'fps'?" in result.stdout


@pytest.mark.slow
def test_a_cluster_that_takes_no_jobs(start_head, tmp_path):
    """Two Ray nodes on one machine: the second one's agent finds its port taken and never comes up."""
    with socket.create_server(("127.0.0.1", 0)) as taken, start_head(taken.getsockname()[1]) as head:
        result = submit(head, "moving-shapes", "--out", str(tmp_path))
    assert result.returncode == 2, result.stdout + result.stderr
    assert f"{head} takes no jobs" in result.stderr and result.stderr.count("\n") == 1


def test_no_cluster(cli):
    status, _, error = cli("submit", "moving-shapes", "--address", "http://127.0.0.1:9", "--", "--out", "x")
    assert status == 2
    assert error.startswith("spacevllm: Failed to connect to Ray") and error.count("\n") == 1


def test_the_job_s_options_are_checked_before_anything_is_sent(cli):
    status, _, error = cli("submit", "train", "--address", "http://127.0.0.1:9", "--", "--dat", "x")
    assert status == 2
    assert "No such option: --dat" in error


@pytest.mark.parametrize(("job", "message"), [("trian", "no job 'trian'"), ("serve", "it has no end")])
def test_jobs_that_cannot_be_submitted(cli, job, message):
    status, _, error = cli("submit", job, "--address", "http://127.0.0.1:9", "--")
    assert status == 2
    assert message in error


def test_dry_run_prints_the_command(cli):
    arguments = ("--config", PROJECT / "jobs/configs/tiny.yaml", "--data", "s3://b/d", "--out", "runs/x", "train.lr=1")
    status, out, _ = cli("submit", "train", "--address", "http://h:1", "--dry-run", "--", *arguments)
    assert status == 0
    expected = "train --config jobs/configs/tiny.yaml --data s3://b/d --out"
    assert out.splitlines()[-1].startswith(f"python -m jobs.cli {expected} /")


def test_relative_paths_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert absolute_paths(["--out=a", "--data", "b", "--port", "1", "k=v"]) == [
        f"--out={tmp_path}/a", "--data", f"{tmp_path}/b", "--port", "1", "k=v",
    ]  # fmt: skip
    assert absolute_paths(["--questions", "q.txt", "--videos", "https://host/x.mp4"])[1::2] == [
        f"{tmp_path}/q.txt", "https://host/x.mp4",
    ]  # fmt: skip
