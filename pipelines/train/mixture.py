"""Which source every clip of a mixture comes from: exact in each block, and known from seed and step alone.

A block of N clips holds of each source its share of N, rounded by the largest remainder; only their order is drawn.
All workers follow the same order, so in every step they hold equally many clips of the same sources: none waits.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from fractions import Fraction


def block_counts(weights: Mapping[str, float], size: int) -> dict[str, int]:
    """How many clips of a block of ``size`` each source gives; of equal remainders the first is rounded up."""
    exact = {name: Fraction(str(weight)) for name, weight in weights.items()}  # 0.1 is a tenth
    whole = sum(exact.values())
    shares = {name: size * weight / whole for name, weight in exact.items()}
    counts = {name: int(share) for name, share in shares.items()}
    by_remainder = sorted(shares, key=lambda name: counts[name] - shares[name])
    for name in by_remainder[: size - sum(counts.values())]:
        counts[name] += 1
    return counts


def block(weights: Mapping[str, float], size: int, seed: object, number: int) -> list[str]:
    """The sources of block ``number``, clip by clip."""
    order = [name for name, count in block_counts(weights, size).items() for _ in range(count)]
    random.Random(f"{seed}/{number}").shuffle(order)
    return order


def draw(weights: Mapping[str, float], size: int, seed: object, first: int, count: int) -> dict[str, int]:
    """How many of the ``count`` clips from the ``first`` one on come from each source; those that give none are left
    out, the others are in the order of ``weights``.

    Args:
        size: of a block.
    """
    numbers = range(first // size, (first + count - 1) // size + 1)
    clips = [name for number in numbers for name in block(weights, size, seed, number)]
    begin = first - numbers.start * size
    found = Counter(clips[begin : begin + count])
    return {name: found[name] for name in weights if found[name]}
