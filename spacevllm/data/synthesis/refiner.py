"""The rough interval shrinks to where the subject is seen. It mends borders that were annotated in steps of five
seconds (DiDeMo), and it cannot know an action's borders while the subject stays in the picture.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from spacevllm.config import Config
from spacevllm.data.synthesis.sample import Detections, Rejected, RoughTube, Track


class RefinerOptions(Config):
    """Shortest and longest tube that is kept, in seconds, both included."""

    min_s: float = Field(default=2.0, ge=0)
    max_s: float = Field(default=120.0, gt=0)


def refine(
    detections: Detections, track: Track, interval: tuple[int, int, float, float], options: RefinerOptions
) -> RoughTube:
    """Tightens the borders to the track's first and last box.

    A border lies half-way between the last frame without and the first frame with a box: that is right on average.
    Where the subject is seen from the first (to the last) annotated frame on, the rough border stays.

    Args:
        interval: the rough interval as begin frame, end frame (half-open), begin and end in seconds.

    Raises:
        Rejected: ``no_box``, ``too_short``, ``too_long``.
    """
    if not len(track.rows):
        raise Rejected("no_box", f"nothing was found on {len(detections.frames)} frames")
    first, last = int(track.rows[0]), int(track.rows[-1])
    begin_frame, end_frame, begin_s, end_s = interval
    frames, times = detections.frames, detections.times_s
    if first > 0:
        begin_frame, begin_s = _middle(frames, first), float(times[first - 1] + times[first]) / 2
    if last + 1 < len(frames):
        end_frame, end_s = _middle(frames, last + 1), float(times[last] + times[last + 1]) / 2
    if end_s - begin_s < options.min_s:
        raise Rejected("too_short", f"{end_s - begin_s:.2f} s, at least {options.min_s:g} s are wanted")
    if end_s - begin_s > options.max_s:
        raise Rejected("too_long", f"{end_s - begin_s:.2f} s, at most {options.max_s:g} s are wanted")
    return RoughTube(begin_frame, end_frame, begin_s, end_s, frames[track.rows], track)


def _middle(frames: np.ndarray, row: int) -> int:
    return int(frames[row - 1] + frames[row] + 1) // 2
