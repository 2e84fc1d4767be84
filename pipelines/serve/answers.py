"""An answer in JSON, written once: the response, the event and the store take the same text.

A span may have 200,000 boxes. Their text is made in small steps in a thread, so that the event loop goes on meanwhile
and no more than one step's objects are held.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from spacevllm.answer import Answer, further_dict
from spacevllm.tube import Tube

_BOXES_AT_ONCE = 1000


@dataclass(frozen=True)
class Written:
    """An answer, and its JSON form (``Answer.to_dict``) as compact text."""

    answer: Answer
    text: str

    @classmethod
    def of(cls, answer: Answer) -> Written:
        text = with_last(_head(answer.best), "boxes", boxes_json(answer.best))
        return cls(answer, f'{text[:-1]},"more":{more_json(answer)}}}' if len(answer) > 1 else text)


def _head(tube: Tube) -> dict[str, Any]:
    """All but its boxes."""
    head = replace(tube, begin_frame=0, end_frame=0, boxes=tube.boxes[:0]).to_dict()
    if tube.span:
        head |= {"begin_frame": tube.begin_frame, "end_frame": tube.end_frame}
    del head["boxes"]
    return head


def more_json(answer: Answer) -> str:
    """The tubes behind the best, as ``Answer.to_dict`` lists them in ``more``."""
    heads = ((further_dict(_head(tube) | {"track": tube.track}), tube) for tube in answer[1:])
    return f"[{','.join(with_last(head, 'boxes', boxes_json(tube)) for head, tube in heads)}]"


def boxes_json(tube: Tube) -> str:
    """``[[frame, x1, y1, x2, y2], ...]``"""
    return f"[{','.join(_rows(tube))}]"


def _rows(tube: Tube) -> Iterator[str]:
    for begin in range(tube.begin_frame, tube.end_frame, _BOXES_AT_ONCE):
        end = min(begin + _BOXES_AT_ONCE, tube.end_frame)
        boxes = tube.boxes[begin - tube.begin_frame : end - tube.begin_frame]
        yield compact(replace(tube, begin_frame=begin, end_frame=end, boxes=boxes).to_dict()["boxes"])[1:-1]


def answers_json(head: dict[str, Any], answers: Sequence[Written]) -> str:
    """``head`` with the answers as ``tubes``."""
    return with_last(head, "tubes", f"[{','.join(answer.text for answer in answers)}]")


def with_last(head: dict[str, Any], name: str, text: str) -> str:
    """``head``, which is not empty, as JSON; its last member is ``name``, whose value is JSON already."""
    return f'{compact(head)[:-1]},"{name}":{text}}}'


def compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
