"""On which frames, and against which true span, a tube is scored. Published tables differ in exactly this.

========  ======================  ================================================================================
protocol  frames that count (F)   true span (G)
========  ======================  ================================================================================
dense     every frame             half-open, as annotated
tubedetr  5 a second of the       as annotated; HC-STVG: one frame later, because its 1-based ``st_frame`` is read
          clip, at most 200       as if 0-based
stcat     every frame             up to the clip's last frame at most; HC-STVG: one frame shorter, because an
                                  inclusive last index is read as exclusive. gt_vIoU takes both ends, b..e
========  ======================  ================================================================================

``tubedetr`` follows github.com/antoyang/TubeDETR, ``stcat`` github.com/jy0205/STCAT (also CG-STVG and TA-STVG); what
their own scorers raise on, or leave out, scores 0 here. The *clip* is the record's segment, or the whole video.

A gap between true boxes is filled by a straight line. Frames of G before the first or after the last true box *inside
the span* have none: ``dense`` and ``tubedetr`` do not count them (they are not in F), ``stcat`` repeats the nearest.
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
from spacevllm.evaluation.prediction import Prediction, Track

FrameSpan = tuple[int, int]

TUBEDETR_FPS, TUBEDETR_FRAMES, HCSTVG_SECONDS = 5, 200, 20


@dataclass(frozen=True)
class Truth:
    """What one protocol holds a tube against.

    Attributes:
        span: G, half-open frames.
        frames, boxes: (K,) increasing int and (K, 4) xyxy float64, where a predicted box is compared.
        clip: (F,) increasing frames that count, None: every frame.
        unknown: frames of G that would count if their box were known.
    """

    span: FrameSpan
    frames: np.ndarray
    boxes: np.ndarray
    clip: np.ndarray | None = None
    unknown: int = 0

    def num_counted(self, span: FrameSpan) -> int:
        """|F ∩ span| of a span that holds G."""
        return _num_frames(self.clip, span) - self.unknown


class TubeScore(NamedTuple):
    """One query's numbers, each in [0, 1]."""

    tiou: float
    viou: float
    gt_viou: float


Protocol = Callable[[Instance], Truth]


def dense(instance: Instance) -> Truth:
    span = annotated_span(instance)
    frames, boxes = truth_boxes(instance, span)
    return Truth(span, frames, boxes, unknown=span[1] - span[0] - len(frames))


def tubedetr(instance: Instance) -> Truth:
    begin, end = annotated_span(instance)
    frames, boxes = truth_boxes(instance, (begin, end))
    if is_hcstvg(instance):
        begin, end, frames = begin + 1, end + 1, frames + 1
    clip = tubedetr_frames(instance)
    counted = np.isin(frames, clip)
    unknown = _num_frames(clip, (begin, end)) - int(counted.sum())
    return Truth((begin, end), frames[counted], boxes[counted], clip, unknown)


def stcat(instance: Instance) -> Truth:
    begin, end = annotated_span(instance)
    end = end - 1 if is_hcstvg(instance) else min(end, clip_span(instance)[1] - 1)
    frames = np.arange(begin, end + 1)  # both ends
    boxes = nearest_boxes(*truth_boxes(instance, (begin, end + 1)), frames)
    return Truth((begin, end), frames, boxes)


PROTOCOLS: dict[str, Protocol] = {"dense": dense, "tubedetr": tubedetr, "stcat": stcat}


def score_tube(truth: Truth, prediction: Prediction | None) -> TubeScore:
    """Scores one predicted tube; no answer scores 0 in everything.

    Args:
        truth: of the query, e.g. ``dense(instance)``.
        prediction: boxes are compared as they are: clean them before.
    """
    if prediction is None:
        return TubeScore(0.0, 0.0, 0.0)
    predicted = (prediction.begin_frame, prediction.end_frame)
    begin, end = max(truth.span[0], predicted[0]), min(truth.span[1], predicted[1])
    both = (truth.frames >= begin) & (truth.frames < end)
    ious = _ious(truth, prediction.spoken)
    free = ious if prediction.free is prediction.spoken else _ious(truth, prediction.free)
    return TubeScore(
        tiou=interval_iou(truth.span, predicted),
        viou=video_iou(ious[both], truth.num_counted(hull(truth.span, predicted))),
        gt_viou=video_iou(free, len(free)),
    )


def annotated_span(instance: Instance) -> FrameSpan:
    """The span in frames as annotated.

    Raises:
        ValueError: the instance has no frame span.
    """
    if instance.begin_frame is None or instance.end_frame is None:
        raise ValueError(f"instance {instance.id}: scoring a tube needs begin_frame and end_frame")
    return instance.begin_frame, instance.end_frame


def clip_span(instance: Instance) -> FrameSpan:
    """The frames to look at, half-open: the segment where there is one."""
    if instance.segment_begin_frame is not None and instance.segment_end_frame is not None:
        return instance.segment_begin_frame, instance.segment_end_frame
    return 0, instance.num_frames


def is_hcstvg(instance: Instance) -> bool:
    return instance.source.startswith("hcstvg")


def truth_boxes(instance: Instance, span: FrameSpan) -> tuple[np.ndarray, np.ndarray]:
    """The true boxes inside the span: frames (F,) int and boxes (F, 4) xyxy float64, gaps between them filled."""
    frames = np.asarray(instance.box_frames, np.int64)
    inside = (frames >= span[0]) & (frames < span[1])
    boxes = clean_boxes(np.array(instance.boxes)[inside], instance.width, instance.height)
    return gapless_boxes(frames[inside], boxes)


def tubedetr_frames(instance: Instance) -> np.ndarray:
    """(F,) frames that TubeDETR looks at: 5 a second from the clip's first on, its last one never, at most 200."""
    first, end = clip_span(instance)
    fps = instance.num_frames / HCSTVG_SECONDS if is_hcstvg(instance) else float(instance.fps)
    if not fps:
        raise ValueError(f"instance {instance.id}: protocol tubedetr needs a frame rate")
    frames = np.arange(first, max(end - 1, first + 1))
    ticks = np.floor(frames * (TUBEDETR_FPS / fps))
    kept = frames[np.diff(ticks, prepend=-np.inf) > 0]
    if len(kept) > TUBEDETR_FRAMES:
        kept = kept[np.arange(TUBEDETR_FRAMES) * len(kept) // TUBEDETR_FRAMES]
    return kept


def _num_frames(clip: np.ndarray | None, span: FrameSpan) -> int:
    """Frames that count in the span."""
    if clip is None:
        return span[1] - span[0]
    return int(np.searchsorted(clip, span[1]) - np.searchsorted(clip, span[0]))


def _ious(truth: Truth, track: Track) -> np.ndarray:
    return box_iou(truth.boxes, nearest_boxes(track.frames, track.boxes, truth.frames))
