"""Does building Uni-STG take time in proportion to its records, and memory that does not grow with them?

    python -m benchmarks.build_unistg --records 50000 500000

Generated annotations in the proportions of the paper (110 STVG with 20 boxes, 50 VTG, 320 REC), two tasks at once.
Memory is the resident set, read five times a second: of the driver, of the largest worker, and of all of them together
with Ray's own processes (pages that they share count for each).
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from benchmarks.common import RESULTS, facts, write_result
from pipelines.core.cluster import ray_session
from pipelines.core.tracking import TrackingConfig
from pipelines.dataset.build_unistg import BuildUnistgConfig, run
from spacevllm.data.instance import Instance

EVERY_S = 0.2
MEBIBYTE = 2**20
MIX = ("stvg",) * 11 + ("vtg",) * 5 + ("rec",) * 32


class Memory:
    """``with Memory() as memory``: afterwards its peaks, in MiB."""

    def __init__(self) -> None:
        self.driver = self.worker = self.all = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        driver = psutil.Process()
        while not self._over.wait(EVERY_S):
            own = driver.memory_info().rss // MEBIBYTE
            sizes = [size for child in driver.children(recursive=True) if (size := _resident(child)) is not None]
            self.driver = max(self.driver, own)
            self.worker = max([self.worker, *(size for is_worker, size in sizes if is_worker)])
            self.all = max(self.all, own + sum(size for _, size in sizes))


def _resident(process: psutil.Process) -> tuple[bool, int] | None:
    try:
        return process.name().startswith("ray::"), process.memory_info().rss // MEBIBYTE
    except psutil.NoSuchProcess:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, nargs="+", default=[50_000, 500_000])
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    sizes = []
    with ray_session():
        for count in options.records:
            sizes.append(measure(count))
            print(sizes[-1])
    print(write_result("build_unistg", facts() | {"workers": 2, "sizes": sizes}, options.out))


def measure(count: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        text = write_annotations(Path(folder), count)
        config = BuildUnistgConfig(data=folder, out=folder, workers=2, tracking=TrackingConfig(enabled=False))
        started, cpu = time.perf_counter(), _cpu_seconds()
        with Memory() as memory:
            summary = run(config)
        took, cpu = time.perf_counter() - started, _cpu_seconds() - cpu
    assert summary["ok"] == count
    return {
        "records": count,
        "text_mib": round(text / MEBIBYTE),
        "seconds": round(took, 1),
        "cpu_seconds": round(cpu, 1),
        "records_per_s": round(count / took),
        "records_per_cpu_s": round(count / max(cpu, 1e-9)),
        "peak_mib": {"driver": memory.driver, "worker": memory.worker, "all": memory.all},
    }


def write_annotations(folder: Path, count: int) -> int:
    """``annotations/train.jsonl``; returns its bytes."""
    path = folder / "annotations" / "train.jsonl"
    path.parent.mkdir()
    with path.open("w") as file:
        for row in records(count):
            file.write(json.dumps(row) + "\n")
    return path.stat().st_size


def records(count: int) -> Iterator[dict[str, Any]]:
    rng = random.Random(0)
    for number in range(count):
        task = MIX[number % len(MIX)]
        boxes = {"stvg": 20, "vtg": 0, "rec": 1}[task]
        low = [[round(rng.uniform(0, 300), 2), round(rng.uniform(0, 200), 2)] for _ in range(boxes)]
        moving = task != "rec"
        yield Instance(
            id=f"{task}/{number}", task=task, source="generated", split="train",  # type: ignore[arg-type]
            media=f"media/{number // 4:06d}.{'mp4' if moving else 'jpg'}", media_type="video" if moving else "image",
            question=f"the person in red who does the thing of number {number}", begin_frame=60 if moving else None,
            end_frame=360 if moving else None, begin_s=2.0 if moving else None, end_s=12.0 if moving else None,
            box_frames=[15 * i for i in range(boxes)], boxes=[[x, y, x + 80, y + 120] for x, y in low],
            fps_num=30 if moving else 0, num_frames=900 if moving else 1, width=640, height=360,
            duration_s=30.0 if moving else 0.0,
        ).to_row()  # fmt: skip


def _cpu_seconds() -> float:
    """Of this process and of all it started that still run."""
    total = 0.0
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


if __name__ == "__main__":
    main()
