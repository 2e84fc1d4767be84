"""What workers tell while they live, so that it is known what they died of; and the readers of films they share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pipelines.media.films import Reader

TRIES = 3  # of a video that kills its worker
FAULTS = 5  # of one machine, with no success between them


class Ledger:
    """One a run, an actor without a CPU. Keys name videos with their questions.

    Args:
        start_readers: of films, when the first is met; they end with this actor.
    """

    def __init__(self, start_readers: Callable[[], list[Reader]]) -> None:
        self._start_readers, self._readers = start_readers, list[Reader]()
        self._begun: Counter[str] = Counter()
        self._faults: Counter[str] = Counter()  # by machine, in a row
        self._all_faults: Counter[str] = Counter()
        self._lost = 0
        self._busy_s = self._waited_s = 0.0

    def readers(self) -> list[Reader]:
        self._readers = self._readers or self._start_readers()
        return self._readers

    def begin(self, key: str) -> int:
        """How often it was begun and never ended, this time included."""
        self._begun[key] += 1
        self._lost += self._begun[key] > 1
        return self._begun[key]

    def end(self, key: str) -> None:
        self._begun.pop(key, None)

    def wrote(self, machine: str) -> None:
        """The machine did a whole block."""
        self._faults.pop(machine, None)

    def fault(self, machine: str) -> int:
        """How often in a row the machine was at fault."""
        self._faults[machine] += 1
        self._all_faults[machine] += 1
        return self._faults[machine]

    def worked(self, busy_s: float, waited_s: float) -> None:
        """Of one worker, since it said so last."""
        self._busy_s += busy_s
        self._waited_s += waited_s

    def summary(self) -> dict[str, Any]:
        """``workers_lost``: how often a video was begun anew because its worker had died. ``machine_faults``: machine →
        how often. ``model_idle_share``: of the model's time, in which it waited for frames. Only what is not zero."""
        idle = self._waited_s / ((self._busy_s + self._waited_s) or 1.0)
        found = {
            "workers_lost": self._lost,
            "machine_faults": dict(self._all_faults),
            "model_idle_share": round(idle, 3),
        }
        return {name: value for name, value in found.items() if value}


@contextmanager
def open_ledger(start_readers: Callable[[], list[Reader]]) -> Iterator[Any]:
    """Handle of a new one, for the block. Where it is lost with its node, it counts from 0 again."""
    import ray

    ledger: Any = ray.remote(Ledger).options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote(start_readers)
    try:
        yield ledger
    finally:
        ray.kill(ledger)  # Ray Data keeps the handle as long as the session lives
