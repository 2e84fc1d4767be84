"""Answer: the tubes of one question about one video. Mostly one; several where it happens twice, or of several things.

Two spans of one thing are two tubes of the same track, two things are two tracks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

import numpy as np

from spacevllm.span import Span
from spacevllm.tube import Tube

if TYPE_CHECKING:
    from spacevllm.video.overlay import Mark

T = TypeVar("T")

OF_A_TUBE = ("track", "begin_s", "end_s", "begin_frame", "end_frame", "confidence", "boxes")  # the rest all share


class _OfBest(Generic[T]):
    """An attribute of the best tube, under the same name."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, answer: Answer, owner: type | None = None) -> T:
        value: T = getattr(answer.best, self.name)
        return value


class Answer(Sequence[Tube]):
    """The tubes of one question, the surest first; never empty, never changed. Whatever is asked of a single tube is
    answered by the best one: ``answer.begin_s``, ``answer.box_at(3.2)``.

    Args:
        tubes: at least one, in order of rank of equal confidence. Tracks are numbered anew, from the best one's 0.

    Raises:
        ValueError: there is none; a question that got no span keeps its one tube without.
    """

    video, question, answer = _OfBest[str](), _OfBest[str](), _OfBest[str]()
    span = _OfBest[Span | None]()
    begin_s, end_s = _OfBest[float | None](), _OfBest[float | None]()
    begin_frame, end_frame = _OfBest[int](), _OfBest[int]()
    boxes, times_s = _OfBest[np.ndarray](), _OfBest[np.ndarray]()
    sampled_frames, sampled_boxes = _OfBest[np.ndarray](), _OfBest[np.ndarray]()
    fps, duration_s, confidence = _OfBest[float](), _OfBest[float](), _OfBest[float]()
    num_frames, width, height = _OfBest[int](), _OfBest[int](), _OfBest[int]()
    windows, windows_unread = _OfBest[int](), _OfBest[int]()
    present, says_absent = _OfBest[bool](), _OfBest[bool]()

    def __init__(self, tubes: Iterable[Tube]) -> None:
        ranked = sorted(tubes, key=lambda tube: -tube.confidence)
        if not ranked:
            raise ValueError("an answer needs at least one tube")
        numbers = {track: n for n, track in enumerate(dict.fromkeys(tube.track for tube in ranked))}
        self._tubes = tuple(replace(t, track=numbers[t.track]) if t.track != numbers[t.track] else t for t in ranked)

    @overload
    def __getitem__(self, index: int) -> Tube: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Tube]: ...
    def __getitem__(self, index: int | slice) -> Tube | Sequence[Tube]:
        return self._tubes[index]

    def __len__(self) -> int:
        return len(self._tubes)

    def __repr__(self) -> str:
        return f"Answer({list(self._tubes)!r})"

    @property
    def best(self) -> Tube:
        return self._tubes[0]

    def box_at(self, time_s: float) -> np.ndarray | None:
        """See ``Tube.box_at``; of the best tube."""
        return self.best.box_at(time_s)

    def tracks(self) -> list[list[Tube]]:
        """The tubes of each thing, in order of time; the best tube's thing first."""
        found: dict[int, list[Tube]] = {}
        for tube in self:
            found.setdefault(tube.track, []).append(tube)
        return [sorted(tubes, key=lambda tube: tube.begin_frame) for tubes in found.values()]

    def of_video(self, name: str) -> Answer:
        """The same answer about a video that is called otherwise."""
        return Answer(replace(tube, video=name) for tube in self)

    def draw(self, out: str | Path) -> Path:
        """Writes the video with all boxes and a timeline under the picture to ``out`` (MP4), one colour a track."""
        from spacevllm.video.overlay import COLOURS, draw_guarded  # drawing is optional for whoever only reads numbers

        return draw_guarded(self.video, self.marks(COLOURS), out)

    def marks(self, colours: Sequence[str]) -> list[Mark]:
        """The answer as things to draw, one a track; colours: ``#rrggbb``, taken in turn."""
        return [_mark(tubes, n, colours[n % len(colours)]) for n, tubes in enumerate(self.tracks())]

    def to_dict(self) -> dict[str, Any]:
        """``Tube.to_dict`` of the best tube; where there are several, ``more`` lists the others: ``OF_A_TUBE``."""
        more = [further_dict(tube.to_dict() | {"track": tube.track}) for tube in self[1:]]
        return self.best.to_dict() | ({"more": more} if more else {})

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Answer:
        """The inverse of ``to_dict``; a tube's alone will do, too."""
        best = Tube.from_dict(row)
        shared = {key: value for key, value in row.items() if key not in ("more", "times_s")}
        return cls([best, *(Tube.from_dict(shared | further) for further in row.get("more") or ())])


def further_dict(tube: Mapping[str, Any]) -> dict[str, Any]:
    """What is a tube's own, of its whole dict; ``times_s`` only if uneven."""
    return {key: tube[key] for key in (*OF_A_TUBE, "times_s") if key in tube}


def _mark(tubes: Sequence[Tube], number: int, colour: str) -> Mark:
    """One track: the question once, its times one after the other."""
    first, *others = (tube.mark(colour) for tube in tubes)
    text = f"{first.text} ({number + 1})" if number else first.text
    detail = "; ".join([first.detail, *(other.detail for other in others)])
    return replace(first, text=text, detail=detail, more=tuple(others))
