"""Words for things and for what they do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from spacevllm.data.moving_shapes.world import STILL, Thing

ATTRIBUTES = ("size", "texture", "colour", "shape")  # in the order of English
VERBS: dict[str, tuple[tuple[str, str], ...]] = {  # finite form, participle; the first is the usual one
    "moves left": (("moves left", "moving left"),),
    "moves right": (("moves right", "moving right"),),
    "moves up": (("moves up", "moving up"),),
    "moves down": (("moves down", "moving down"),),
    "grows": (("grows", "growing"), ("gets bigger", "getting bigger")),
    "shrinks": (("shrinks", "shrinking"), ("gets smaller", "getting smaller")),
    STILL: (("stands still", "standing still"),),
    "enters": (("enters", "entering"), ("enters the picture", "entering the picture")),
    "leaves": (("leaves", "leaving"), ("leaves the picture", "leaving the picture")),
}
_USUAL = 0.7
_SALIENCE = {"colour": 1.0, "shape": 0.7, "size": 0.12, "texture": 0.1}


@dataclass(frozen=True)
class Description:
    """Some attributes of a thing, e.g. ``{"colour": "red", "shape": "circle"}`` as sorted pairs."""

    attributes: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, thing: Thing, names: Sequence[str]) -> Description:
        return cls(tuple((name, getattr(thing, name)) for name in ATTRIBUTES if name in names))

    def fits(self, thing: Thing) -> bool:
        """A thing whose size changes may pass for small or for large."""
        return all(getattr(thing, name) in (None, value) for name, value in self.attributes)

    @property
    def weight(self) -> float:
        """How likely a person is to choose these words: colour and shape come first."""
        return float(np.prod([_SALIENCE[name] for name, _ in self.attributes]))

    def text(self, article: str = "the", noun: str = "shape") -> str:
        """``the small red circle``; ``noun`` stands in for a shape that is not told."""
        words = [value for _, value in self.attributes]
        if not any(name == "shape" for name, _ in self.attributes):
            words.append(noun)
        if article == "a" and words[0][0] in "aeiou":
            article = "an"
        return " ".join([article, *words])


def descriptions(thing: Thing, without: str = "") -> list[Description]:
    """Every description of ``thing``, the shortest first; none uses the attribute ``without``."""
    names = [name for name in ATTRIBUTES if name != without and getattr(thing, name) is not None]
    return [Description.of(thing, some) for size in range(1, len(names) + 1) for some in combinations(names, size)]


def single_out(rng: np.random.Generator, thing: Thing, things: Sequence[Thing]) -> Description | None:
    """A shortest description, or one with a word too many, that fits nothing else; None if there is none."""
    fitting = [d for d in descriptions(thing) if sum(map(d.fits, things)) == 1]
    if not fitting:
        return None
    near = [d for d in fitting if len(d.attributes) <= len(fitting[0].attributes) + 1]
    weights = np.array([d.weight for d in near])
    return near[rng.choice(len(near), p=weights / weights.sum())]


def verb(rng: np.random.Generator, action: str) -> tuple[str, str]:
    """Finite form and participle of ``action``."""
    forms = VERBS[action]
    return forms[0] if len(forms) == 1 or rng.random() < _USUAL else forms[1]
