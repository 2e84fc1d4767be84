"""Server-sent events: how far a request has come, then its answer or its problem."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

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

STOPPED = Problem(503, "stopped", "the server gave the request up: ask again")

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

    def over(_: asyncio.Task[None]) -> None:
        ended()
        send(None)

    task = asyncio.create_task(run())
    task.add_done_callback(over)
    return _EventStream(events, task)


class _EventStream(StreamingResponse):
    """Sends events until there is None; when it is no longer sent, wherever it was, its work is cancelled."""

    def __init__(self, events: asyncio.Queue[str | None], task: asyncio.Task[None]) -> None:
        self.task = task
        super().__init__(_sent(events, task), media_type="text/event-stream", headers=HEADERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.task.cancel()


async def _sent(events: asyncio.Queue[str | None], task: asyncio.Task[None]) -> AsyncIterator[str]:
    while True:
        try:
            async with asyncio.timeout(HEARTBEAT_S):
                text = await events.get()
        except TimeoutError:
            text = ":\n\n"
        if text is None:
            break
        yield text
    if task.cancelled():  # not by the reader, who is still here
        yield event("problem", compact(STOPPED.document()))


def event(name: str, data: str) -> str:
    """One event on the wire; ``data`` is of one line."""
    return f"event: {name}\ndata: {data}\n\n"


def _progress(walked: Walked) -> dict[str, Any]:
    return {"done": walked.done, "total": walked.total, "best": [_brief(tube) for tube in walked.best]}


def _brief(tube: Tube | None) -> dict[str, Any] | None:
    if tube is None:
        return None
    return {name: getattr(tube, name) for name in ("question", "begin_s", "end_s", "confidence")}
