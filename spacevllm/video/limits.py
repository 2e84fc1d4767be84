"""How large a video may be, and which time stamps are believed: a file of some kilobytes can claim anything."""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

import numpy as np

from spacevllm.video.errors import ImplausibleTime, TooLarge

# Longer than any recorder lets a frame stand: screens that nothing moves on get a frame every few minutes at most, a
# GIF's longest is 11 minutes. A damaged or forged time stamp is off by any power of two.
MAX_STILL_S = 3600.0
# Decoders count what they allocate: sides rounded up to whole blocks. What comes out is counted exactly.
_BLOCKS, _EDGE = 2, 1 << 16


class Limits(NamedTuple):
    """What is accepted; None: anything.

    Attributes:
        max_pixels: width × height of a picture. max_frames: of a video. max_duration_s: seconds of a video.
    """

    max_pixels: int | None = None
    max_frames: int | None = None
    max_duration_s: float | None = None

    @property
    def decoder_options(self) -> dict[str, str]:
        """FFmpeg's own: a decoder refuses a larger picture before it allocates it, wherever in the stream it is."""
        return {} if self.max_pixels is None else {"max_pixels": str(min(_BLOCKS * self.max_pixels + _EDGE, 2**31 - 1))}

    def check_pixels(self, path: str, width: int, height: int) -> None:
        """Raises TooLarge."""
        if self.max_pixels is not None and width * height > self.max_pixels:
            raise TooLarge(f"{path}: {width}x{height} pixels, more than the allowed {self.max_pixels}")

    def check_refused(self, path: str, width: int, height: int) -> None:
        """Raises TooLarge where a decoder gave nothing and was left with no size or a large one: that it refused."""
        if self.max_pixels is not None and (width == 0 or width * height > self.max_pixels):
            raise TooLarge(f"{path}: a frame has more than the allowed {self.max_pixels} pixels")

    def check_frames(self, path: str, count: int) -> None:
        """Raises TooLarge."""
        if self.max_frames is not None and count > self.max_frames:
            raise TooLarge(f"{path}: more frames than the allowed {self.max_frames}")

    def check_duration(self, path: str, duration_s: float) -> None:
        """Raises TooLarge."""
        if self.max_duration_s is not None and duration_s > self.max_duration_s:
            raise TooLarge(f"{path}: lasts {duration_s:.0f} s, more than the allowed {self.max_duration_s:g} s")


UNLIMITED = Limits()


def check_times(path: str, pts: np.ndarray, ticks: int, base: Fraction) -> None:
    """Raises ImplausibleTime where one frame stands longer than ``MAX_STILL_S``.

    A duration is worth as much as the frames in it: windows and waiting are planned by it.

    Args:
        pts: (N,) int64, increasing. ticks: from the first frame's begin to the last one's end, in ``base`` seconds.
    """
    begins = pts.astype(np.float64)  # (N,); differences of forged int64 overflow
    stands = np.diff(begins, append=begins[0] + float(ticks)) * float(base)  # (N,) seconds
    longest = int(stands.argmax())
    if not stands[longest] <= MAX_STILL_S:
        raise ImplausibleTime(
            f"{path}: frame {longest} of {len(pts)} stands for {stands[longest]:.0f} s, more than {MAX_STILL_S:g} s: "
            "its time stamps are damaged; re-mux it, or cut it there"
        )
