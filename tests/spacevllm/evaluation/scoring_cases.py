"""Small truths and answers that the tests of this folder share."""

from __future__ import annotations

from typing import Any

import numpy as np

from spacevllm.data.instance import Instance
from spacevllm.span import Span
from spacevllm.tube import Tube

FPS, NUM_FRAMES, WIDTH, HEIGHT = 10, 100, 200, 100


def instance(task: str = "stvg", id: str = "q", **changes: Any) -> Instance:
    """A ten-second clip whose object stands still at ``[10, 10, 50, 50]`` during frames [20, 40)."""
    fields: dict[str, Any] = {
        "id": id,
        "task": task,
        "source": "test",
        "split": "test",
        "media": "clip.mp4",
        "media_type": "video",
        "question": "the red circle",
        "begin_frame": 20,
        "end_frame": 40,
        "begin_s": 2.0,
        "end_s": 4.0,
        "box_frames": list(range(20, 40)),
        "boxes": [[10.0, 10.0, 50.0, 50.0]] * 20,
        "fps_num": FPS,
        "num_frames": NUM_FRAMES,
        "width": WIDTH,
        "height": HEIGHT,
        "duration_s": NUM_FRAMES / FPS,
    }
    return Instance(**(fields | changes))


def tube(begin: int, end: int, boxes: Any = (10, 10, 50, 50), **changes: Any) -> Tube:
    """A predicted tube; one box stands for all frames."""
    boxes = np.broadcast_to(np.asarray(boxes, np.float32), (end - begin, 4))
    fields: dict[str, Any] = {
        "video": "clip.mp4",
        "question": "the red circle",
        "answer": "",
        "span": Span(begin / FPS, end / FPS),
        "begin_frame": begin,
        "end_frame": end,
        "boxes": boxes,
        "fps": float(FPS),
        "num_frames": NUM_FRAMES,
        "width": WIDTH,
        "height": HEIGHT,
        "duration_s": NUM_FRAMES / FPS,
    }
    return Tube(**(fields | changes))


def unread_tube() -> Tube:
    """What the predictor gives when no span can be read from the answer."""
    seen = {"sampled_frames": np.arange(0, 100, 10), "sampled_boxes": np.full((10, 4), [10, 10, 50, 50], np.float32)}
    return tube(0, 0, np.zeros((0, 4)), span=None, answer="I do not know.", **seen)
