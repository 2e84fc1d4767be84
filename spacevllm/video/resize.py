"""Frames to the square that the vision tower sees."""

from __future__ import annotations

import numpy as np
from PIL import Image


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
