"""Questions about what is not in the video: a thing that is not there, or an event that the thing never does."""

from __future__ import annotations

from itertools import product

import numpy as np

from spacevllm.data.moving_shapes.draws import shuffled
from spacevllm.data.moving_shapes.language import Description, single_out
from spacevllm.data.moving_shapes.questions import event_words
from spacevllm.data.moving_shapes.world import ACTIONS, COLOURS, SHAPES, STILL, Scene


def absent_questions(scene: Scene, rng: np.random.Generator) -> list[str]:
    """Up to ``absent_per_video`` questions, no two alike, of both kinds in turn, worded like the others."""
    number = scene.config.absent_per_video
    things, deeds = shuffled(rng, _no_such_thing(scene)), shuffled(rng, _no_such_event(scene))
    asked: dict[str, None] = {}
    for n in range(2 * number):
        kind = things if n % 2 else deeds
        if kind and len(asked) < number:
            asked[_words(scene, rng, *kind.pop())] = None
    asked.pop("", None)
    return list(asked)


def _words(scene: Scene, rng: np.random.Generator, who: Description | int, action: str) -> str:
    description = single_out(rng, scene.things[who], scene.things) if isinstance(who, int) else who
    return "" if description is None else event_words(rng, description, action)


def _no_such_thing(scene: Scene) -> list[tuple[Description, str]]:
    """Colours and shapes that nothing in the scene has together, doing what something else does."""
    seen = sorted({phase.action for thing in scene.things for phase in thing.phases} & set(ACTIONS))
    found = [Description((("colour", colour), ("shape", shape))) for colour, shape in product(COLOURS, SHAPES)]
    return [(d, action) for d in found if not any(map(d.fits, scene.things)) for action in seen]


def _no_such_event(scene: Scene) -> list[tuple[int, str]]:
    """Things of the scene with what they never do; standing still is left out: at its border it is hard to tell."""
    return [
        (who, action)
        for who, thing in enumerate(scene.things)
        for action in ACTIONS
        if action != STILL and not thing.periods(action)
    ]
