"""What every result carries (machine, versions, commit) and how two sides are timed fairly. Needs torch only."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
Clock = Callable[[], float]


def facts(device: str = "cpu") -> dict[str, Any]:
    """Machine, versions and commit, as they stand in every result file; None where something cannot be known."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit(),
        "machine": {
            "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
            "cpu": _cpu_name(),
            "cores": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
            "load_at_start": round(os.getloadavg()[0], 1),
        },
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "transformers": metadata.version("transformers"),
        },
    }


def commit() -> str | None:
    """Of the checkout, with ``+`` behind it where code differs from it; None without git."""
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results")
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + "+" * bool(changed)


def write_result(name: str, result: Mapping[str, Any], folder: Path = RESULTS) -> Path:
    """Writes ``folder/name.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    return path


def seconds(run: Callable[[], Any], device: str = "cpu", clock: Clock = time.perf_counter) -> float:
    """Of one call, the device's work included."""
    _wait(device)
    start = clock()
    run()
    _wait(device)
    return clock() - start


def rounds(
    sides: Mapping[str, Callable[[], Any]], count: int, device: str = "cpu", clock: Clock = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of every side in each of ``count`` rounds, after one that is not counted.

    A round runs every side once, so that whatever else the machine does in the meantime meets all of them alike.

    Args:
        clock: ``time.process_time`` for work of one thread on a machine that others use, too.
    """
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(count + 1):
        for name, run in sides.items():
            spent = seconds(run, device, clock)
            if number:
                taken[name].append(spent)
    return taken


def median_ratio(a: list[float], b: list[float]) -> float:
    """Median over the rounds of a / b."""
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()


def _cpu_name() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)
