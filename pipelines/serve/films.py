"""A film is walked in a thread of its own, which decodes and asks through the event loop, as all other requests do.

So ``ground_film`` stays the one way to look at a film, and what it does between two windows can be stopped.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any, TypeVar

from spacevllm.answer import Answer
from spacevllm.span import Span
from spacevllm.video.reader import SampledFrames
from spacevllm.windows import Walked, ground_film, one_ahead

T = TypeVar("T")
Read = Callable[[Span], Coroutine[Any, Any, SampledFrames]]
Ask = Callable[[SampledFrames, Sequence[str]], Coroutine[Any, Any, list[Answer]]]
Tell = Callable[[Walked], None]


class FilmWalks:
    """Walks through films, at most ``count`` at once; not in asyncio's own threads, which decoding needs."""

    def __init__(self, count: int) -> None:
        self._threads = ThreadPoolExecutor(count, "film")

    async def ground(
        self, read: Read, ask: Ask, whole: Span, num_frames: int, questions: Sequence[str], tell: Tell
    ) -> list[Answer]:  # fmt: skip
        """``ground_film`` over coroutines; cancelled, it ends before the next window. ``tell`` is called in its thread.

        Raises:
            VideoError: no window can be read.
        """
        loop_side = _LoopSide(asyncio.get_running_loop())
        walk = asyncio.get_running_loop().run_in_executor(
            self._threads,
            lambda: ground_film(
                one_ahead(lambda part: loop_side.result(read(part))),
                lambda clip, asked: loop_side.result(ask(clip, asked)),
                whole,
                num_frames,
                questions,
                tell,
            ),
        )
        try:
            return await walk
        finally:
            loop_side.stop()

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


class _LoopSide:
    """Runs coroutines for a thread that waits for them."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._stopped = False
        self._waiting: set[Future[Any]] = set()

    def result(self, work: Coroutine[Any, Any, T]) -> T:
        """What ``work`` gives or raises; CancelledError once ``stop`` was called."""
        with self._lock:
            if self._stopped:
                work.close()
                raise CancelledError
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
            self._waiting.add(future)
        try:
            return future.result()
        finally:
            with self._lock:
                self._waiting.discard(future)

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            waiting = list(self._waiting)
        for future in waiting:
            future.cancel()
