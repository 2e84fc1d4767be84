"""``spacevllm submit`` against a real Ray head node in processes of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest
from typer.main import get_command

from jobs.cli import app
from jobs.submit import PATHS, PROJECT, absolute_paths, read_environment


def submit(address, *arguments, options=()):
    command = [sys.executable, "-m", "jobs.cli", "submit", arguments[0], "--address", address, *options]
    command += ["--", *arguments[1:]]
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
def test_a_variable_reaches_the_job(cluster, tmp_path):
    wrong = ("moving-shapes", "--out", str(tmp_path), "world.fqs=3")
    result = submit(cluster, *wrong, options=("--env", "SPACEVLLM_DEBUG=1"))
    assert result.returncode == 2 and "Traceback" in result.stdout, result.stdout + result.stderr


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


def sent(job, *arguments):
    return absolute_paths(get_command(app).commands[job], [*map(str, arguments)])


def test_relative_paths_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sent("train", "--out=a", "--data", "b", "k=v", "--dry-run", "--config", "c") == [
        f"--out={tmp_path}/a", "--data", f"{tmp_path}/b", "k=v", "--dry-run", "--config", f"{tmp_path}/c",
    ]  # fmt: skip
    asked = ("--videos", "https://host/x.mp4", "--question", "a/b")
    assert sent("ground", "--questions", "q.txt", *asked, "--allow", "v/") == [
        "--questions", f"{tmp_path}/q.txt", *asked, "--allow", f"{tmp_path}/v",
    ]  # fmt: skip
    assert sent("import-llava-video", "from", "--dry-run", "to") == [f"{tmp_path}/from", "--dry-run", f"{tmp_path}/to"]
    assert sent("search", "a dog", "--model", "m") == ["a dog", "--model", f"{tmp_path}/m"]
    assert sent("convert", "--media-root", "clips", "--boxes", "") == ["--media-root", "clips", "--boxes", ""]
    for named in ("tiny", "models:/grounder@best"):
        assert sent("evaluate", "--model", named) == ["--model", named]


def test_every_option_that_is_a_path_is_known_as_one():
    """So that a new option does not stay relative to another folder on the cluster."""
    paths = "config data out model videos questions annotations boxes instances durations tubes scores against allow"
    paths = {*paths.split(), "predictions", "per_query", "data_root", "backbone", "source"}
    for name, command in get_command(app).commands.items():
        for param in command.params if name not in ("submit", "serve", "demo") else []:
            known = bool(set(str(param.metavar).split("|")) & PATHS)
            assert known == (param.name in paths and param.metavar != "NAME"), (name, param.name)


def test_what_travels_is_what_the_job_is_sent(monkeypatch):
    monkeypatch.chdir(PROJECT)
    kept = ["--annotations", "pyproject.toml", "--predictions", "docs/cluster.md"]
    assert sent("score", *kept) == kept
    assert sent("score", "--per-query", "README.md") == ["--per-query", f"{PROJECT}/README.md"]  # it is written there
    assert sent("list", "--out", "README.md") == ["--out", f"{PROJECT}/README.md"]
    assert sent("score", "--annotations", ".git") == ["--annotations", f"{PROJECT}/.git"]  # left out of what is sent
    assert sent("report", "--tubes", "docs") == ["--tubes", f"{PROJECT}/docs"]


def test_variables_travel_and_are_not_told(cli, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://secret:1")
    env = ("--env", "AWS_ENDPOINT_URL", "--env", "TOKEN=secret=2", "--dry-run")
    status, out, error = cli("submit", "moving-shapes", "--address", "http://h:1", *env, "--", "--out", "x")
    assert status == 0 and "the variables AWS_ENDPOINT_URL, TOKEN:" in out and "secret" not in out + error
    assert read_environment(["AWS_ENDPOINT_URL", "TOKEN=secret=2"]) == {
        "AWS_ENDPOINT_URL": "http://secret:1", "TOKEN": "secret=2",
    }  # fmt: skip
    for wrong, why in (("NOT_SET_HERE", "NOT_SET_HERE: it is not set here"), ("=secret", "give NAME or NAME=VALUE")):
        status, out, error = cli(
            "submit", "moving-shapes", "--address", "http://h:1", "--env", wrong, "--", "--out", "x"
        )
        assert status == 2 and why in error and "secret" not in out + error
