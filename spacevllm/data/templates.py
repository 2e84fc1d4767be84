"""The wording around a question, one per task, and the form of each answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spacevllm.model.answers import format_boxes, format_span
from spacevllm.tube import ABSENT, Span

if TYPE_CHECKING:  # the model reads these words, too, and needs no pyarrow for it
    from spacevllm.data.instance import Instance

INSTRUCTIONS: dict[str, str] = {
    "stvg": "When and where: {question}",
    "vtg": "When: {question}",
    "rec": "Where: {question}",
    "qa": "{question}",
}
ANSWER_WITH_OPTION = "\n{letter}. {option}"
BOX_ANSWER = "Here."  # an image's box comes from its query; the text only closes the turn


def answer_text(instance: Instance, boxes: np.ndarray | None = None) -> str:
    """What the model learns to write: a span, a fixed word for a box, an option's letter, or free text.

    Args:
        boxes: (K, 4) xyxy in [0, 1] of the sampled frames in the span, where boxes are written as text.
    """
    written = "" if boxes is None else format_boxes(boxes)
    if not instance.present:
        return ABSENT
    if instance.task in ("stvg", "vtg"):
        assert instance.begin_s is not None and instance.end_s is not None  # Instance checks it
        span = format_span(Span(instance.begin_s, instance.end_s))
        return f"{span} {written}" if written and instance.task == "stvg" else span
    if instance.task == "rec":
        return written or BOX_ANSWER
    if instance.options:
        return chr(65 + instance.options.index(instance.answer))
    return instance.answer
