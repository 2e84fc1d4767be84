"""What does the pipeline cost beside the bare model and the bare decoder, and does its memory grow with the archive?

    python -m benchmarks.ground

A tiny model on CPU and small generated videos. Every comparison runs its sides in turn, so that whatever else the
machine does meets both; seconds are wall time. Ray's start is not counted, but that of each run's actors is: some
seconds, so that few small videos (``--videos``) measure little else. A busy machine adds to it.

    ground / predict    pipeline with one predictor against the same predictor on frames that are decoded already
    decode / bare       decode stage against one process that decodes, times the number of decode actors
    questions           the pipeline with N questions a video against one
    memory              peak of driver and workers together, at 100 and at 1,000 videos
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import av
import numpy as np
import psutil

from benchmarks.common import RESULTS, facts, median_ratio, write_result
from pipelines.cluster import ray_session
from pipelines.decode import DecodeConfig, DecodeOptions
from pipelines.decode import run as decode
from pipelines.ground import GroundConfig
from pipelines.ground import run as ground
from pipelines.tracking import TrackingConfig
from spacevllm.predictor import Predictor
from spacevllm.video.reader import sample_frames

QUIET = TrackingConfig(enabled=False)
_runs = itertools.count()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of a tiny model")
    parser.add_argument("--videos", type=int, default=64)
    parser.add_argument("--questions", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--archives", type=int, nargs="*", default=[100, 1000], help="videos, for the memory")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ray_session():
        largest = max([options.videos, *options.archives])
        videos = write_videos(Path(folder, "videos"), largest)
        bench = Bench(options.model, Path(folder))
        result = facts() | {
            "clock": "wall seconds; the machine's cores are shared with other work, see load_at_start",
            "video": "160x120, 57 frames at 8 fps, H.264",
            "rounds": options.rounds,
            **bench.against_bare(videos[: options.videos], options.rounds),
            "questions": bench.questions(videos[: options.videos], options.questions, options.rounds),
            "memory": bench.memory(videos, options.archives),
        }
    print(write_result("ground", result, options.out))


class Bench:
    """The pipelines and their bare counterparts over the same files."""

    def __init__(self, model: str, folder: Path) -> None:
        self.model, self.folder, self.predictor = model, folder, Predictor.load(model)

    def against_bare(self, videos: Sequence[str], rounds: int) -> dict[str, Any]:
        clips = [sample_frames(path, self.predictor.num_frames) for path in videos]
        sides = {
            "ground": lambda: self.ground(videos, 4),
            "predict": lambda: [self.predictor.ground(clip, words(4)) for clip in clips],
            "decode": lambda: self.decode(videos),
            "bare_decode": lambda: [sample_frames(path, self.predictor.num_frames) for path in videos],
        }
        taken: dict[str, list[float]] = {name: [] for name in sides}
        for number, (name, run) in itertools.product(range(rounds + 1), sides.items()):
            started = time.perf_counter()
            run()
            if number:  # the first round is not counted
                taken[name].append(time.perf_counter() - started)
        return {
            "videos": len(videos),
            "seconds": {name: median(values) for name, values in taken.items()},
            "ground_over_predict": median_ratio(taken["predict"], taken["ground"]),
            "decode_over_bare": median_ratio(taken["bare_decode"], taken["decode"]),
        }

    def questions(self, videos: Sequence[str], counts: Sequence[int], rounds: int) -> list[dict[str, float]]:
        taken: dict[int, list[float]] = {count: [] for count in counts}
        for _, count in itertools.product(range(rounds), counts):
            started = time.perf_counter()
            self.ground(videos, count)
            taken[count].append(time.perf_counter() - started)
        first = taken[counts[0]]
        return [{"n": n, "seconds": median(s), "over_first": median_ratio(s, first)} for n, s in taken.items()]

    def memory(self, videos: Sequence[str], archives: Sequence[int]) -> list[dict[str, float]]:
        rows = []
        for count in archives:
            with peak_memory() as peak:
                self.ground(videos[:count], 4)
            rows.append({"videos": count, "peak_mb": round(peak[0] / 2**20, 1)})
        return rows

    def ground(self, videos: Sequence[str], questions: int) -> None:
        out = str(self.folder / f"ground{next(_runs)}")
        asked = tuple(words(questions))
        config = GroundConfig(model=self.model, videos=tuple(videos), out=out, question=asked, tracking=QUIET)
        summary = ground(config)
        assert summary["in"] == len(videos) * questions

    def decode(self, videos: Sequence[str]) -> None:
        out = str(self.folder / f"decode{next(_runs)}")
        options = DecodeOptions(num_actors=1)
        decode(DecodeConfig(videos=tuple(videos), out=out, decode=options, tracking=QUIET))


def words(count: int) -> list[str]:
    return [f"the red circle while it moves left {number}" for number in range(count)]


def write_videos(folder: Path, count: int) -> list[str]:
    """Clips of moving noise, no two alike."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    return [_write_video(folder / f"{number:05d}.mp4", rng) for number in range(count)]


def _write_video(path: Path, rng: np.random.Generator) -> str:
    picture = rng.integers(0, 255, (12, 16, 3), np.uint8).repeat(10, 0).repeat(10, 1)  # (120, 160, 3)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for frame in range(57):
            shown = np.ascontiguousarray(np.roll(picture, 2 * frame, axis=1))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))
        container.mux(stream.encode())
    return str(path)


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """Bytes of this process and its children, shared pages counted once (PSS), sampled twice a second."""
    peak, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.5):
            peak[0] = max(peak[0], _memory())

    thread = threading.Thread(target=watch)
    thread.start()
    yield peak
    done.set()
    thread.join()


def _memory() -> int:
    total, here = 0, psutil.Process()
    for process in [here, *here.children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue
    return total


if __name__ == "__main__":
    main()
