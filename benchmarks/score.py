"""How long ``spacevllm score`` takes for VidSTG's test set: 10,303 queries, a dense tube each, true and predicted.

    python -m benchmarks.score

CPU seconds of the whole command, imports and files included, so that other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import RESULTS, ROOT, facts, write_result

QUERIES, VIDEOS, NUM_FRAMES, LENGTH = 10_303, 732, 600, 150  # VidSTG test; its clips and targets are about this long


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queries", type=int, default=QUERIES)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = _write(Path(folder), options.queries)
        taken = {protocol: _seconds(files, protocol) for protocol in ("dense", "all")}
        sizes = {path.stem: path.stat().st_size for path in files}
    about = {"queries": options.queries, "frames_a_tube": LENGTH, "bytes": sizes, "clock": "CPU seconds of the command"}
    print(write_result("score", {**facts(), **about, "protocols": taken}, options.out))


def _write(folder: Path, count: int) -> tuple[Path, Path]:
    rng = np.random.default_rng(0)
    paths = folder / "annotations.jsonl", folder / "predictions.jsonl"
    with paths[0].open("w") as truths, paths[1].open("w") as answers:
        for number in range(count):
            about = {"question": "?", "video": f"{number % VIDEOS}.mp4", "fps": 29.97002997002997}
            about |= {"num_frames": NUM_FRAMES, "width": 640, "height": 360}
            for file, more in ((truths, about), (answers, {})):
                file.write(json.dumps({"id": str(number), **more, **_tube(rng)}) + "\n")
    return paths


def _tube(rng: np.random.Generator) -> dict[str, Any]:
    begin = int(rng.integers(100, 400))
    frames = np.arange(begin, begin + LENGTH)
    way = np.stack([100 + 0.3 * frames, 50 + 0.1 * frames], axis=-1)  # (F, 2)
    boxes = np.concatenate([way, way + 120], axis=-1) + rng.normal(0, 5, 4)
    rows = [[frame, *box] for frame, box in zip(frames.tolist(), boxes.round(2).tolist(), strict=True)]
    return {"begin_frame": begin, "end_frame": begin + LENGTH, "boxes": rows}


def _seconds(files: tuple[Path, Path], protocol: str) -> dict[str, float]:
    command = [sys.executable, "-m", "jobs.cli", "score", "--benchmark", "generic_stvg", "--protocol", protocol]
    command += ["--annotations", str(files[0]), "--predictions", str(files[1]), "--json"]
    before, start = _children(), time.perf_counter()
    ended = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    taken = {"cpu_s": round(_children() - before, 2), "wall_s": round(time.perf_counter() - start, 2)}
    scored = json.loads(ended.stdout)
    assert scored["n_queries"] and not scored["n_missing"]
    return taken


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
