"""A video with its tubes drawn in, and thinly the truth, where it is known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from spacevllm.data.instance import Instance
from spacevllm.evaluation.protocols import truth_boxes
from spacevllm.span import Span
from spacevllm.tube import Tube
from spacevllm.video.overlay import COLOURS, Mark, draw_marks

TRUTH = "#f4f4f2"


def draw_overlay(
    video: str | Path,
    tubes: Sequence[Tube],
    out: str | Path,
    truth: Instance | Tube | None = None,
    part: Span | None = None,
) -> Path:
    """Writes ``video`` with ``tubes`` (and the truth) drawn in as an MP4 without sound.

    Args:
        video: local path of the video the tubes speak of.
        tubes: one question each, in colours of their own; one without a span keeps its caption and has no box.
        out, part: see ``draw_marks``.
        truth: the right answer: an instance (a span, and boxes where annotated) or a tube.

    Raises:
        VideoError: the video cannot be read.
    """
    marks = [tube.mark(COLOURS[i % len(COLOURS)]) for i, tube in enumerate(tubes)]
    return draw_marks(video, marks if truth is None else [*marks, truth_mark(truth)], out, part)


def truth_mark(truth: Instance | Tube) -> Mark:
    """The right answer, in white."""
    if isinstance(truth, Tube):
        mark = truth.mark(TRUTH)
        return Mark("Truth", mark.detail, TRUTH, mark.span_s, mark.first_frame, mark.boxes, is_truth=True)
    span = (truth.begin_s, truth.end_s) if truth.begin_s is not None and truth.end_s is not None else None
    frames, boxes = np.zeros(0, np.int64), np.zeros((0, 4))
    if truth.begin_frame is not None and truth.end_frame is not None:
        frames, boxes = truth_boxes(truth, (truth.begin_frame, truth.end_frame))
    detail = f"{span[0]:.2f} to {span[1]:.2f} s" if span else ""
    return Mark("Truth", detail, TRUTH, span, int(frames[0]) if len(frames) else 0, boxes, is_truth=True)
