"""Real MP4s and their tubes for the tests of this folder."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from spacevllm.data.instance import Instance
from spacevllm.span import Span
from spacevllm.tube import Tube

FPS, NUM_FRAMES, WIDTH, HEIGHT = 10, 20, 160, 120
BOX = (40, 30, 100, 90)


def write_clip(
    path: Path,
    size=(WIDTH, HEIGHT),
    num_frames=NUM_FRAMES,
    steps=None,
    rotation=0,
    mirrored=False,
    first=0,
    codec="libx264",
) -> Path:
    """Plain grey frames, the upper left quarter dark; ``steps`` are the frame times in tenths of a second."""
    picture = np.full((size[1], size[0], 3), 120, np.uint8)
    picture[: size[1] // 2, : size[0] // 2] = 20
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=FPS, options={"bf": "2", "g": "8"} if codec == "libx264" else {})
        stream.width, stream.height, stream.pix_fmt = *size, "rgb24" if codec == "png" else "yuv420p"
        stream.codec_context.time_base = Fraction(1, FPS)
        if rotation or mirrored:
            stream.set_display_rotation(rotation, hflip=mirrored)
        for step in steps or range(num_frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = first + step
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def make_tube(video: Path, begin: int = 5, end: int = 15, box=BOX, question="the dark corner", **changes) -> Tube:
    fields = {
        "video": str(video),
        "question": question,
        "answer": "",
        "span": Span(begin / FPS, end / FPS),
        "begin_frame": begin,
        "end_frame": end,
        "boxes": np.broadcast_to(np.asarray(box, np.float32), (end - begin, 4)),
        "fps": float(FPS),
        "num_frames": NUM_FRAMES,
        "width": WIDTH,
        "height": HEIGHT,
        "duration_s": NUM_FRAMES / FPS,
    }
    return Tube(**(fields | changes))


def unread_tube(video: Path) -> Tube:
    return make_tube(video, 0, 0, np.zeros((0, 4)), span=None, answer="I see <nothing>.")


def make_truth(box=(60, 50, 140, 110), **changes) -> Instance:
    fields = {
        "id": "a", "task": "stvg", "source": "test", "split": "test", "media": "clip.mp4", "media_type": "video",
        "question": "the dark corner", "begin_frame": 2, "end_frame": 12, "begin_s": 0.2, "end_s": 1.2,
        "box_frames": list(range(2, 12)), "boxes": [list(map(float, box))] * 10, "fps_num": FPS,
        "num_frames": NUM_FRAMES, "width": WIDTH, "height": HEIGHT, "duration_s": NUM_FRAMES / FPS,
    }  # fmt: skip
    return Instance(**(fields | changes))
