"""Which frames a model sees."""

from __future__ import annotations

import numpy as np


def uniform_indices(num_frames: int, count: int) -> np.ndarray:
    """``linspace(0, num_frames - 1, count)`` truncated to integers, as in LLaVA-Video; short clips repeat frames.

    Truncation of the float64 values to the letter: where rounding puts one just under a whole number, the base
    model saw the frame before, and so do we.

    Returns:
        (count,) int64, non-decreasing, first 0, last ``num_frames - 1`` (for ``count == 1``: only 0).

    Raises:
        ValueError: ``num_frames`` or ``count`` is below 1.
    """
    if num_frames < 1 or count < 1:
        raise ValueError(f"cannot sample {count} of {num_frames} frames: both have to be at least 1")
    return np.linspace(0, num_frames - 1, count).astype(np.int64)  # (count,)
