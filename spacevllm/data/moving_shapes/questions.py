"""Questions about time: a span with boxes (STVG) and a span alone (VTG), each with exactly one right answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from spacevllm.data.moving_shapes.draws import pick, shuffled
from spacevllm.data.moving_shapes.language import Description, descriptions, single_out, verb
from spacevllm.data.moving_shapes.world import ACTIONS, STILL, Scene

SHORTEST_S = 2
_LEAST_VISIBLE = 0.25  # of a thing in any frame of the span it is asked for
_ROUNDS = 4  # wordings of one event


class Event(NamedTuple):
    """Thing number ``who`` does ``action`` in the whole seconds ``[begin_s, end_s)`` and never else."""

    who: int
    action: str
    begin_s: int
    end_s: int


class Question(NamedTuple):
    """``who`` is the thing whose boxes answer it."""

    text: str
    who: int
    begin_s: int
    end_s: int
    sentence_type: str = "declarative"


def events(scene: Scene) -> list[Event]:
    """What can be asked for: done once, long enough, and seen."""
    found = []
    for who, thing in enumerate(scene.things):
        for action in ACTIONS:
            periods = thing.periods(action)
            if len(periods) == 1 and any((p.action, p.begin_s, p.end_s) == (action, *periods[0]) for p in thing.phases):
                found.append(Event(who, action, *periods[0]))
    return [event for event in found if worth_asking(scene, event)]


def doers(scene: Scene, action: str, begin_s: int, end_s: int) -> set[int]:
    """The things that are seen to do ``action`` at some time in ``[begin_s, end_s)``."""
    return {
        n
        for n, thing in enumerate(scene.things)
        if any(begin < end_s and end > begin_s for begin, end in thing.periods(action))
    }


def seen(scene: Scene, who: int, begin_s: int, end_s: int) -> bool:
    """Whether nothing hides thing ``who`` too much in ``[begin_s, end_s)``."""
    fps = scene.config.fps
    visible = scene.visible[who, begin_s * fps : end_s * fps]
    return bool(visible.mean() >= scene.config.min_visible and visible.min() >= _LEAST_VISIBLE)


def stvg_questions(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """Up to ``stvg_per_video`` questions, no two alike; as far as possible each about another event."""
    number, found = scene.config.stvg_per_video, events(scene)
    pairs = shuffled(rng, _pairs(scene, found))[: int(rng.binomial(number, scene.config.interrogative_share))]
    asked = (_interrogative(scene, rng, *pair) for pair in pairs)
    told = (_declarative(scene, rng, event) for _ in range(_ROUNDS) for event in shuffled(rng, found))
    return _distinct(chain(asked, told), number)


def vtg_questions(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """Up to ``vtg_per_video`` questions about a whole event."""
    told = (_sentence(scene, rng, event) for _ in range(_ROUNDS) for event in shuffled(rng, events(scene)))
    return _distinct(told, scene.config.vtg_per_video)


def worth_asking(scene: Scene, event: Event) -> bool:
    """Whether it lasts and is seen. What never does anything else stands still trivially."""
    others = [phase for phase in scene.things[event.who].phases if phase.action not in (STILL, "enters", "leaves")]
    lasts = event.end_s - event.begin_s >= SHORTEST_S and (event.action != STILL or bool(others))
    return lasts and seen(scene, event.who, *event[2:])


def _distinct(questions: Iterable[Question | None], number: int) -> list[Question]:
    kept: dict[str, Question] = {}
    for question in questions:
        if len(kept) == number:
            break
        if question is not None:
            kept.setdefault(question.text, question)
    return list(kept.values())


def _declarative(scene: Scene, rng: np.random.Generator, event: Event) -> Question | None:
    """``the small red circle while it moves left``"""
    description = _describe(scene, rng, event)
    if description is None:
        return None
    return Question(event_words(rng, description, event.action), event.who, event.begin_s, event.end_s)


def event_words(rng: np.random.Generator, description: Description, action: str) -> str:
    """``the small red circle while it moves left``"""
    finite, participle = verb(rng, action)
    tail = pick(rng, (f"while it {finite}", f"while it {finite}", f"when it {finite}", f"that {finite}", participle))
    return f"{description.text()} {tail}"


def _sentence(scene: Scene, rng: np.random.Generator, event: Event) -> Question | None:
    """``a red circle enters`` · ``when is the red circle entering?``"""
    description = _describe(scene, rng, event)
    if description is None:
        return None
    finite, participle = verb(rng, event.action)
    if rng.random() < 0.25:
        return Question(f"when is {description.text()} {participle}?", *event[:1], *event[2:], "interrogative")
    article = "a" if event.action == "enters" or rng.random() < 0.3 else "the"
    return Question(f"{description.text(article)} {finite}", *event[:1], *event[2:])


def _interrogative(scene: Scene, rng: np.random.Generator, asked: Event, given: Event) -> Question | None:
    """``what grows while the blue square stands still?``; the span is what both events share."""
    description = single_out(rng, scene.things[given.who], scene.things)
    if description is None:
        return None
    subject = pick(rng, ("what", "what", "which shape"))
    text = f"{subject} {verb(rng, asked.action)[0]} while {description.text()} {verb(rng, given.action)[0]}?"
    return Question(text, asked.who, *_shared(asked, given), "interrogative")


def _pairs(scene: Scene, found: Sequence[Event]) -> list[tuple[Event, Event]]:
    """(asked, given): only one thing does what is asked while the given event lasts."""
    return [
        (asked, given)
        for asked in found
        for given in found
        if asked.who != given.who
        and doers(scene, asked.action, given.begin_s, given.end_s) == {asked.who}
        and _shared(asked, given)[1] - _shared(asked, given)[0] >= SHORTEST_S
        and seen(scene, asked.who, *_shared(asked, given))
    ]


def _shared(a: Event, b: Event) -> tuple[int, int]:
    return max(a.begin_s, b.begin_s), min(a.end_s, b.end_s)


def _describe(scene: Scene, rng: np.random.Generator, event: Event) -> Description | None:
    """Singles the doer out, at times only together with its action."""
    thing, things = scene.things[event.who], scene.things
    if event.action != STILL and rng.random() < scene.config.shared_description_share:
        rivals = doers(scene, event.action, 0, scene.config.seconds) - {event.who}
        shared = [
            d
            for d in descriptions(thing)
            if sum(map(d.fits, things)) == 2 and not any(d.fits(things[rival]) for rival in rivals)
        ]
        if shared:
            return pick(rng, shared)
    return single_out(rng, thing, things)
