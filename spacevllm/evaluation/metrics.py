"""The numbers of the field on plain arrays: interval IoU, box IoU, vIoU, and means that no empty set can spoil.

Nothing is rounded before a threshold and nothing is ever NaN: an empty union or an empty list gives 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

Interval = tuple[float, float]


def interval_iou(a: Interval, b: Interval) -> float:
    """|a ∩ b| / |a ∪ b| of two half-open intervals, in frames or in seconds; in [0, 1]."""
    overlap = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    union = max(0.0, a[1] - a[0]) + max(0.0, b[1] - b[0]) - overlap
    return overlap / union if union > 0 else 0.0


def hull(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    """The smallest interval that holds both; equals their union unless they are disjoint."""
    return min(a[0], b[0]), max(a[1], b[1])


def clean_boxes(boxes: np.ndarray, width: int, height: int) -> np.ndarray:
    """(K, 4) xyxy with swapped corners sorted and every corner clamped to the frame, float64.

    A width or height of 0 means unknown and does not clamp. A box that is not finite becomes the empty box.
    """
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    boxes = np.where(np.isfinite(boxes).all(-1, keepdims=True), boxes, 0.0)  # (K, 4)
    corners = np.concatenate([np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])], axis=-1)
    return corners.clip(0, [width or np.inf, height or np.inf] * 2)  # (K, 4)


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU pair by pair of clean (K, 4) xyxy boxes → (K,) float64 in [0, 1]; 0 where the union is empty."""
    a, b = np.asarray(a, np.float64).reshape(-1, 4), np.asarray(b, np.float64).reshape(-1, 4)
    sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])  # (K, 2)
    overlap = sides.clip(min=0).prod(-1)  # (K,)
    union = (a[:, 2:] - a[:, :2]).prod(-1) + (b[:, 2:] - b[:, :2]).prod(-1) - overlap
    return np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)


def nearest_boxes(frames: np.ndarray, boxes: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The box of the nearest frame that has one, for each wanted frame (a tie takes the earlier).

    Args:
        frames: (K,) int, strictly increasing. boxes: (K, 4); a row that is not finite is no box.
        wanted: (F,) int.

    Returns:
        (F, 4) float64; empty boxes ``0 0 0 0`` where nothing is known at all.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    known = np.isfinite(boxes).all(-1)
    frames, boxes, wanted = np.asarray(frames)[known], boxes[known], np.asarray(wanted)
    if not len(frames):
        return np.zeros((len(wanted), 4))
    right = np.searchsorted(frames, wanted).clip(0, len(frames) - 1)  # (F,)
    left = (right - 1).clip(min=0)
    take_left = np.abs(wanted - frames[left]) <= np.abs(frames[right] - wanted)
    return boxes[np.where(take_left, left, right)]  # (F, 4)


def gapless_boxes(frames: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fills the gaps of an annotated track linearly; frames before its first or after its last box stay without one.

    Args:
        frames: (K,) int, increasing. boxes: (K, 4).

    Returns:
        frames (F,) int without a gap and boxes (F, 4); both empty when K is 0.
    """
    if not len(frames):
        return np.zeros(0, np.int64), np.zeros((0, 4))
    full, boxes = np.arange(frames[0], frames[-1] + 1), np.asarray(boxes, np.float64).reshape(-1, 4)
    if len(full) == len(frames):
        return full, boxes
    return full, np.stack([np.interp(full, frames, boxes[:, c]) for c in range(4)], axis=-1)


def video_iou(ious: np.ndarray, num_hull_frames: int) -> float:
    """vIoU: the box IoUs of the frames in both spans, summed, over the number of counted frames of the hull."""
    return math.fsum(ious.tolist()) / num_hull_frames if num_hull_frames else 0.0


def mean(values: Iterable[float]) -> float:
    """Mean that does not depend on the order of its terms; 0 for none."""
    listed = list(values)
    return math.fsum(listed) / len(listed) if listed else 0.0
