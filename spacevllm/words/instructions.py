"""The wordings around a question, about twenty for each task, and the form of each answer.

Training takes one by the instance's id (``wordings: many``), so that a model does not learn one phrase by heart;
answering always takes the first. A wording that asks for another form of the span has its answers in that form.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from spacevllm.tube import ABSENT
from spacevllm.words.answers import SPAN_FORM, format_boxes, format_spans

if TYPE_CHECKING:  # the model reads these words, too, and needs no pyarrow for it
    from spacevllm.data.instance import Instance


class Wording(NamedTuple):
    """ask: around ``{question}``. span: the answer's form, with ``{begin}`` and ``{end}``."""

    ask: str
    span: str = SPAN_FORM


SHORT = "{begin:.2f}s - {end:.2f}s"
SENTENCE = "It happens from {begin:.2f}s to {end:.2f}s."
BETWEEN = "Between {begin:.2f}s and {end:.2f}s."
UNTIL = "From {begin:.2f}s until {end:.2f}s."

WORDINGS: dict[str, tuple[Wording, ...]] = {
    "stvg": (
        Wording("When and where: {question}"),
        Wording("When and where does this happen? {question}"),
        Wording("Find the moment and follow the object in it: {question}"),
        Wording("Locate the following in time and space: {question}"),
        Wording("Ground this sentence in the video, in time and space: {question}"),
        Wording("Give the time span and the boxes of: {question}"),
        Wording("At what time, and at which place in the picture: {question}"),
        Wording("Look for this in the video and mark where it is, from begin to end: {question}"),
        Wording("Tell when it begins, when it ends and where it is: {question}"),
        Wording("Which part of the video shows this, and where in the frames? {question}"),
        Wording("Track what is meant while the description holds: {question}"),
        Wording("Spatio-temporal grounding: {question}"),
        Wording("Here is a query about the video. Say when it is answered and where. Query: {question}"),
        Wording("Query: {question}\nWhen and where is it?"),
        Wording('"{question}" When and where is this in the video?'),
        Wording("{question}\nGive the moment, and a box for each of its frames."),
        Wording("{question}\nIn a full sentence: when is it? And where?", SENTENCE),
        Wording("Localise this, with the time as start - end: {question}", SHORT),
        Wording("Between which two times can this be seen, and where? {question}", BETWEEN),
        Wording("Say from when until when, and show where: {question}", UNTIL),
    ),
    "vtg": (
        Wording("When: {question}"),
        Wording("When does this happen? {question}"),
        Wording("Find the moment: {question}"),
        Wording("Locate the following in time: {question}"),
        Wording("Ground this sentence in the video's time: {question}"),
        Wording("Give the time span of: {question}"),
        Wording("From when to when: {question}"),
        Wording("Look for this in the video and say when it begins and ends: {question}"),
        Wording("Tell when it begins and when it ends: {question}"),
        Wording("Which part of the video shows this? {question}"),
        Wording("At what time of the video: {question}"),
        Wording("Temporal grounding: {question}"),
        Wording("Here is a query about the video. Say when it is answered. Query: {question}"),
        Wording("Query: {question}\nWhen is it?"),
        Wording('"{question}" When is this in the video?'),
        Wording("{question}\nGive the moment in seconds."),
        Wording("{question}\nIn a full sentence: when is it?", SENTENCE),
        Wording("Give the time as start - end: {question}", SHORT),
        Wording("Between which two times can this be seen? {question}", BETWEEN),
        Wording("Say from when until when: {question}", UNTIL),
    ),
    "rec": (
        Wording("Where: {question}"),
        Wording("Where is it? {question}"),
        Wording("Find this in the image: {question}"),
        Wording("Locate: {question}"),
        Wording("Ground this expression in the image: {question}"),
        Wording("Give the box of: {question}"),
        Wording("Draw a box around: {question}"),
        Wording("Point out: {question}"),
        Wording("Mark what is meant by: {question}"),
        Wording("Which part of the image shows this? {question}"),
        Wording("Show me: {question}"),
        Wording("Referring expression: {question}"),
        Wording("Look for this and box it: {question}"),
        Wording("What does this expression refer to? {question}"),
        Wording("Expression: {question}\nWhere is it?"),
        Wording('"{question}" Where is this in the image?'),
        Wording("{question}\nWhere in the picture?"),
        Wording("{question}\nGive its bounding box."),
        Wording("Of all things in the image, find this one: {question}"),
        Wording("Detect the one thing that fits: {question}"),
    ),
    "qa": (Wording("{question}"),),  # instruction data bring their own wordings
    "choice": (
        Wording("{question}"),
        Wording("Question: {question}"),
        Wording("Choose the right answer. {question}"),
        Wording("Pick one of the options. {question}"),
        Wording("Answer with a letter. {question}"),
        Wording("Which option is right? {question}"),
        Wording("Select the best answer. {question}"),
        Wording("One of the options is true. {question}"),
        Wording("Give the letter of the right option. {question}"),
        Wording("Read the question and the options, then answer with one letter. {question}"),
        Wording("{question} Choose one:"),
        Wording("{question} The options are:"),
        Wording("{question}\nOptions:"),
        Wording("{question}\nAnswer with the letter of one of these:"),
        Wording("{question}\nPick the best of these:"),
        Wording("{question}\nWhich of these is right?"),
        Wording("{question}\nThere are these choices:"),
        Wording("Watch closely. {question}"),
        Wording("Here is a multiple choice. {question}"),
        Wording("Multiple choice: {question}"),
    ),
}
TIME_INSTRUCTION = "The video lasts for {duration_s:.2f} seconds, and {count} frames are uniformly sampled from it."
QUESTIONS_FOLLOW = "Please answer the following questions related to this video."
ANSWER_WITH_OPTION = "\n{letter}. {option}"
BOX_ANSWER = "Here."  # an image's box comes from its query; the text only closes the turn


def time_instruction(times_s: Sequence[float], duration_s: float, listed: bool) -> str:
    """LLaVA-Video's sentence; the list of times only where they do not stand beside the frames."""
    text = TIME_INSTRUCTION.format(duration_s=duration_s, count=len(times_s))
    if listed:
        text += f" These frames are located at {','.join(f'{t:.2f}s' for t in times_s)}."
    return text + QUESTIONS_FOLLOW


def choose_wording(task: str, multiple_choice: bool = False, key: str = "") -> Wording:
    """The first wording of the task or, with a ``key`` (an instance's id), the one that its hash picks."""
    found = WORDINGS["choice" if multiple_choice else task]
    digest = hashlib.sha256(key.encode()).digest() if key else bytes(8)
    return found[int.from_bytes(digest[:8], "big") % len(found)]


def answer_text(instance: Instance, boxes: np.ndarray | None = None, span_form: str = SPAN_FORM) -> str:
    """What the model learns to write: the spans of a thing, a fixed word for a box, an option's letter, or free text.

    A span that was annotated past the end of its video ends there. Of several things it is the first: a model has one
    box a frame.

    Args:
        boxes: (K, 4) xyxy in [0, 1] of the sampled frames in the span, where boxes are written as text.
        span_form: of the wording that asks.
    """
    written = "" if boxes is None else format_boxes(boxes)
    if not instance.present:
        return ABSENT
    if instance.task in ("stvg", "vtg"):
        spans = format_spans(instance.spans, span_form)
        return f"{spans} {written}" if written and instance.task == "stvg" else spans
    if instance.task == "rec":
        return written or BOX_ANSWER
    if instance.options:
        return chr(65 + instance.options.index(instance.answer))
    return instance.answer
