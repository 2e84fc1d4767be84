"""The two pieces of a row: the prefix (a video or image) and the segments behind it (a question with its answer)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np


class Kind(IntEnum):
    """What a position of a row holds."""

    TEXT = 0
    CELL = 1  # a visual token
    SEPARATOR = 2  # a learned vector between cells (LLaVA's newline)
    QUERY = 3


@dataclass
class Prefix:
    """A video or image as tokens.

    Attributes:
        ids, kinds: one entry a position; ids are read at ``Kind.TEXT`` alone. query_ids: one entry a query position.
        grid: rows and columns of the cells of a frame; all frames have the same.
        caption: half-open range of the caption, where it stands before the video.
    """

    ids: list[int] = field(default_factory=list)
    kinds: list[int] = field(default_factory=list)
    query_ids: list[int] = field(default_factory=list)
    grid: tuple[int, int] = (0, 0)
    caption: tuple[int, int] | None = None

    def add_text(self, ids: Sequence[int]) -> None:
        self.ids += ids
        self.kinds += [Kind.TEXT] * len(ids)

    def add(self, kind: Kind, count: int = 1) -> None:
        self.ids += [0] * count
        self.kinds += [kind] * count

    def add_queries(self, query_ids: Sequence[int]) -> None:
        self.add(Kind.QUERY, len(query_ids))
        self.query_ids += query_ids

    def visual_index(self, frames: int) -> np.ndarray:
        """(T, P) positions of the cells, frame by frame, row by row; (0, 0) for text."""
        cells = np.flatnonzero(np.array(self.kinds) == Kind.CELL)
        return cells.reshape(frames, -1 if frames else 0)

    def query_index(self) -> np.ndarray:
        """(T,) positions of the queries; (0,) without any."""
        return np.flatnonzero(np.array(self.kinds) == Kind.QUERY)


@dataclass
class Segment:
    """A question and, in training, its answer.

    Attributes:
        ids: tokens. answer_start: index of the answer's first token (== len(ids) without an answer).
        caption: half-open token range of the caption; None where it stands in the prefix.
        numbers: indices of the first token of the two times of the answer's first span. time_tokens: of all tokens of
            all its times.
    """

    ids: list[int]
    answer_start: int
    caption: tuple[int, int] | None
    numbers: list[int] = field(default_factory=list)
    time_tokens: list[int] = field(default_factory=list)
