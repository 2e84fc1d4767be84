"""Millions of ids in a few bytes each."""

from __future__ import annotations

from collections.abc import Iterator, Set
from typing import Any

import numpy as np


class Ids(Set[str]):
    """A set of ids of 16 hex digits (``instance_id``); 8 bytes each, where a set of strings takes 130.

    Args:
        numbers: (N,) uint64; the ids, read as numbers.
    """

    def __init__(self, numbers: np.ndarray) -> None:
        self.numbers = np.sort(numbers.astype(np.uint64))  # (N,)

    def __contains__(self, name: Any) -> bool:
        try:
            number = np.uint64(int(name, 16))
        except (ValueError, OverflowError):
            return False
        place = int(np.searchsorted(self.numbers, number))
        return len(name) == 16 and place < len(self.numbers) and self.numbers[place] == number

    def __iter__(self) -> Iterator[str]:
        return (f"{number:016x}" for number in self.numbers.tolist())

    def __len__(self) -> int:
        return len(self.numbers)
