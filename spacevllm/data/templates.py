"""The wording around a question, one per task, and the form of each answer."""

from __future__ import annotations

from spacevllm.data.instance import Instance
from spacevllm.model.answers import format_span
from spacevllm.tube import Span

INSTRUCTIONS: dict[str, str] = {
    "stvg": "When and where: {question}",
    "vtg": "When: {question}",
    "rec": "Where: {question}",
    "qa": "{question}",
}
ANSWER_WITH_OPTION = "\n{letter}. {option}"
BOX_ANSWER = "Here."  # an image's box comes from its query; the text only closes the turn


def answer_text(instance: Instance) -> str:
    """What the model learns to write: a span, a fixed word for a box, an option's letter, or free text."""
    if instance.task in ("stvg", "vtg"):
        assert instance.begin_s is not None and instance.end_s is not None  # Instance checks it
        return format_span(Span(instance.begin_s, instance.end_s))
    if instance.task == "rec":
        return BOX_ANSWER
    if instance.options:
        return chr(65 + instance.options.index(instance.answer))
    return instance.answer
