"""Frames to the size that the vision tower sees."""

from __future__ import annotations

import numpy as np
from PIL import Image

from spacevllm.frame_size import FrameSize, fit_size


def resize_frames(frames: np.ndarray, size: FrameSize) -> np.ndarray:
    """Antialiased bicubic resize to ``size``.

    Args:
        frames: (T, H, W, 3) uint8.

    Returns:
        (T, H', W', 3) uint8; ``frames`` itself when it has that size already.
    """
    width, height = fit_size(size, frames.shape[2], frames.shape[1])
    if frames.shape[1:3] == (height, width):
        return frames
    resized = [np.asarray(Image.fromarray(f).resize((width, height), Image.Resampling.BICUBIC)) for f in frames]
    return np.stack(resized) if resized else np.zeros((0, height, width, 3), np.uint8)  # (T, H', W', 3)
