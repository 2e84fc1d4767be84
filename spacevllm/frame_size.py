"""The size in which a vision tower sees frames: a square, or a number of cells in the video's own shape."""

from __future__ import annotations

import math
from typing import NamedTuple


class FrameBudget(NamedTuple):
    """At most ``cells`` squares of ``cell`` pixels a frame, in about the video's own shape: 144 of 32 are 512x288.

    A video that is smaller is not enlarged beyond the next whole cell.
    """

    cells: int
    cell: int

    def __str__(self) -> str:
        return f"{self.cells}c{self.cell}"

    def fit(self, width: int, height: int) -> tuple[int, int]:
        """Pixels (width, height), whole cells, for a video of so many pixels."""
        shrink = max(1.0, math.sqrt(width * height / (self.cells * self.cell**2)))
        whole = math.floor if shrink > 1 else round
        columns, rows = (max(1, whole(side / shrink / self.cell)) for side in (width, height))
        if columns * rows > self.cells:  # a side of less than one cell was rounded up
            columns, rows = (self.cells // rows, rows) if columns > rows else (columns, self.cells // columns)
        return columns * self.cell, rows * self.cell


FrameSize = int | FrameBudget
"""int: side of a square in pixels; the video's shape is not kept (boxes are relative)."""


def fit_size(size: FrameSize, width: int, height: int) -> tuple[int, int]:
    """Pixels (width, height) that a frame of ``width`` x ``height`` is resized to."""
    return size.fit(width, height) if isinstance(size, FrameBudget) else (size, size)


def largest_frame(size: FrameSize) -> int:
    """Pixels of a frame, at most."""
    return size.cells * size.cell**2 if isinstance(size, FrameBudget) else size**2
