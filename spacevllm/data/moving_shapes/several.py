"""Questions with several right answers: a thing that does it twice, or several things that fit and do it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from spacevllm.data.moving_shapes.draws import pick, shuffled
from spacevllm.data.moving_shapes.language import Description, descriptions, single_out, verb
from spacevllm.data.moving_shapes.questions import Event, worth_asking
from spacevllm.data.moving_shapes.world import ACTIONS, Scene

_WHENEVER = ("whenever it {}", "each time it {}", "every time it {}")


class Several(NamedTuple):
    """``events`` are all right answers, in order of time: of one thing, or one of each of several things."""

    text: str
    events: list[Event]


def several_questions(scene: Scene, rng: np.random.Generator) -> list[Several]:
    """Up to ``several_per_video`` questions, no two alike, of both kinds in turn."""
    number = scene.config.several_per_video
    again, every = shuffled(rng, list(_again(scene))), shuffled(rng, list(_every(scene)))
    asked: dict[str, Several] = {}
    for n in range(2 * number):
        if n % 2 and every and len(asked) < number:
            description, events = every.pop()
            found: Several | None = Several(_every_words(rng, description, events[0].action), events)
        else:
            found = _again_question(scene, rng, again.pop()) if again and len(asked) < number and n % 2 == 0 else None
        if found:
            asked.setdefault(found.text, found)
    return list(asked.values())


def _again_question(scene: Scene, rng: np.random.Generator, events: list[Event]) -> Several | None:
    """``the red circle whenever it stands still``"""
    description = single_out(rng, scene.things[events[0].who], scene.things)
    if description is None:
        return None
    return Several(f"{description.text()} {pick(rng, _WHENEVER).format(verb(rng, events[0].action)[0])}", events)


def _every_words(rng: np.random.Generator, description: Description, action: str) -> str:
    """``every circle that moves left``"""
    finite, participle = verb(rng, action)
    return f"{description.text(article=pick(rng, ('every', 'each')))} {pick(rng, (f'that {finite}', participle))}"


def _again(scene: Scene) -> Iterator[list[Event]]:
    """What one thing does more than once, each time long enough and seen."""
    for who, thing in enumerate(scene.things):
        for action in ACTIONS:
            events = [Event(who, action, *period) for period in thing.periods(action)]
            if len(events) > 1 and all(worth_asking(scene, event) for event in events):
                yield events


def _every(scene: Scene) -> Iterator[tuple[Description, list[Event]]]:
    """Words for several things, and what all of those that do it do just once, long enough and seen."""
    some = {d for thing in scene.things for d in descriptions(thing)}
    for description in sorted(some, key=lambda d: d.attributes):
        fitting = [who for who, thing in enumerate(scene.things) if description.fits(thing)]
        for action in ACTIONS:
            events = [Event(who, action, *period) for who in fitting for period in scene.things[who].periods(action)]
            things = {event.who for event in events}
            once = len(things) == len(events) > 1
            if once and all(worth_asking(scene, event) for event in events):
                yield description, sorted(events, key=lambda event: event.begin_s)
