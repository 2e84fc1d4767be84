"""How long a worker works and how long it waits for what it works on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from spacevllm.span import Span
from spacevllm.video.errors import VideoError
from spacevllm.video.parts import ReadParts
from spacevllm.video.reader import SampledFrames


class Watch:
    """From the first ``starts`` on; what is before, is starting up."""

    def __init__(self) -> None:
        self._waited_s = self._busy_s = 0.0
        self._since: float | None = None

    def starts(self) -> None:
        """Work is there."""
        self._waited_s += self._lap()

    def stops(self) -> None:
        """The work is done."""
        self._busy_s += self._lap()

    def waiting(self, read: ReadParts) -> ReadParts:
        """``read``, whose time is waiting, in the midst of work."""

        def read_parts(parts: Sequence[Span]) -> Iterator[SampledFrames | VideoError]:
            clips = read(parts)
            while True:
                self.stops()
                clip = next(clips, None)
                self.starts()
                if clip is None:
                    return
                yield clip

        return read_parts

    def read(self) -> tuple[float, float]:
        """Seconds of work and of waiting since the last call."""
        busy_s, waited_s = self._busy_s, self._waited_s
        self._busy_s = self._waited_s = 0.0
        return busy_s, waited_s

    def _lap(self) -> float:
        before, self._since = self._since, time.perf_counter()
        return 0.0 if before is None else self._since - before
