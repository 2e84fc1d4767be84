"""On which frames, and against which true span, a tube is scored. Published tables differ in exactly this.

``dense``: every frame counts and the true span is half-open as annotated. A frame of the true span without a box takes
the straight line between the boxes around it *inside the span*; before the span's first box and after its last one
nothing is known, so such frames are not counted at all (they are not in F).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from spacevllm.data.instance import Instance
from spacevllm.evaluation.metrics import (
    box_iou,
    clean_boxes,
    gapless_boxes,
    hull,
    interval_iou,
    nearest_boxes,
    video_iou,
)
from spacevllm.tube import Tube, interpolate_boxes

FrameSpan = tuple[int, int]


@dataclass(frozen=True)
class Protocol:
    """The two choices a spatio-temporal scorer makes.

    Attributes:
        truth_span: the true span G of an instance, half-open frames.
        frames: ``(instance, span)`` → (F,) increasing frames of F that lie in the span, whether they have a true box
            or not; ``score_tube`` leaves out frames of G whose box nobody knows.
    """

    truth_span: Callable[[Instance], FrameSpan]
    frames: Callable[[Instance, FrameSpan], np.ndarray]


class TubeScore(NamedTuple):
    """One query's numbers, each in [0, 1]."""

    tiou: float
    viou: float
    gt_viou: float


def annotated_span(instance: Instance) -> FrameSpan:
    """The span in frames as annotated.

    Raises:
        ValueError: the instance has no frame span.
    """
    if instance.begin_frame is None or instance.end_frame is None:
        raise ValueError(f"instance {instance.id}: scoring a tube needs begin_frame and end_frame")
    return instance.begin_frame, instance.end_frame


def every_frame(instance: Instance, span: FrameSpan) -> np.ndarray:
    return np.arange(*span)


PROTOCOLS: dict[str, Protocol] = {
    "dense": Protocol(truth_span=annotated_span, frames=every_frame),
}


def truth_boxes(instance: Instance, span: FrameSpan) -> tuple[np.ndarray, np.ndarray]:
    """The true boxes inside the span: frames (F,) int and boxes (F, 4) xyxy float64, gaps between them filled."""
    frames = np.asarray(instance.box_frames, np.int64)
    boxes = clean_boxes(np.array(instance.boxes), instance.width, instance.height)
    inside = (frames >= span[0]) & (frames < span[1])
    return gapless_boxes(frames[inside], boxes[inside])


def score_tube(instance: Instance, tube: Tube | None, protocol: Protocol) -> TubeScore:
    """Scores one predicted tube; no tube, or one whose span could not be read, scores 0 in everything.

    Raises:
        ValueError: the instance has no frame span.
    """
    truth = protocol.truth_span(instance)
    if tube is None or tube.span is None:
        return TubeScore(0.0, 0.0, 0.0)
    known, boxes = truth_boxes(instance, truth)
    counted = np.isin(known, protocol.frames(instance, truth))  # (K,) F ∩ G
    known, boxes = known[counted], boxes[counted]

    predicted = (tube.begin_frame, tube.end_frame)
    both = (known >= predicted[0]) & (known < predicted[1])
    spoken = nearest_boxes(np.arange(*predicted), tube.boxes, known[both])
    around = protocol.frames(instance, hull(truth, predicted))
    unknown = int(((around >= truth[0]) & (around < truth[1])).sum()) - len(known)  # frames of G without a true box
    return TubeScore(
        tiou=interval_iou(truth, predicted),
        viou=video_iou(_ious(instance, boxes[both], spoken), len(around) - unknown),
        gt_viou=video_iou(_ious(instance, boxes, _span_free_boxes(tube, known)), len(known)),
    )


def _ious(instance: Instance, truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    return box_iou(truth, clean_boxes(predicted, instance.width, instance.height))


def _span_free_boxes(tube: Tube, wanted: np.ndarray) -> np.ndarray:
    """The boxes the model gives whatever its span: between the frames it saw, else (none kept) the nearest it spoke."""
    if len(tube.sampled_frames):
        return interpolate_boxes(tube.sampled_frames, tube.sampled_boxes, wanted)
    return nearest_boxes(np.arange(tube.begin_frame, tube.end_frame), tube.boxes, wanted)
