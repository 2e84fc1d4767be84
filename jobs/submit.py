"""Sends a job to a running Ray cluster: the same command, run by the same code, on other machines.

The checkout travels as the job's working folder (without data, runs and environments), so the cluster needs the
project's dependencies and nothing of the project itself.
"""

from __future__ import annotations

import asyncio
import logging
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.common import finish
from jobs.errors import BUG, INTERRUPTED, OK
from pipelines.core.models import REGISTERED
from spacevllm.config import ConfigError

if TYPE_CHECKING:
    from click import Command
    from ray.job_submission import JobSubmissionClient

PROJECT = Path(__file__).resolve().parent.parent
EXCLUDES = [
    ".venv",
    ".git",
    "/runs",
    "/data",
    "/build",
    "/dist",
    "*.mp4",
    "*.safetensors",
    "**/__pycache__",
    ".*_cache",
]
NO_AGENT = (
    "the agent of its head node is not up. Just started: try again in some seconds. Otherwise another Ray on that"
    " machine holds the agent's port: start the head with --dashboard-agent-listen-port=0"
)
REFUSED = {"submit", "serve"}
PATH_OPTIONS = ("--config", "--data", "--out", "--model", "--videos", "--questions", "--media-root")


def run(jobs: Mapping[str, Command], job: str, address: str, arguments: list[str], dry_run: bool) -> int:
    """Submits ``spacevllm JOB ARGUMENTS``; returns the exit status that the job had on the cluster.

    Args:
        jobs: every command of ``spacevllm`` by its name.

    Raises:
        ConfigError: no such job, options it does not have, or no checkout to send.
        ConnectionError: no cluster at ``address``.
    """
    check_job(jobs, job, arguments)
    entrypoint = shlex.join(["python", "-m", "jobs.cli", job, *absolute_paths(arguments)])
    if dry_run:
        print(f"# to {address}, with {PROJECT} as its working folder:\n{entrypoint}")
        return OK
    return _send(address, entrypoint)


def _send(address: str, entrypoint: str) -> int:
    from ray.job_submission import JobSubmissionClient

    for name in ("ray", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
        logging.getLogger(name).setLevel(logging.ERROR)  # packing the checkout is not worth a line a file
    client = JobSubmissionClient(address)
    runtime = {"working_dir": str(PROJECT), "excludes": EXCLUDES}
    try:
        submission = client.submit_job(entrypoint=entrypoint, runtime_env=runtime)
    except RuntimeError as error:
        if "No available agent" not in str(error):
            raise
        raise ConnectionError(f"{address} takes no jobs: {NO_AGENT}") from error
    print(f"{submission} runs on {address}: {entrypoint}", flush=True)
    try:
        asyncio.run(_follow(client, submission))
    except KeyboardInterrupt:
        print(f"{submission} goes on; stop it with: ray job stop --address {address} {submission}", file=sys.stderr)
        return INTERRUPTED
    details = client.get_job_info(submission)
    finish(f"{submission}: {details.status.value.lower()}")
    if details.status.value == "SUCCEEDED":
        return OK
    return details.driver_exit_code or BUG


def check_job(jobs: Mapping[str, Command], job: str, arguments: list[str]) -> None:
    """Parses the job's options here, where a typing error costs nothing; raises as the job itself would."""
    if not (PROJECT / "pyproject.toml").exists():
        raise ConfigError(f"{PROJECT} is no checkout of the project: submit sends the checkout, install with `-e`")
    if job in REFUSED:
        raise ConfigError(f"{job} cannot be submitted: it has no end")
    if job not in jobs:
        raise ConfigError(f"no job {job!r}; there are {', '.join(sorted(set(jobs) - REFUSED))}")
    jobs[job].make_context(f"spacevllm {job}", list(arguments))


def absolute_paths(arguments: list[str]) -> list[str]:
    """Relative paths made absolute: the job starts in another folder. Files of the checkout travel with it."""
    result = list(arguments)
    for i, word in enumerate(arguments):
        option, equals, value = word.partition("=")
        if option not in PATH_OPTIONS:
            continue
        if equals:
            result[i] = f"{option}={_absolute(option, value)}"
        elif i + 1 < len(arguments):
            result[i + 1] = _absolute(option, arguments[i + 1])
    return result


def _absolute(option: str, value: str) -> str:
    if "://" in value or value.startswith(REGISTERED):
        return value
    path = Path(value).absolute()
    travels = option in ("--config", "--questions") and path.is_relative_to(PROJECT)
    return str(path.relative_to(PROJECT) if travels else path)


async def _follow(client: JobSubmissionClient, submission: str) -> None:
    """Prints the log until the job has ended; a connection that drops is taken up again where it broke."""
    printed = 0
    while True:
        position = 0
        try:
            async for text in client.tail_job_logs(submission):  # always from the first line
                print(text[max(0, printed - position) :], end="", flush=True)
                position += len(text)
                printed = max(printed, position)
        except RuntimeError as error:
            print(f"lost the log of {submission} ({error}); following it again", file=sys.stderr)
        if client.get_job_status(submission).is_terminal():
            return
        await asyncio.sleep(1)
