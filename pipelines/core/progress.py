"""One progress line per stage: a live bar on a terminal, a plain line every few seconds in a log."""

from __future__ import annotations

import sys
import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from pipelines.core.tracking import Run
from spacevllm.text import printable

LINE_EVERY_S = 5.0
POINT_EVERY_S = 1.0


class Progress:
    """``with Progress("decode", total, "videos", run) as progress: progress.advance(8, failed=1)``

    Also draws the run's curves: ``<unit>_done``, ``<unit>_failed`` and ``<unit>_per_s`` over the count done.
    """

    def __init__(self, stage: str, total: int, unit: str, run: Run | None = None) -> None:
        self.stage, self.total, self.unit, self.run = stage, total, unit, run
        self.done = self.failed = 0
        self.note = ""
        self.started = time.monotonic()
        self._first: tuple[float, int] | None = None  # when something was done first, and how much
        self._last = self._last_line = self._last_point = self.started
        self._printed = -1
        self._bar: RichProgress | None = None
        self._console = Console(file=sys.stderr)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            columns = (TextColumn(f"{self.stage:<9}"), BarColumn(), MofNCompleteColumn())
            self._bar = RichProgress(*columns, TextColumn("{task.fields[note]}"), TimeRemainingColumn())
            self._bar.start()
            self._task = self._bar.add_task(self.stage, total=self.total, note=self.unit)
        elif self.total:
            self._console.print(f"{self.stage:<9} 0/{self.total} {self.unit}, starting", highlight=False)
        return self

    def advance(self, count: int, failed: int = 0) -> None:
        self.done += count
        self.failed += failed
        now = self._last = time.monotonic()
        self._first = self._first or (now, count)
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, note=self._note())
        elif now - self._last_line >= LINE_EVERY_S:
            self._print_line()
        if self.run is not None and now - self._last_point >= POINT_EVERY_S:
            self._log_point()

    @property
    def per_s(self) -> float:
        return self.done / max(time.monotonic() - self.started, 1e-9)

    @property
    def speed(self) -> dict[str, float | None]:
        """start_s: seconds until something was done: processes started, a model loaded. steady_per_s: units a second
        from then on, None where all was done at once; ``{}`` before."""
        if self._first is None:
            return {}
        when, count = self._first
        steady = (self.done - count) / (self._last - when) if self.done > count else None
        return {"start_s": round(when - self.started, 3), "steady_per_s": steady and round(steady, 3)}

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._printed != self.done:
            self._print_line()
        if self.run is not None and kind is None:
            self._log_point()

    def _note(self) -> str:
        parts = [
            f"{self.unit}, {self.per_s:.3g}/s",
            self.note,
            f"{self.failed} failed" if self.failed else "",
        ]
        return printable(", ".join(part for part in parts if part))

    def _print_line(self) -> None:
        self._last_line, self._printed = time.monotonic(), self.done
        self._console.print(f"{self.stage:<9} {self.done}/{self.total} {self._note()}", highlight=False)

    def _log_point(self) -> None:
        assert self.run is not None
        self._last_point = time.monotonic()
        values = {"done": self.done, "failed": self.failed, "per_s": self.per_s}
        self.run.log_metrics({f"{self.unit}_{name}": value for name, value in values.items()}, step=self.done)
