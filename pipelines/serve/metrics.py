"""What Prometheus is told. Counts of all copies on a machine meet in the folder PROMETHEUS_MULTIPROC_DIR."""

from __future__ import annotations

import atexit
import os
import time

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from starlette.types import ASGIApp, Message, Receive, Scope, Send

FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"  # the client's own name; it is read at import
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_FRAMES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)

if folder := os.environ.get(FOLDER_VARIABLE):
    os.makedirs(folder, exist_ok=True)  # other machines of a cluster do not have it yet

REQUESTS = Counter("spacevllm_requests", "Requests answered.", ["route", "status"])
REQUEST_SECONDS = Histogram("spacevllm_request_seconds", "From a request to its answer.", ["route"], buckets=_SECONDS)
IN_WORK = Gauge("spacevllm_requests_in_work", "Requests in work or in line.", multiprocess_mode="livesum")
PROBLEMS = Counter("spacevllm_problems", "Problem documents sent.", ["reason"])
DECODE_SECONDS = Histogram("spacevllm_decode_seconds", "Decoding of one video.", buckets=_SECONDS)
BATCH_REQUESTS = Histogram("spacevllm_batch_requests", "Requests in one batch of the model.", buckets=_FRAMES)
BATCH_FRAMES = Histogram("spacevllm_batch_frames", "Frames read in one batch of the model.", buckets=_FRAMES)
BATCH_SECONDS = Histogram("spacevllm_batch_seconds", "One batch of the model.", buckets=_SECONDS)
VIDEOS_READ = Counter("spacevllm_videos_read", "Videos that the model had to read.")
VIDEOS_REMEMBERED = Counter("spacevllm_videos_remembered", "Videos that the model knew already.")
MEMORY_BYTES = Gauge("spacevllm_memory_bytes", "Bytes of remembered videos.", ["place"], multiprocess_mode="livesum")

if folder:
    atexit.register(mark_process_dead, os.getpid(), folder)


def exposition() -> tuple[bytes, str]:
    """All metrics as text, and its content type."""
    registry = REGISTRY
    if os.environ.get(FOLDER_VARIABLE):
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
    return generate_latest(registry), CONTENT_TYPE_LATEST


class Measured:
    """ASGI layer that counts and times requests by route."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, start = 500, time.perf_counter()

        async def send_and_see(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self.app(scope, receive, send_and_see)
        finally:
            route = getattr(scope.get("route"), "path", "other")  # the template: what clients make up is no label
            REQUESTS.labels(route, status).inc()
            REQUEST_SECONDS.labels(route).observe(time.perf_counter() - start)
