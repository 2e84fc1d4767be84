"""Scenes at random: a pure function of (seed, split, index)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import NamedTuple

import numpy as np

from spacevllm.data.moving_shapes.draws import pick, scene_rng, shuffled
from spacevllm.data.moving_shapes.world import (
    COLOURS,
    DIRECTIONS,
    SHAPES,
    SIZES,
    STILL,
    TEXTURES,
    MovingShapesConfig,
    Phase,
    Scene,
    Thing,
)

_SLIVER = 10.0  # pixels of a thing that show in the first frame of "enters", so that it has a box there
_MARGIN = 1.0
_TRIES = 12
_AGAIN = 6  # how much rather a thing moves as it did before, where things do it twice
_CROWDED = 0.75  # centres closer than this share of the mean diameter


class Look(NamedTuple):
    shape: str
    colour: str
    size: str
    texture: str


def make_scene(config: MovingShapesConfig, split: str, index: int) -> Scene:
    """The scene of video ``index`` of ``split``; the same on every machine."""
    rng = scene_rng(config, split, index)
    things: list[Thing] = []
    for _ in range(rng.choice((2, 3, 4, 5), p=(0.12, 0.55, 0.3, 0.03))):
        things.append(_least_crowded(lambda: _thing(rng, config, _look(rng, things)), things))
    return Scene(config, split, index, _background(rng), tuple(things), config.num_frames)


def make_still(config: MovingShapesConfig, split: str, index: int, number: int) -> Scene:
    """The scene of still image ``number`` that goes with a video: one frame, nothing acts, everything has its size."""
    rng = scene_rng(config, split, index, 2, number)
    things: list[Thing] = []
    for _ in range(rng.integers(3, 5)):
        things.append(_least_crowded(lambda: _resting(rng, config, _look(rng, things)), things))
    return Scene(config, split, index, _background(rng), tuple(things), 1, number)


def _background(rng: np.random.Generator) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    top = rng.integers(20, 75, 3)
    bottom = np.clip(top + rng.integers(-18, 19, 3), 10, 85)
    return tuple(map(int, top)), tuple(map(int, bottom))  # type: ignore[return-value]


def _look(rng: np.random.Generator, others: Sequence[Thing]) -> Look:
    """Shape and colour are often another thing's: distractors."""
    look = [pick(rng, values) for values in (SHAPES, tuple(COLOURS), SIZES, TEXTURES)]
    if others:
        model = pick(rng, others)
        copied = rng.random(2) < 0.4
        look[0] = model.shape if copied[0] else look[0]
        look[1] = model.colour if copied[1] else look[1]
    return Look(*look)


def _diameter(rng: np.random.Generator, config: MovingShapesConfig, look: Look) -> float:
    return rng.uniform(*(config.small if look.size == "small" else config.large))


def _spot(rng: np.random.Generator, config: MovingShapesConfig, diameter: float) -> np.ndarray:
    reach = diameter / 2 + _MARGIN
    return np.array([rng.uniform(reach, config.width - reach), rng.uniform(reach, config.height - reach), diameter])


def _least_crowded(draw: Callable[[], Thing], others: Sequence[Thing]) -> Thing:
    """Draws until a thing can be told apart from the others and overlaps none heavily, or takes the best of some."""
    drawn = (draw() for _ in count())
    told_apart = (thing for thing in drawn if not any(_twins(thing, other) for other in others))

    def crowd(thing: Thing) -> int:
        return sum(_overlaps(thing, other) for other in others)

    best = next(told_apart)
    for _ in range(_TRIES):
        if crowd(best) == 0:
            break
        best = min(best, next(told_apart), key=crowd)
    return best


def _twins(a: Thing, b: Thing) -> bool:
    same = (a.shape, a.colour, a.texture) == (b.shape, b.colour, b.texture)
    return same and (a.size == b.size or None in (a.size, b.size))


def _overlaps(a: Thing, b: Thing) -> int:
    """Whole seconds in which the two overlap heavily; the first one counts most."""
    apart = np.hypot(*(a.knots - b.knots)[:, :2].T)
    close = apart < _CROWDED * (a.knots[:, 2] + b.knots[:, 2]) / 2  # never while one is away: NaN
    return int(close.sum() + 5 * close[0])


def _resting(rng: np.random.Generator, config: MovingShapesConfig, look: Look) -> Thing:
    return Thing(*look, (), np.array([_spot(rng, config, _diameter(rng, config, look))]))


def _thing(rng: np.random.Generator, config: MovingShapesConfig, look: Look) -> Thing:
    walk = _Walk(rng, config, _spot(rng, config, _diameter(rng, config, look)))
    if rng.random() < 0.15:
        walk.enter()
    while walk.now < config.seconds:
        walk.act()
    size = None if {"grows", "shrinks"} & {phase.action for phase in walk.phases} else look.size
    return Thing(look.shape, look.colour, size, look.texture, tuple(walk.phases), walk.knots)


class _Walk:
    """Writes one thing's phases and knots, second by second."""

    def __init__(self, rng: np.random.Generator, config: MovingShapesConfig, state: np.ndarray) -> None:
        self.rng, self.config, self.state, self.now = rng, config, state, 0
        self.phases: list[Phase] = []
        self.knots = np.full((config.seconds + 1, 3), np.nan)
        self.knots[0] = state

    def enter(self) -> None:
        """Comes in to ``state`` from the border behind it, after up to three seconds away."""
        heading = pick(self.rng, tuple(DIRECTIONS))
        begin = int(self.rng.integers(0, min(4, self.config.seconds - 2)))
        end = begin + int(self.rng.integers(2, 4))
        axis, sign, _ = self._ahead(heading)
        border = 0 if sign > 0 else (self.config.width, self.config.height)[axis]
        way = max(self.state[2] + self.rng.uniform(_MARGIN, 20), _SLIVER + self.config.min_speed * (end - begin))
        self.state[axis] = border + sign * (way - self.state[2] / 2)
        start = self.state.copy()
        start[axis] = border + sign * (_SLIVER - self.state[2] / 2)
        self.knots[:] = np.nan
        self.now, inside_state, self.state = begin, self.state, start
        self.knots[begin] = start
        self._append("enters", end - begin, inside_state, heading)

    def act(self) -> None:
        """The next phase: the first action in random order that there is time and room for."""
        left = self.config.seconds - self.now
        paused = bool(self.phases) and self.phases[-1].action == STILL
        if left == 1 or (self.phases and not paused and self.rng.random() < 0.15):
            return self._append(STILL, 1, self.state)
        twice = self.config.several_per_video > 0  # things do it again; else whoever asks for an event means one time
        length = min(pick(self.rng, (2, 2, 2, 3) if twice else (2, 3, 3, 4, 4)), left)
        done = {phase.action for phase in (self.phases[-1:] if twice else self.phases)}
        again = [phase.action for phase in self.phases[:-1] if twice and phase.action in DIRECTIONS] * _AGAIN
        actions = [*DIRECTIONS, "grows", "grows", "shrinks", "leaves", *([] if paused else [STILL]), *again]
        for action in shuffled(self.rng, actions):
            if action not in done and self._try(action, length):
                return None
        return self._append(STILL, length, self.state)

    def _try(self, action: str, length: int) -> bool:
        if action == STILL:
            self._append(STILL, length, self.state)
            return True
        if action in ("grows", "shrinks"):
            return length < 4 and self._scale(action, length)
        heading = pick(self.rng, tuple(DIRECTIONS)) if action == "leaves" else action
        if self.phases and self.phases[-1].shows(heading):
            return False  # one movement, not two: nobody could see where the first one ends
        if action == "leaves":
            return self.now >= 2 and self.rng.random() < 0.8 and self._leave(heading, length)
        return self._move(heading, length)

    def _move(self, heading: str, length: int) -> bool:
        axis, sign, room = self._ahead(heading)
        fastest = min(self.config.max_speed, room / length)
        if fastest < self.config.min_speed:
            return False
        target = self.state.copy()
        target[axis] += sign * length * self.rng.uniform(self.config.min_speed, fastest)
        self._append(heading, length, target)
        return True

    def _scale(self, action: str, length: int) -> bool:
        factor = self.config.growth * self.rng.uniform(0.95, 1.05)
        target = self.state.copy()
        target[2] *= factor if action == "grows" else 1 / factor
        reach = target[2] / 2 + _MARGIN
        far = np.array([self.config.width, self.config.height]) - reach
        fits = (target[:2] >= reach).all() and (target[:2] <= far).all()
        if not fits or not 0.9 * self.config.small[0] <= target[2] <= 1.15 * self.config.large[1]:
            return False
        self._append(action, length, target)
        return True

    def _leave(self, heading: str, length: int) -> bool:
        axis, sign, room = self._ahead(heading)
        way = room + _MARGIN + self.state[2]
        if not self.config.min_speed <= way / length <= 1.4 * self.config.max_speed:
            return False
        target = self.state.copy()
        target[axis] += sign * way
        self._append("leaves", length, target, heading)
        self.now = self.config.seconds  # away until the end
        return True

    def _ahead(self, heading: str) -> tuple[int, int, float]:
        """Axis, sign, and the pixels between the thing and the border it is heading for."""
        axis = 0 if DIRECTIONS[heading][0] else 1
        sign = DIRECTIONS[heading][axis]
        near = self.state[axis] - self.state[2] / 2
        far = (self.config.width, self.config.height)[axis] - self.state[axis] - self.state[2] / 2
        return axis, sign, float(near if sign < 0 else far) - _MARGIN

    def _append(self, action: str, length: int, target: np.ndarray, heading: str = "") -> None:
        begin, end = self.now, self.now + length
        self.knots[begin : end + 1] = np.linspace(self.state, target, length + 1)
        if self.phases and self.phases[-1].action == action == STILL:
            begin = self.phases.pop().begin_s
        self.phases.append(Phase(action, begin, end, heading))
        self.now, self.state = end, target
