"""What does it cost to get a model's frames out of a file, beside decord, torchcodec and plain PyAV?

    python -m benchmarks.decode      # some minutes on one core

32 uniform frames of each of six kinds of clip, at the size of a vision tower (384 x 384) and as they are. CPU seconds
of one process with one decoding thread, the median of rounds that take the sides in turn. ``ours`` opens the file,
reads its packets (every frame's exact time), decodes, resizes; the others do what their users write:

    decord       VideoReader(width, height).get_batch, its own resize
    torchcodec   VideoDecoder.get_frames_at, and torch's antialiased bicubic; None where it is not installed
    pyav         decode from the start, keep the wanted frames, resize them by Pillow
    ours_decord  our reader with the backend decord

``over`` is the peer's time over ours: above 1 is faster than the peer.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import av
import numpy as np

from benchmarks.common import RESULTS, facts, write_result
from spacevllm.video.reader import sample_frames
from spacevllm.video.resize import resize_frames
from spacevllm.video.sampling import uniform_indices

FRAMES, SIZE = 32, 384


class Kind(NamedTuple):
    """Noise that moves. gop: frames from keyframe to keyframe."""

    name: str
    codec: str
    width: int
    height: int
    seconds: int
    gop: int
    fps: int = 25


KINDS = (
    Kind("small clip", "libx264", 320, 240, 14, 250),
    Kind("web clip", "libx264", 640, 360, 30, 250),
    Kind("phone clip", "libx264", 1280, 720, 20, 30),
    Kind("full HD, long GOP", "libx264", 1920, 1080, 40, 250),
    Kind("full HD, short GOP", "libx264", 1920, 1080, 120, 25),
    Kind("HEVC", "libx265", 1280, 720, 20, 60),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clips = {kind: write_clip(Path(folder, f"{number}.mp4"), kind) for number, kind in enumerate(KINDS)}
        rows = [{**kind._asdict(), **compare(str(path), options.rounds)} for kind, path in clips.items()]
    result = facts() | {"clock": "CPU seconds of one process", "frames": FRAMES, "size": SIZE, "clips": rows}
    print(write_result("decode", result, options.out))


def compare(path: str, rounds: int) -> dict[str, Any]:
    """Sides → seconds and how many times ours, at the tower's size and as the clip is."""
    found: dict[str, Any] = {}
    for label, size in (("at_size", SIZE), ("as_it_is", None)):
        sides = {name: partial(side, path, size) for name, side in SIDES.items()}
        taken = in_turn(sides, rounds)
        ours = taken["ours"] or 0.0
        over = {name: round(seconds / ours, 2) for name, seconds in taken.items() if seconds and name != "ours"}
        found[label] = {"seconds": taken, "over": over}
        print(Path(path).name, label, f"ours {ours:.3f} s", over, flush=True)
    return found


def in_turn(sides: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float | None]:
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, side in sides.items():
            started = time.process_time()
            try:
                side()
            except ImportError:
                continue
            if number:  # the first round only warms up
                taken[name].append(time.process_time() - started)
    return {name: round(median(values), 4) if values else None for name, values in taken.items()}


def ours(path: str, size: int | None) -> None:
    sample_frames(path, FRAMES, size=size)


def ours_decord(path: str, size: int | None) -> None:
    sample_frames(path, FRAMES, "decord", size=size)


def decord(path: str, size: int | None) -> None:
    from decord import VideoReader

    reader = VideoReader(path, width=size or -1, height=size or -1, num_threads=1)
    reader.get_batch(uniform_indices(len(reader), FRAMES).tolist()).asnumpy()


def torchcodec(path: str, size: int | None) -> None:
    try:
        from torchcodec.decoders import VideoDecoder
    except (RuntimeError, OSError) as error:  # it finds no FFmpeg
        raise ImportError(str(error)) from None
    from torch.nn.functional import interpolate

    decoder = VideoDecoder(path, num_ffmpeg_threads=1, seek_mode="exact")
    frames = decoder.get_frames_at(uniform_indices(len(decoder), FRAMES).tolist()).data  # (T, 3, H, W)
    if size:
        interpolate(frames, (size, size), mode="bicubic", antialias=True)


def pyav(path: str, size: int | None) -> None:
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        wanted = set(uniform_indices(stream.frames, FRAMES).tolist())
        frames = [f.to_ndarray(format="rgb24") for n, f in enumerate(container.decode(stream)) if n in wanted]
    if size:
        resize_frames(np.stack(frames), size)


SIDES = {"ours": ours, "decord": decord, "torchcodec": torchcodec, "pyav": pyav, "ours_decord": ours_decord}


def write_clip(path: Path, kind: Kind) -> Path:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (kind.height // 20, kind.width // 20, 3), np.uint8).repeat(20, 0).repeat(20, 1)
    picture = (coarse // 2 + rng.integers(0, 30, coarse.shape, np.uint8)).astype(np.uint8)  # (H, W, 3)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(kind.codec, rate=Fraction(kind.fps), options={"preset": "veryfast"})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = kind.width, kind.height, "yuv420p"
        stream.gop_size = kind.gop
        for number in range(kind.seconds * kind.fps):
            shown = np.ascontiguousarray(np.roll(picture, 2 * number, axis=1))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))
        container.mux(stream.encode())
    return path


if __name__ == "__main__":
    main()
