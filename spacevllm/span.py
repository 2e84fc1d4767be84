"""Span: *when*, a half-open interval of seconds, and the frames that it means.

Frames are 0-based and half-open ``[begin, end)``. Times are seconds from the first frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Span:
    """Half-open time interval ``[begin_s, end_s)`` in seconds, ``0 <= begin_s <= end_s``."""

    begin_s: float
    end_s: float

    def __post_init__(self) -> None:
        if not 0 <= self.begin_s <= self.end_s:  # NaN fails too
            raise ValueError(f"a span needs 0 <= begin <= end, not [{self.begin_s}, {self.end_s})")


def frame_range(span: Span, times_s: np.ndarray, duration_s: float) -> tuple[int, int]:
    """Frames ``[begin, end)`` of ``span``: each border goes to the nearest frame border.

    Answers carry two decimals, so a border may lie a few milliseconds off the frame it means: nearest, not floor.
    A span that is not empty keeps at least one frame.

    Args:
        span: seconds.
        times_s: (N,) float, time of every frame of the video, increasing, ``times_s[0] == 0``.
        duration_s: end of the last frame.
    """
    borders = np.append(np.asarray(times_s, dtype=np.float64), duration_s)  # (N + 1,)
    begin = min(int(np.abs(borders - span.begin_s).argmin()), len(times_s) - 1)
    end = int(np.abs(borders - span.end_s).argmin())
    return begin, max(end, begin + 1)
