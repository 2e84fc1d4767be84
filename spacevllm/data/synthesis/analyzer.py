"""Which things a caption names, the main subject first: a language model is asked, and it answers in strict JSON.

An answer that is none is sent back with what is wrong with it, a few times; a failed connection is tried again after a
pause. The paper gives no prompt (it used Qwen2.5-72B); ours is below.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from spacevllm.config import Config
from spacevllm.data.synthesis.sample import Rejected

Message = dict[str, str]  # role (system, user, assistant) and content, as OpenAI's API has them
Chat = Callable[[Sequence[Message]], str]

SYSTEM = """\
You prepare captions of videos for an object detector.
List the things in the caption that can be seen and enclosed by a box: people, animals, objects.
Use short noun phrases with the attributes the caption gives, no verbs, no pronouns, no places, no sounds.
The thing that the caption is mainly about comes first. If there is none, the list is empty.
Answer with JSON alone, in this form: {"objects": ["a man in a red shirt", "a bicycle"]}"""
WRONG = "That is not the JSON I asked for: {problem}. Answer again, with JSON alone."


class ChatUnavailable(RuntimeError):
    """The model gave no answer: no connection, an error status, a time-out. Worth trying again."""


class AnalyzerOptions(Config):
    """How often a caption is asked about.

    Attributes:
        attempts: most requests for one caption, the first included.
        pause_s: before the second request after a failed one; it doubles each time.
    """

    attempts: int = Field(default=3, ge=1)
    pause_s: float = Field(default=1.0, ge=0)


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    objects: list[str]


def ask(caption: str) -> list[Message]:
    """The conversation's begin."""
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": f"Caption: {caption}"}]


def find_objects(caption: str, chat: Chat, options: AnalyzerOptions) -> list[str]:
    """The localisable things of the caption, at least one, the main subject first.

    Raises:
        Rejected: ``no_object``: there is none. ``bad_answer``: no attempt gave the JSON asked for. ``no_answer``: the
            model could not be reached.
    """
    messages, pause = ask(caption), options.pause_s
    failure = Rejected("no_answer", "never asked")
    for attempt in range(options.attempts):
        try:
            answer = chat(messages)
        except ChatUnavailable as error:
            failure = Rejected("no_answer", str(error))
            if attempt + 1 < options.attempts:
                time.sleep(pause)
            pause *= 2
            continue
        try:
            return _subjects(parse_objects(answer))
        except ValueError as error:
            if isinstance(error, Rejected):
                raise
            failure = Rejected("bad_answer", f"{error}: {answer[:200]!r}")
            wrong = {"role": "user", "content": WRONG.format(problem=error)}
            messages = [*ask(caption), {"role": "assistant", "content": answer}, wrong]
    raise failure


def parse_objects(answer: str) -> list[str]:
    """The phrases of an answer, each once, in order.

    Raises:
        ValueError: it is not ``{"objects": [...]}`` with phrases; the message says what it is instead.
    """
    try:
        phrases = _Answer.model_validate(json.loads(_unfenced(answer))).objects
    except json.JSONDecodeError as error:
        raise ValueError(f"no JSON: {error.msg} at character {error.pos}") from None
    except RecursionError:
        raise ValueError("no JSON: too deep") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the answer"
        raise ValueError(f"{place}: {first['msg']}") from None
    return list(dict.fromkeys(" ".join(phrase.split()) for phrase in phrases if phrase.strip()))


def _subjects(phrases: list[str]) -> list[str]:
    if not phrases:
        raise Rejected("no_object", "the caption names nothing that a box could enclose")
    return phrases


def _unfenced(answer: str) -> str:
    """Many models put JSON between Markdown's fences, whatever they are told."""
    text = answer.strip()
    if text.startswith("```") and text.endswith("```") and "\n" in text:
        text = text.partition("\n")[2].removesuffix("```")
    return text
