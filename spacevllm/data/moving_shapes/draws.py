"""Where chance comes from: the seed of every video, and how one value or one order is drawn.

Train videos draw from even seeds and test videos from odd ones, so the two never meet, whatever the base seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from spacevllm.data.moving_shapes.world import MovingShapesConfig

VIDEOS_PER_SEED = 1_000_000

T = TypeVar("T")


def scene_seed(seed: int, split: str, index: int) -> int:
    """Even for train, odd for test; raises ValueError on another split or an index outside its million."""
    if split not in ("train", "test") or not 0 <= index < VIDEOS_PER_SEED:
        raise ValueError(f"no video {split}/{index}: splits are train and test, indices end at {VIDEOS_PER_SEED}")
    return 2 * (seed * VIDEOS_PER_SEED + index) + (split == "test")


def scene_rng(config: MovingShapesConfig, split: str, index: int, *stream: int) -> np.random.Generator:
    """One independent stream: () the video, (1,) its questions, (2, k) its k-th image, (3, k) what is asked there,
    (4,) what is asked about and not there, (5,) what has several answers."""
    seed = np.random.SeedSequence(scene_seed(config.seed, split, index), spawn_key=stream)
    return np.random.Generator(np.random.PCG64(seed))


def pick(rng: np.random.Generator, values: Sequence[T]) -> T:
    """One of ``values``, as it is (``rng.choice`` would turn it into an array)."""
    return values[int(rng.integers(len(values)))]


def shuffled(rng: np.random.Generator, values: Sequence[T]) -> list[T]:
    """All ``values`` in random order."""
    return [values[i] for i in rng.permutation(len(values))]
