"""Frames to the square that the vision tower sees."""

from __future__ import annotations

import numpy as np
from PIL import Image

from spacevllm.video.reader import SampledFrames, sample_frames


def resize_frames(frames: np.ndarray, size: int) -> np.ndarray:
    """Antialiased bicubic resize to ``size`` x ``size``; the aspect ratio is not kept (boxes are relative).

    Args:
        frames: (T, H, W, 3) uint8.
        size: side of the square in pixels.

    Returns:
        (T, size, size, 3) uint8; ``frames`` itself when it has that size already.
    """
    if frames.shape[1:3] == (size, size):
        return frames
    resized = [np.asarray(Image.fromarray(f).resize((size, size), Image.Resampling.BICUBIC)) for f in frames]
    return np.stack(resized) if resized else np.zeros((0, size, size, 3), np.uint8)  # (T, S, S, 3)


def sample_resized(
    path: str, num_frames: int, size: int, max_pixels: int | None = None, max_frames: int | None = None
) -> SampledFrames:
    """``sample_frames`` and ``resize_frames`` in one: what a model of this ``size`` sees of a video, and no more bytes.

    Raises:
        VideoError: the video cannot be read, or is larger than allowed.
    """
    return sample_frames(path, num_frames, max_pixels=max_pixels, max_frames=max_frames, size=size)
