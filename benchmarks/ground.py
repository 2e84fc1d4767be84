"""What does the pipeline cost beside the bare model and the bare decoder, and does its memory grow with the archive?

    python -m benchmarks.ground --model FOLDER      # about six minutes on two cores

A small model on CPU, generated videos of which there are many copies. Comparisons run their sides in turn, so that
whatever else the machine does meets both; seconds are wall time, Ray runs already. ``start_s`` is the time to the first
block of answers: processes start, libraries are imported, the model is loaded. What follows is the steady state, and
``all`` counts both. The limit is what these processes could do on these cores if everything but decoding and answering
were free: the slowest of predictor, decoders, and all cores together.

    bare        decode and predict in a plain loop in one process: seconds a video, one thread each; and predict beside
                another process that decodes without end: what cores that share memory and caches leave of the limit
    decode      the decode stage, a decoder a core, over its limit
    ground      the pipeline with one predictor over the bare predictor, and over its limit
    films       the same for films, window by window: the pipeline over its limit
    questions   the pipeline with N questions a video against one
    memory      peak of driver and workers together, by the number of (tiny) videos
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import av
import numpy as np
import psutil
import torch

from benchmarks.common import RESULTS, facts, seconds, write_result
from pipelines.archive.ground import GroundConfig
from pipelines.archive.ground import run as ground
from pipelines.archive.watch import Watch
from pipelines.core.cluster import ray_session
from pipelines.core.tracking import TrackingConfig
from pipelines.media.decode import DecodeConfig, DecodeOptions
from pipelines.media.decode import run as decode
from pipelines.media.reading import Plan
from spacevllm.predictor import Predictor
from spacevllm.span import Span
from spacevllm.video import probe
from spacevllm.video.errors import VideoError
from spacevllm.video.parts import bundled
from spacevllm.video.reader import SampledFrames, find_frames, sample_frames
from spacevllm.windows import ground_film

QUIET = TrackingConfig(enabled=False)
CORES = os.cpu_count() or 1
QUESTIONS = 4  # a video, where nothing else is said
DISTINCT = 12  # files; the others are links to them
DECODER = """
import itertools, sys
from spacevllm.video.reader import sample_frames
num_frames, size, *videos = sys.argv[1:]
for number, path in enumerate(itertools.cycle(videos)):
    sample_frames(path, int(num_frames), size=int(size))
    if number == 0:
        print("read", flush=True)
"""
_runs = itertools.count()


class Material(NamedTuple):
    """Noise that moves, in H.264 with a keyframe every two seconds."""

    width: int
    height: int
    seconds: int
    fps: int = 25

    def __str__(self) -> str:
        return f"{self.width}x{self.height}, {self.seconds} s at {self.fps} fps, H.264, GOP 2 s"


CLIPS, TINY, FILMS = Material(320, 240, 14), Material(160, 120, 7, 8), Material(320, 240, 180)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of a small model")
    parser.add_argument("--videos", type=int, default=400)
    parser.add_argument("--questions", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--archives", type=int, nargs="*", default=[100, 1000], help="tiny videos, for the memory")
    parser.add_argument("--films", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ray_session():
        videos = write_videos(Path(folder, "clips"), options.videos, CLIPS)
        bench = Bench(options.model, Path(folder))
        result = facts() | {
            "clock": "wall seconds",
            "material": str(CLIPS),
            "rounds": options.rounds,
            **bench.against_bare(videos, options.rounds),
            "films": bench.films(write_videos(Path(folder, "films"), options.films, FILMS), options.rounds),
            "questions": bench.by_questions(videos[: len(videos) // 2], options.questions),
            "memory": bench.by_archive(
                write_videos(Path(folder, "tiny"), max(options.archives), TINY), options.archives
            ),
        }
    print(write_result("ground", result, options.out))


class Bench:
    """The pipelines and their bare counterparts over the same files."""

    def __init__(self, model: str, folder: Path) -> None:
        self.model, self.folder, self.predictor = model, folder, Predictor.load(model)
        self.plan = Plan(self.predictor.num_frames, self.predictor.image_size)

    def against_bare(self, videos: Sequence[str], rounds: int) -> dict[str, Any]:
        few = videos[: 4 * DISTINCT]
        clips = [sample_frames(path, self.plan.num_frames, size=self.plan.size) for path in few]
        bare: dict[str, list[float]] = {"decode_s": [], "predict_s": [], "predict_beside_decode_s": []}
        taken: dict[str, list[dict[str, float]]] = {"decode": [], "ground": []}
        for _ in range(rounds):
            bare["decode_s"].append(seconds(lambda: self.bare_decode(few)) / len(few))
            taken["decode"].append(timed(lambda: self.decode(videos)))
            bare["predict_s"].append(seconds(lambda: self.bare_predict(clips, QUESTIONS)) / len(few))
            taken["ground"].append(timed(lambda: self.ground(videos, QUESTIONS)))
            with decoding(few, self.plan):
                beside = seconds(lambda: self.bare_predict(clips, QUESTIONS)) / len(few)
            bare["predict_beside_decode_s"].append(beside)
        decode_s, predict_s, beside_s = (median(values) for values in bare.values())
        limits = {"decode": CORES / decode_s, "ground": limit(decode_s, predict_s)}
        found = {name: compare(runs, len(videos), limits[name]) for name, runs in taken.items()}
        for name in ("steady", "all"):
            found["ground"][f"{name}_over_predict"] = found["ground"][f"{name}_per_s"] * predict_s
            found["ground"][f"{name}_over_predict_beside_decode"] = found["ground"][f"{name}_per_s"] * beside_s
        return {"videos": len(videos), "bare": {name: median(values) for name, values in bare.items()}, **found}

    def films(self, videos: Sequence[str], rounds: int) -> dict[str, Any]:
        """Films a second; the pipeline's blocks hold one each."""
        bare, runs = [], []
        walk = partial(self.ground, videos, QUESTIONS, decode=DecodeOptions(block_rows=1))
        for _ in range(rounds):
            bare.append(self.bare_film(videos[0]))
            runs.append(timed(walk))
        decode_s, predict_s = (median(values) for values in zip(*bare, strict=True))
        seen = {"material": str(FILMS), "films": len(videos), "bare": {"decode_s": decode_s, "predict_s": predict_s}}
        return seen | compare(runs, len(videos), limit(decode_s, predict_s))

    def bare_film(self, path: str) -> tuple[float, float]:
        """Seconds that reading the windows of a film takes, and that answering takes, one after the other."""
        info, (num_frames, size) = probe(path), self.plan
        watch, threads = Watch(), torch.get_num_threads()

        def read(parts: Sequence[Span]) -> Iterator[SampledFrames | VideoError]:
            find = partial(find_frames, path, info, size=size)
            for bundle in bundled(info, parts, num_frames, size, readers=CORES):
                yield from bundle.clips(info, bundle.read(find))

        torch.set_num_threads(1)
        watch.starts()
        whole = Span(0.0, info.duration_s)
        ground_film(watch.waiting(read), self.predictor.ground, whole, num_frames, words(QUESTIONS))
        watch.stops()
        torch.set_num_threads(threads)
        busy_s, waited_s = watch.read()
        return waited_s, busy_s

    def by_questions(self, videos: Sequence[str], counts: Sequence[int]) -> list[dict[str, float]]:
        runs = {count: timed(partial(self.ground, videos, count)) for count in counts}
        first = runs[counts[0]]
        return [
            {
                "n": count,
                "seconds": run["seconds"],
                "all_over_first": run["seconds"] / first["seconds"],
                "steady_over_first": first["steady_per_s"] / run["steady_per_s"],
            }
            for count, run in runs.items()
        ]

    def by_archive(self, videos: Sequence[str], counts: Sequence[int]) -> list[dict[str, float]]:
        rows = []
        for count in counts:
            with peak_memory() as peak:
                self.ground(videos[:count], QUESTIONS)
            rows.append({"videos": count, "peak_mb": round(peak[0] / 2**20, 1)})
        return rows

    def bare_decode(self, videos: Sequence[str]) -> None:
        for path in videos:
            sample_frames(path, self.plan.num_frames, size=self.plan.size)

    def bare_predict(self, clips: Sequence[Any], questions: int) -> None:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as many as the pipeline's predictor has
        for clip in clips:
            self.predictor.ground(clip, words(questions))
        torch.set_num_threads(threads)

    def ground(self, videos: Sequence[str], questions: int, **options: Any) -> dict[str, Any]:
        out, asked = str(self.folder / f"ground{next(_runs)}"), tuple(words(questions))
        config = GroundConfig(
            model=self.model, videos=tuple(videos), out=out, question=asked, tracking=QUIET, **options
        )
        summary = ground(config)
        assert summary["in"] == len(videos) * questions
        steady = summary["steady_per_s"]  # answers; none after the first where all was one block
        return summary | {"steady_per_s": steady and steady / questions}

    def decode(self, videos: Sequence[str]) -> dict[str, Any]:
        out, plan = str(self.folder / f"decode{next(_runs)}"), self.plan._asdict()
        usual = DecodeConfig.model_fields["decode"].default.block_rows
        options = DecodeOptions(num_actors=CORES, block_rows=min(usual, len(videos) // 4))
        return decode(DecodeConfig(videos=tuple(videos), out=out, decode=options, tracking=QUIET, **plan))


@contextmanager
def decoding(videos: Sequence[str], plan: Plan) -> Iterator[None]:
    """A bare decoder in another process, from its first video on."""
    command = [sys.executable, "-c", DECODER, *map(str, plan), *videos]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            if process.stdout.readline() != b"read\n":
                raise RuntimeError("the decoder beside the predictor did not start")
            yield
            if process.poll() is not None:
                raise RuntimeError("the decoder beside the predictor ended before it")
        finally:
            process.kill()


def limit(decode_s: float, predict_s: float) -> float:
    """Videos a second with one predictor of one thread and the default number of decoders."""
    decoders = min(DecodeOptions().num_actors, CORES)
    return min(1 / predict_s, decoders / decode_s, CORES / (decode_s + predict_s))


def timed(run: Callable[[], dict[str, Any]]) -> dict[str, float]:
    """seconds: of the whole run. start_s, steady_per_s: as its summary has them."""
    started = time.perf_counter()
    summary = run()
    return {"seconds": time.perf_counter() - started} | {name: summary[name] for name in ("start_s", "steady_per_s")}


def compare(runs: Sequence[dict[str, float]], videos: int, limit_per_s: float) -> dict[str, float]:
    middle = {name: median(run[name] for run in runs) for name in runs[0]}
    every = videos / middle["seconds"]
    return middle | {
        "all_per_s": every,
        "limit_per_s": limit_per_s,
        "steady_over_limit": middle["steady_per_s"] / limit_per_s,
        "all_over_limit": every / limit_per_s,
    }


def words(count: int) -> list[str]:
    return [f"the red circle while it moves left {number}" for number in range(count)]


def write_videos(folder: Path, count: int, material: Material) -> list[str]:
    """``count`` files, of which ``DISTINCT`` differ."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    files = [folder / f"{number:05d}.mp4" for number in range(count)]
    for number, path in enumerate(files):
        if number < DISTINCT:
            _write_video(path, rng, material)
        else:
            os.link(files[number % DISTINCT], path)
    return [str(path) for path in files]


def _write_video(path: Path, rng: np.random.Generator, material: Material) -> None:
    width, height, length_s, fps = material
    coarse = rng.integers(0, 255, (height // 20, width // 20, 3), np.uint8).repeat(20, 0).repeat(20, 1)
    picture = (coarse // 2 + rng.integers(0, 30, coarse.shape, np.uint8)).astype(np.uint8)  # (H, W, 3)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps), options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = width, height, "yuv420p", 2 * fps
        for number in range(length_s * fps):
            shown = np.ascontiguousarray(np.roll(picture, 2 * number, axis=1))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))
        container.mux(stream.encode())


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
