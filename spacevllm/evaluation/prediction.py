"""A predicted tube as scoring reads it: a span in frames, and boxes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from spacevllm.evaluation.metrics import clean_boxes
from spacevllm.tube import Tube, interpolate_boxes


class Track(NamedTuple):
    """Boxes of one object: frames (K,) increasing int64 and boxes (K, 4) xyxy float64 pixels."""

    frames: np.ndarray
    boxes: np.ndarray


@dataclass(frozen=True)
class Prediction:
    """One answer. A frame without a box takes the nearest one of its track.

    Attributes:
        begin_frame, end_frame: the span, 0-based and half-open.
        spoken: boxes that vIoU reads, inside the span. free: boxes that gt_vIoU reads, whatever the span. They are
            the same track unless the model says otherwise.
    """

    begin_frame: int
    end_frame: int
    spoken: Track
    free: Track


@dataclass(frozen=True)
class Unreadable:
    """An answer from which nothing can be scored, and why."""

    reason: str


def from_tube(tube: Tube, width: int, height: int) -> Prediction | Unreadable:
    """A model's tube; boxes are sorted and clamped to the frame. Between the frames it saw, boxes are interpolated."""
    if tube.span is None:
        return Unreadable(f"no span in the answer {tube.answer!r}")
    spoken = clean_track(np.arange(tube.begin_frame, tube.end_frame), tube.boxes, width, height)
    if not len(tube.sampled_frames):
        return Prediction(tube.begin_frame, tube.end_frame, spoken, spoken)
    every = np.arange(max(tube.num_frames, int(tube.sampled_frames[-1]) + 1))
    boxes = interpolate_boxes(tube.sampled_frames, tube.sampled_boxes, every)
    return Prediction(tube.begin_frame, tube.end_frame, spoken, clean_track(every, boxes, width, height))


def clean_track(frames: np.ndarray, boxes: np.ndarray, width: int, height: int) -> Track:
    """Boxes in the frame with sorted corners; those that are not finite are left out: there is no box then."""
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    known = np.isfinite(boxes).all(-1)
    return Track(np.asarray(frames, np.int64)[known], clean_boxes(boxes[known], width, height))
