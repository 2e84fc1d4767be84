"""Multiple choice about a video: what colour, what shape, how many, which way, what happens first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from spacevllm.data.moving_shapes.draws import pick, shuffled
from spacevllm.data.moving_shapes.language import Description, descriptions, single_out, verb
from spacevllm.data.moving_shapes.questions import Event, doers, events
from spacevllm.data.moving_shapes.world import COLOURS, DIRECTIONS, SHAPES, STILL, Scene

_OPTIONS = 4


class Choice(NamedTuple):
    question: str
    answer: str
    options: list[str]


def choices(scene: Scene, rng: np.random.Generator) -> list[Choice]:
    """Up to ``qa_per_video`` questions, each of another kind."""
    made = (kind(scene, rng) for kind in shuffled(rng, _KINDS))
    return [choice for choice in made if choice is not None][: scene.config.qa_per_video]


def _what_colour(scene: Scene, rng: np.random.Generator) -> Choice | None:
    return _attribute(scene, rng, "colour", tuple(COLOURS))


def _what_shape(scene: Scene, rng: np.random.Generator) -> Choice | None:
    return _attribute(scene, rng, "shape", SHAPES)


def _attribute(scene: Scene, rng: np.random.Generator, name: str, values: Sequence[str]) -> Choice | None:
    """``what colour is the circle that grows?``"""
    for event in shuffled(rng, events(scene)):
        thing = scene.things[event.who]
        rivals = doers(scene, event.action, 0, scene.config.seconds) - {event.who}
        some = [Description(()), *descriptions(thing, without=name)]
        clear = [d for d in some if not any(d.fits(scene.things[rival]) for rival in rivals)]
        if clear:
            finite, _ = verb(rng, event.action)
            noun = "thing" if name == "shape" else "shape"
            question = f"what {name} is {pick(rng, clear).text(noun=noun)} that {finite}?"
            return _choice(rng, question, str(getattr(thing, name)), values)
    return None


def _how_many(scene: Scene, rng: np.random.Generator) -> Choice | None:
    """``how many red shapes are there?`` · ``how many shapes grow?`` is left out: plurals of verbs."""
    if rng.random() < 0.3:
        what, number = "shapes", len(scene.things)
    else:
        name, values = pick(rng, (("colour", tuple(COLOURS)), ("shape", SHAPES), ("texture", ("striped", "plain"))))
        present = [str(getattr(thing, name)) for thing in scene.things]
        value = pick(rng, (*values, *present, *present))
        what, number = f"{value}s" if name == "shape" else f"{value} shapes", present.count(value)
    near = [n for n in range(max(number - 2, 0), number + 3) if n != number]
    options = sorted([number, *shuffled(rng, near)[: _OPTIONS - 1]])
    return _choice(rng, f"how many {what} are there in the video?", str(number), [str(n) for n in options])


def _which_way(scene: Scene, rng: np.random.Generator) -> Choice | None:
    """Of a thing that moves in one direction only."""
    for thing in shuffled(rng, scene.things):
        headings = [heading for heading in DIRECTIONS if thing.periods(heading)]
        description = single_out(rng, thing, scene.things)
        if len(headings) == 1 and description is not None:
            ways = [heading.removeprefix("moves ") for heading in DIRECTIONS]
            question = f"in which direction does {description.text()} move?"
            return _choice(rng, question, headings[0].removeprefix("moves "), ways)
    return None


def _what_first(scene: Scene, rng: np.random.Generator) -> Choice | None:
    told: dict[str, Event] = {}
    for event in shuffled(rng, [event for event in events(scene) if event.action != STILL]):
        description = single_out(rng, scene.things[event.who], scene.things)
        if description is not None:
            told[f"{description.text()} {verb(rng, event.action)[0]}"] = event
    if len(told) < 3:
        return None
    chosen = dict(list(told.items())[: int(rng.integers(3, _OPTIONS + 1))])
    first, second, *_ = sorted(chosen, key=lambda text: chosen[text].begin_s)
    if chosen[first].begin_s == chosen[second].begin_s:
        return None
    return _choice(rng, "which of these happens first?", first, list(chosen))


def _choice(rng: np.random.Generator, question: str, answer: str, values: Sequence[str]) -> Choice:
    wrong = shuffled(rng, [value for value in values if value != answer])[: _OPTIONS - 1]
    return Choice(question, answer, shuffled(rng, [answer, *wrong]))


_KINDS: tuple[Callable[[Scene, np.random.Generator], Choice | None], ...] = (
    _what_colour,
    _what_shape,
    _how_many,
    _which_way,
    _what_first,
)
