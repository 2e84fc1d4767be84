"""The world of Moving Shapes: what a scene is, and where everything is at every frame.

A thing's life is a list of phases on the grid of whole seconds and one knot (centre x, centre y, diameter) a second.
Between knots everything is linear, so the truth of every frame, box and question follows from the knots alone.
Pixels are continuous: pixel i covers [i, i + 1); every shape's box is as wide and as high as its diameter.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from pydantic import Field, model_validator

from spacevllm.config import Config

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (225, 40, 40),
    "green": (40, 175, 70),
    "blue": (45, 90, 235),
    "yellow": (245, 225, 50),
    "purple": (165, 60, 210),
    "orange": (250, 135, 25),
}
SIZES = ("small", "large")
TEXTURES = ("plain", "striped")
DIRECTIONS = {"moves left": (-1, 0), "moves right": (1, 0), "moves up": (0, -1), "moves down": (0, 1)}
STILL = "stands still"
ACTIONS = (*DIRECTIONS, "grows", "shrinks", STILL, "enters", "leaves")

_TURN = np.arange(64) * np.pi / 32
OUTLINES: dict[str, np.ndarray] = {  # convex polygons in the unit box around 0: what is drawn and what is measured
    "circle": 0.5 * np.stack([np.cos(_TURN), np.sin(_TURN)], axis=-1),
    "square": np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)]),
    "triangle": np.array([(0, -0.5), (0.5, 0.5), (-0.5, 0.5)]),
    "diamond": np.array([(0, -0.5), (0.5, 0), (0, 0.5), (-0.5, 0)]),
}
SHAPES = tuple(OUTLINES)


class MovingShapesConfig(Config):
    """The world's size and how much is asked about it. Pixels, seconds, pixels per second."""

    seed: int = Field(default=0, ge=0)
    width: int = Field(default=160, ge=120, multiple_of=2)
    height: int = Field(default=120, ge=120, multiple_of=2)
    fps: int = Field(default=8, ge=1)
    num_frames: int = Field(default=57, description="whole seconds plus one frame: 8 uniform frames hit the seconds")
    small: tuple[float, float] = (30, 36)
    large: tuple[float, float] = (50, 60)
    min_speed: float = 16
    max_speed: float = 32
    growth: float = 1.7
    min_visible: float = Field(default=0.5, description="least mean visible share of what is asked for")
    stvg_per_video: int = Field(default=9, ge=0)
    vtg_per_video: int = Field(default=2, ge=0)
    absent_per_video: int = Field(default=0, ge=0, description="stvg questions about what does not occur")
    several_per_video: int = Field(default=0, ge=0, description="stvg with several right answers; things do it twice")
    qa_per_video: int = Field(default=2, ge=0)
    images_per_video: int = Field(default=1, ge=0)
    rec_per_image: int = Field(default=5, ge=0)
    interrogative_share: float = Field(default=0.12, ge=0, le=1)
    shared_description_share: float = Field(default=0.15, ge=0, le=1, description="descriptions that fit two things")

    @model_validator(mode="after")
    def _whole_seconds(self) -> MovingShapesConfig:
        if (self.num_frames - 1) % self.fps or self.seconds < 4:
            raise ValueError(f"num_frames must be 1 + fps * a whole number of seconds >= 4, not {self.num_frames}")
        return self

    @property
    def seconds(self) -> int:
        """The grid ends here: the time of the last frame."""
        return (self.num_frames - 1) // self.fps


@dataclass(frozen=True)
class Phase:
    """A thing does ``action`` in the whole seconds ``[begin_s, end_s)``; ``heading``: which way it enters or leaves."""

    action: str
    begin_s: int
    end_s: int
    heading: str = ""

    def shows(self, action: str) -> bool:
        """Whether a viewer would say ``action``: what enters from the right also moves left."""
        return action in (self.action, self.heading)


@dataclass(frozen=True, eq=False)
class Thing:
    """``size`` is None if it grows or shrinks; ``knots``: (seconds + 1, 3) x, y, diameter; NaN while it is away."""

    shape: str
    colour: str
    size: str | None
    texture: str
    phases: tuple[Phase, ...]
    knots: np.ndarray

    def periods(self, action: str) -> list[tuple[int, int]]:
        """Maximal ``[begin_s, end_s)`` in which it is seen to do ``action``, in order."""
        found: list[tuple[int, int]] = []
        for phase in self.phases:
            if not phase.shows(action):
                continue
            if found and found[-1][1] == phase.begin_s:
                found[-1] = (found[-1][0], phase.end_s)
            else:
                found.append((phase.begin_s, phase.end_s))
        return found


@dataclass(frozen=True, eq=False)
class Scene:
    """One video (or, with ``num_frames == 1``, one image). ``things`` from the back to the front."""

    config: MovingShapesConfig
    split: str
    index: int
    background: tuple[tuple[int, int, int], tuple[int, int, int]]  # RGB at the top and at the bottom
    things: tuple[Thing, ...]
    num_frames: int
    number: int = 0  # of the image among those that go with the video

    @cached_property
    def states(self) -> np.ndarray:
        """(things, frames, 3) float64: x, y, diameter in pixels; NaN while it is away."""
        knots = np.stack([thing.knots for thing in self.things])  # (N, S + 1, 3)
        second, part = np.divmod(np.arange(self.num_frames), self.config.fps)
        weight = (part / self.config.fps)[None, :, None]
        after = knots[:, np.minimum(second + 1, knots.shape[1] - 1)]
        return np.where(weight == 0, knots[:, second], knots[:, second] * (1 - weight) + after * weight)

    @cached_property
    def boxes(self) -> np.ndarray:
        """(things, frames, 4) float64: xyxy of what the canvas shows of it; NaN where that is nothing."""
        x, y, d = np.moveaxis(self.states, -1, 0)
        boxes = np.stack([x - d / 2, y - d / 2, x + d / 2, y + d / 2], axis=-1)  # (N, F, 4)
        width, height = self.config.width, self.config.height
        outside = (boxes[..., :2] < 0).any(-1) | (boxes[..., 2] > width) | (boxes[..., 3] > height)
        for n, frame in np.argwhere(outside):
            boxes[n, frame] = _clipped_box(self.things[n].shape, self.states[n, frame], width, height)
        return boxes

    @cached_property
    def visible(self) -> np.ndarray:
        """(things, frames) share in [0, 1] of a thing's part on the canvas that nothing in front hides (estimated)."""
        return np.stack([self._visible(n) for n in range(len(self.things))])

    def state_at(self, frame: int) -> list[tuple[Thing, np.ndarray]]:
        """What is on the canvas at ``frame``: (thing, (4,) xyxy pixels), from the back to the front."""
        boxes = self.boxes[:, frame]
        return [(thing, box) for thing, box in zip(self.things, boxes, strict=True) if np.isfinite(box[0])]

    def _visible(self, n: int) -> np.ndarray:
        grid = (np.arange(12) + 0.5) / 12 - 0.5
        points = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2)
        points = points[inside(self.things[n].shape, points)]  # (P, 2)
        spots = self.states[n, :, None, :2] + points * self.states[n, :, None, 2:]  # (F, P, 2)
        shown = ((spots > 0) & (spots < (self.config.width, self.config.height))).all(-1)  # (F, P)
        free = shown.copy()
        for other in range(n + 1, len(self.things)):
            state = self.states[other, :, None]  # (F, 1, 3)
            free &= ~inside(self.things[other].shape, (spots - state[..., :2]) / state[..., 2:])
        share = np.where(shown.any(-1), free.sum(-1) / np.maximum(shown.sum(-1), 1), 1.0)  # no point lies in a sliver
        return np.where(np.isfinite(self.boxes[n, :, 0]), share, 0.0)


def inside(shape: str, points: np.ndarray) -> np.ndarray:
    """(...) bool: which (..., 2) points of the unit box around 0 lie in ``shape``; NaN lies nowhere."""
    x, y = points[..., 0], points[..., 1]
    box = np.maximum(np.abs(x), np.abs(y)) <= 0.5
    match shape:
        case "circle":
            return x * x + y * y <= 0.25
        case "diamond":
            return np.abs(x) + np.abs(y) <= 0.5
        case "triangle":
            return box & (2 * np.abs(x) <= y + 0.5)
        case _:
            return box


def _clipped_box(shape: str, state: np.ndarray, width: int, height: int) -> np.ndarray:
    """(4,) xyxy of the part of ``shape`` on the canvas; NaN if it is under a pixel wide or high."""
    polygon = OUTLINES[shape] * state[2] + state[:2]  # (K, 2)
    for axis, limit, sign in ((0, 0, 1), (0, width, -1), (1, 0, 1), (1, height, -1)):
        depth = sign * (polygon[:, axis] - limit)
        if depth.max() <= 0:
            return np.full(4, np.nan)
        if depth.min() < 0:
            polygon = _cut(polygon, depth)
    low, high = np.maximum(polygon.min(0), 0), np.minimum(polygon.max(0), (width, height))
    return np.concatenate([low, high]) if (high - low >= 1).all() else np.full(4, np.nan)


def _cut(polygon: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """The part of a convex ``polygon`` with ``depth`` >= 0 (Sutherland & Hodgman 1974, one half-plane)."""
    following, deeper = np.roll(polygon, -1, axis=0), np.roll(depth, -1)
    crosses = depth * deeper < 0
    share = (depth / np.where(crosses, depth - deeper, 1))[:, None]
    return np.insert(polygon, np.flatnonzero(crosses) + 1, (polygon + share * (following - polygon))[crosses], axis=0)[
        np.insert(depth, np.flatnonzero(crosses) + 1, 0) >= 0
    ]
