"""A predicted tube as scoring reads it: a span in frames, and boxes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from spacevllm.data.instance import Instance
from spacevllm.evaluation.metrics import Interval, clean_boxes
from spacevllm.tube import Tube, interpolate_boxes

SAME_FRAMES = 1  # decoders disagree about the last one


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
        more: further tubes of the answer, which ``several`` reads; protocols score this one.
    """

    begin_frame: int
    end_frame: int
    spoken: Track
    free: Track
    more: tuple[Prediction, ...] = ()


@dataclass(frozen=True)
class Intervals:
    """Several spans in seconds, for a question about the time alone; the first is scored where one counts."""

    spans: tuple[Interval, ...]


@dataclass(frozen=True)
class Unreadable:
    """An answer from which nothing can be scored, and why."""

    reason: str


def from_tube(tube: Tube, truth: Instance) -> Prediction | Unreadable:
    """A model's tube; boxes are sorted and clamped to the frame. Between the frames it saw, boxes are interpolated.

    The truth counts frames and pixels of the file that was annotated. Where the model saw another copy (re-encoded at
    25 frames/s, scaled down), seconds and shares of the frame carry its answer over.
    """
    if tube.span is None:
        return Unreadable(f"no span in the answer {tube.answer!r}")
    size = truth.width, truth.height
    scale = np.array([truth.width / tube.width, truth.height / tube.height] * 2) if tube.width else np.ones(4)
    rate = _frame_rate(tube, truth)  # frames of the tube in a frame of the truth
    begin, end = tube.begin_frame, tube.end_frame
    spoken = Track(np.arange(begin, end), tube.boxes)
    if rate != 1:
        begin = round(tube.span.begin_s * float(truth.fps))
        end = max(round(tube.span.end_s * float(truth.fps)), begin + 1)
        spoken = _at(spoken, np.arange(begin, end), rate)
    spoken = clean_track(spoken.frames, scale * spoken.boxes, *size)
    if not len(tube.sampled_frames):
        return Prediction(begin, end, spoken, spoken)
    num_frames = max(tube.num_frames, int(tube.sampled_frames[-1]) + 1)
    free = _at(Track(tube.sampled_frames, tube.sampled_boxes), np.arange(round(num_frames / rate)), rate)
    return Prediction(begin, end, spoken, clean_track(free.frames, scale * free.boxes, *size))


def _at(track: Track, frames: np.ndarray, rate: float) -> Track:
    """Its boxes on ``frames`` of another count, ``rate`` of its own frames to one of them."""
    return Track(frames, interpolate_boxes(track.frames, track.boxes, frames * rate))


def other_copy(truth: Instance, num_frames: int, width: int, height: int) -> bool:
    """Whether the file is not the one that was annotated: another size, or more than a frame more or less."""
    other_frames = truth.media_type == "video" and truth.num_frames > 0 < num_frames
    return ((truth.width, truth.height) != (width, height) and truth.width > 0 < width) or (
        other_frames and abs(truth.num_frames - num_frames) > SAME_FRAMES
    )


def _frame_rate(tube: Tube, truth: Instance) -> float:
    same = not truth.num_frames or abs(truth.num_frames - tube.num_frames) <= SAME_FRAMES
    return 1.0 if same or not truth.fps or not tube.fps else tube.fps / float(truth.fps)


def clean_track(frames: np.ndarray, boxes: np.ndarray, width: int, height: int) -> Track:
    """Boxes in the frame with sorted corners; those that are not finite are left out: there is no box then."""
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    known = np.isfinite(boxes).all(-1)
    return Track(np.asarray(frames, np.int64)[known], clean_boxes(boxes[known], width, height))
