"""Server-sent events: how far a request has come, then its answer or its problem."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from fastapi.responses import StreamingResponse

from pipelines.serve.answers import compact
from pipelines.serve.problems import Problem, bug
from spacevllm.tube import Tube
from spacevllm.windows import Walked

log = logging.getLogger(__name__)

HEARTBEAT_S = 10.0  # a line that says nothing keeps proxies from closing the connection
HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}  # the second is nginx's: pass each event on at once
DESCRIPTION = (
    "with `stream`: events `progress` (`done` of `total` windows, `best` answer so far a question), "
    "then one `result` (the JSON answer) or `problem` (a problem document)"
)

Work = Callable[[Callable[[Walked], None]], Awaitable[str]]


def stream(work: Work, ended: Callable[[], None]) -> StreamingResponse:
    """Starts ``work`` and sends what it tells, then what it returns or raises. A client that leaves ends it.

    Args:
        work: is given a function to tell with, which may be called from any thread; returns compact JSON.
        ended: called when the work is over, however it ended.
    """
    events: asyncio.Queue[str | None] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def send(text: str | None) -> None:  # all by one way, so that they arrive in order
        loop.call_soon_threadsafe(events.put_nowait, text)

    def tell(walked: Walked) -> None:
        send(event("progress", compact(_progress(walked))))

    async def run() -> None:
        try:
            send(event("result", await work(tell)))
        except Problem as problem:
            send(event("problem", compact(problem.document())))
        except Exception as error:
            log.exception("a streamed request failed")
            send(event("problem", compact(bug(error).document())))
        send(None)

    task = asyncio.create_task(run())
    task.add_done_callback(lambda _: ended())
    return StreamingResponse(_sent(events, task), media_type="text/event-stream", headers=HEADERS)


async def _sent(events: asyncio.Queue[str | None], task: asyncio.Task[None]) -> AsyncIterator[str]:
    try:
        while True:
            try:
                async with asyncio.timeout(HEARTBEAT_S):
                    text = await events.get()
            except TimeoutError:
                text = ":\n\n"
            if text is None:
                return
            yield text
    finally:
        task.cancel()


def event(name: str, data: str) -> str:
    """One event on the wire; ``data`` is of one line."""
    return f"event: {name}\ndata: {data}\n\n"


def _progress(walked: Walked) -> dict[str, Any]:
    return {"done": walked.done, "total": walked.total, "best": [_brief(tube) for tube in walked.best]}


def _brief(tube: Tube | None) -> dict[str, Any] | None:
    if tube is None:
        return None
    return {name: getattr(tube, name) for name in ("question", "begin_s", "end_s", "confidence")}
