"""Processes that can be killed, each for one video at a time, and the threads that wait for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import TypeVar

from spacevllm.video.guard import GuardedSampler

T = TypeVar("T")


class Children:
    """``count`` children. Their threads are not asyncio's own few, which everything else needs.

    Args:
        make: makes one.
    """

    def __init__(self, name: str, count: int, make: Callable[[], GuardedSampler]) -> None:
        self._threads = ThreadPoolExecutor(count, name)
        self._free: SimpleQueue[GuardedSampler] = SimpleQueue()
        for _ in range(count):
            self._free.put(make())

    async def run(self, work: Callable[[GuardedSampler], T]) -> T:
        """What ``work`` gives or raises with a child of its own; it blocks a thread.

        Cancelled before its turn, it never runs; later, it runs to its end, and only then its child is free again.
        """
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._with_child, work)

    def close(self) -> None:
        """Kills the children that are free; one at work dies with this process."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        while True:
            try:
                self._free.get_nowait().close()
            except Empty:
                return

    def _with_child(self, work: Callable[[GuardedSampler], T]) -> T:
        child = self._free.get()  # never waits: there are as many children as threads
        try:
            return work(child)
        finally:
            self._free.put(child)
