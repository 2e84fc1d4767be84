"""Expressions that refer to one thing on a still image (REC): by its attributes, by its place, by comparison."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import numpy as np

from spacevllm.data.moving_shapes.draws import pick, shuffled
from spacevllm.data.moving_shapes.language import Description, descriptions, single_out
from spacevllm.data.moving_shapes.world import Scene

_APART = 12.0  # pixels between centres: less is not "left of"
_CLEARLY = 6.0  # pixels by which the leftmost, the largest … wins
_RELATIONS = {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}  # axis and sign
_EXTREMES = {
    "leftmost": (0, -1),
    "rightmost": (0, 1),
    "topmost": (1, -1),
    "bottommost": (1, 1),
    "largest": (2, 1),
    "smallest": (2, -1),
}
_LEAST_VISIBLE = 0.5

Expression = tuple[str, int]  # the text and the number of the thing it means


def expressions(scene: Scene, rng: np.random.Generator) -> list[Expression]:
    """Up to ``rec_per_image`` different expressions; things hidden by half are not asked for."""
    made: dict[str, int] = {}
    makers: list[Callable[[Scene, np.random.Generator], Expression | None]] = [*[_plain] * 4, _related, _extreme]
    for _ in range(8 * scene.config.rec_per_image):
        if len(made) == scene.config.rec_per_image:
            break
        expression = pick(rng, makers)(scene, rng)
        if expression and scene.visible[expression[1], 0] >= _LEAST_VISIBLE:
            made.setdefault(*expression)
    return list(made.items())


def _plain(scene: Scene, rng: np.random.Generator) -> Expression | None:
    who = int(rng.integers(len(scene.things)))
    description = single_out(rng, scene.things[who], scene.things)
    return (description.text(), who) if description else None


def _related(scene: Scene, rng: np.random.Generator) -> Expression | None:
    """``the circle left of the red square``: the only circle there."""
    for who, other in shuffled(rng, list(permutations(range(len(scene.things)), 2))):
        reference = single_out(rng, scene.things[other], scene.things)
        relation, (axis, sign) = pick(rng, list(_RELATIONS.items()))
        ahead = sign * (scene.states[:, 0, axis] - scene.states[other, 0, axis])  # (N,)
        if reference is None or ahead[who] < _APART:
            continue
        rivals = [n for n in range(len(scene.things)) if n not in (who, other) and ahead[n] > -_CLEARLY]
        some = [Description(()), *descriptions(scene.things[who])]
        clear = [d for d in some if not any(d.fits(scene.things[n]) for n in rivals)]
        if clear:
            return f"{clear[0].text()} {relation} {reference.text()}", who
    return None


def _extreme(scene: Scene, rng: np.random.Generator) -> Expression | None:
    """``the leftmost circle``, ``the largest shape``: of two at least."""
    word, (axis, sign) = pick(rng, list(_EXTREMES.items()))
    some = {d for thing in scene.things for d in descriptions(thing) if len(d.attributes) == 1}
    for description in shuffled(rng, [Description(()), *sorted(some, key=lambda d: d.attributes)]):
        group = [n for n, thing in enumerate(scene.things) if description.fits(thing)]
        group.sort(key=lambda n: -sign * scene.states[n, 0, axis])
        if len(group) < 2 or (axis == 2 and "size" in dict(description.attributes)):
            continue
        if abs(scene.states[group[0], 0, axis] - scene.states[group[1], 0, axis]) >= _CLEARLY:
            return description.text(article=f"the {word}"), group[0]
    return None
