"""Sends a job to a running Ray cluster: the same command, run by the same code, on other machines.

The checkout travels as the job's working folder (without data, runs and environments), so the cluster needs the
project's dependencies and nothing of the project itself.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import sys
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.common import finish, say
from jobs.errors import BUG, INTERRUPTED, OK
from pipelines.core.models import REGISTERED
from spacevllm.config import ConfigError

if TYPE_CHECKING:
    from click import Command, Parameter
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
PATHS = {"DIR", "FILE", "SRC", "OUT"}  # words of a metavar that say that a value is a path
LARGE = {"GLOB"}  # and that it may be an archive, which does not travel
WRITTEN = {"per_query", "out"}  # files that the job writes
UNTRAINED = "tiny"  # evaluate --model tiny: no folder


def run(
    jobs: Mapping[str, Command], job: str, address: str, arguments: list[str], dry_run: bool, env: list[str]
) -> int:
    """Submits ``spacevllm JOB ARGUMENTS``; returns the exit status that the job had on the cluster.

    Args:
        jobs: every command of ``spacevllm`` by its name.
        env: NAME or NAME=VALUE of environment variables for the job; values are never printed.

    Raises:
        ConfigError: no such job, options it does not have, or no checkout to send.
        ConnectionError: no cluster at ``address``.
    """
    check_job(jobs, job, arguments)
    entrypoint = shlex.join(["python", "-m", "jobs.cli", job, *absolute_paths(jobs[job], arguments)])
    variables = read_environment(env)
    if dry_run:
        told = f", with the variables {', '.join(variables)}" if variables else ""
        say(f"# to {address}, with {PROJECT} as its working folder{told}:\n{entrypoint}")
        return OK
    return _send(address, entrypoint, variables)


def _send(address: str, entrypoint: str, variables: dict[str, str]) -> int:
    from ray.job_submission import JobSubmissionClient

    for name in ("ray", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
        logging.getLogger(name).setLevel(logging.ERROR)  # packing the checkout is not worth a line a file
    client = JobSubmissionClient(address)
    runtime = {"working_dir": str(PROJECT), "excludes": EXCLUDES, "env_vars": variables}
    try:
        submission = client.submit_job(entrypoint=entrypoint, runtime_env=runtime)
    except RuntimeError as error:
        if "No available agent" not in str(error):
            raise
        raise ConnectionError(f"{address} takes no jobs: {NO_AGENT}") from error
    say(f"{submission} runs on {address}: {entrypoint}")
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


def absolute_paths(command: Command, arguments: list[str]) -> list[str]:
    """Relative paths made absolute: the job starts in another folder. Files of the checkout travel with it.

    Args:
        command: whose parameters say which are paths: by FILE, DIR or the like in their ``metavar``.
    """
    options = {name: param for param in command.params if param.param_type_name == "option" for name in param.opts}
    places = iter([param for param in command.params if param.param_type_name == "argument"])
    result: list[str] = []
    words = iter(arguments)
    for word in words:
        option, equals, value = word.partition("=")
        if option in options and equals:
            result.append(f"{option}={_absolute(options[option], value)}")
        elif option in options:
            taken = [] if getattr(options[option], "is_flag", False) else [next(words, "")]
            result += [option, *(_absolute(options[option], value) for value in taken)]
        else:
            place = next(places, None)  # the last takes all that follow, KEY=VALUE, and is no path
            result.append(_absolute(place, word) if place else word)
    return result


def _absolute(param: Parameter, value: str) -> str:
    kinds = set(str(param.metavar or "").split("|"))
    named = param.name == "model" and value == UNTRAINED and not Path(value).exists()
    if not kinds & PATHS or not value or "://" in value or value.startswith(REGISTERED) or named:
        return value
    path = Path(value).absolute()
    travels = "FILE" in kinds and not kinds & LARGE and param.name not in WRITTEN and _is_sent(path)
    return str(path.relative_to(PROJECT) if travels else path)


def _is_sent(path: Path) -> bool:
    """Whether it is a file of the checkout that goes with the job."""
    if not path.is_relative_to(PROJECT) or not path.exists():
        return False
    inside = path.relative_to(PROJECT)
    left_out = any(fnmatch(part, mark.removeprefix("**/")) for mark in EXCLUDES for part in inside.parts)
    return not left_out and f"/{inside.parts[0]}" not in EXCLUDES


def read_environment(wanted: list[str]) -> dict[str, str]:
    """``NAME=VALUE``, or ``NAME`` with the value it has here. Raises ConfigError, which tells names alone."""
    found: dict[str, str] = {}
    for text in wanted:
        name, equals, value = text.partition("=")
        if not name.isidentifier():
            raise ConfigError("--env: give NAME or NAME=VALUE, such as --env AWS_ENDPOINT_URL")
        if not equals and name not in os.environ:
            raise ConfigError(f"--env {name}: it is not set here; set it, or give --env {name}=VALUE")
        found[name] = value if equals else os.environ[name]
    return found


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
