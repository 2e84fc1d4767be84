"""A video with its tubes drawn in, and thinly the truth, where it is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from spacevllm.answer import Answer
from spacevllm.data.instance import Instance, TrueTube
from spacevllm.evaluation.protocols import truth_boxes
from spacevllm.span import Span
from spacevllm.tube import Tube
from spacevllm.video.overlay import COLOURS, Mark, draw_marks

TRUTH = "#f4f4f2"


def draw_overlay(
    video: str | Path,
    answers: Sequence[Answer | Tube],
    out: str | Path,
    truth: Instance | Tube | None = None,
    part: Span | None = None,
    max_pixels: int | None = None,
) -> Path:
    """Writes ``video`` with ``answers`` (and the truth) drawn in as an MP4 without sound.

    Args:
        video: local path of the video the answers speak of.
        answers: one question each; every thing in a colour of its own. One without a span has a caption and no box.
        out, part, max_pixels: see ``draw_marks``.
        truth: the right answer: an instance (spans, and boxes where annotated) or a tube.

    Raises:
        VideoError: the video cannot be read.
    """
    marks: list[Mark] = []
    for answer in (one if isinstance(one, Answer) else Answer([one]) for one in answers):
        first = len(marks) % len(COLOURS)
        marks += answer.marks(COLOURS[first:] + COLOURS[:first])
    return draw_marks(video, marks if truth is None else [*marks, *truth_marks(truth)], out, part, max_pixels)


def truth_marks(truth: Instance | Tube) -> list[Mark]:
    """The right answer, in white, one mark a thing."""
    if isinstance(truth, Tube):
        return [replace(truth.mark(TRUTH), text="Truth", is_truth=True)]
    if not truth.tubes:
        return [Mark("Truth", "", TRUTH, None, 0, np.zeros((0, 4)), is_truth=True)]
    found: dict[int, Mark] = {}
    for tube in truth.tubes:
        mark = _truth_mark(truth, tube)
        first = found.setdefault(tube.track, mark)
        if first is not mark:
            more = (*first.more, mark)
            found[tube.track] = replace(first, more=more, detail=f"{first.detail}; {mark.detail}")
    return list(found.values())


def _truth_mark(truth: Instance, tube: TrueTube) -> Mark:
    frames, boxes = np.zeros(0, np.int64), np.zeros((0, 4))
    if tube.begin_frame is not None and tube.end_frame is not None:
        own = replace(truth, box_frames=tube.box_frames, boxes=tube.boxes, more=[])
        frames, boxes = truth_boxes(own, (tube.begin_frame, tube.end_frame))
    detail = f"{tube.begin_s:.2f} to {tube.end_s:.2f} s"
    first, span = int(frames[0]) if len(frames) else 0, (tube.begin_s, tube.end_s)
    return Mark("Truth", detail, TRUTH, span, first, boxes, is_truth=True)
