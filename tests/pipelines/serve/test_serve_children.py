"""Decoders and drawers whose reader has left: the real threads."""

from __future__ import annotations

import asyncio
import threading

import pytest

from pipelines.serve.children import Children
from spacevllm.video.guard import GuardedSampler


@pytest.fixture
def children():
    opened = Children("test", 2, lambda: GuardedSampler(60.0))
    yield opened
    opened.close()


async def hang_up(children, started, end):
    """Starts work that lasts until ``end``, and leaves it once it has begun."""

    def work(child):
        started.release()
        end.wait()
        return child

    task = asyncio.create_task(children.run(work))
    await asyncio.to_thread(started.acquire)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_child_at_work_is_free_only_when_its_work_is_over(children):
    started, end = threading.Semaphore(0), threading.Event()

    async def run():
        await hang_up(children, started, end)
        others = [await children.run(lambda child: child) for _ in range(6)]
        assert len(set(others)) == 1  # never the one whose work goes on
        await hang_up(children, started, end)
        waiting = asyncio.create_task(children.run(lambda child: child))
        left = asyncio.create_task(children.run(lambda _: pytest.fail("nobody waited for it")))
        assert await asyncio.to_thread(lambda: 7) == 7  # asyncio's own threads are all free
        left.cancel()
        assert not waiting.done()
        end.set()
        assert await waiting
        both = threading.Barrier(2, timeout=60)
        await asyncio.gather(*(children.run(lambda _: both.wait()) for _ in range(2)))  # free again

    asyncio.run(run())
