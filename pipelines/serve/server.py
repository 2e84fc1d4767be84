"""Starts the service, keeps it until SIGTERM or SIGINT, and takes it down again."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pipelines.cluster import ray_session
from pipelines.serve.config import ServeConfig
from spacevllm.config import ConfigError

APP_NAME = "spacevllm"


def run(config: ServeConfig, ready: Callable[[str], None] | None = None) -> dict[str, Any]:
    """Serves until SIGTERM or SIGINT.

    Args:
        config: the server.
        ready: called once with the address, when requests are answered.

    Returns:
        The address it had, ``{"url": …}``.

    Raises:
        ConfigError: the port is taken.
    """
    check_port(config.host, config.port)
    stop = threading.Event()
    # Ray installs handlers of its own when it starts: ours come after
    with ray_session(None), _on_signals(stop), service(config) as url:
        if ready and not stop.is_set():
            ready(url)
        stop.wait()
    return {"url": url}


@contextmanager
def service(config: ServeConfig) -> Iterator[str]:
    """The running service in an open Ray session; yields its address, shuts it down at the end."""
    from ray import serve  # half a second that --dry-run need not wait for

    from pipelines.serve.app import GroundService

    deployment = GroundService.options(  # type: ignore[attr-defined]
        max_ongoing_requests=config.max_ongoing_requests, max_queued_requests=config.max_queued_requests
    )
    serve.start(http_options={"host": config.host, "port": config.port})
    try:
        serve.run(deployment.bind(config), name=APP_NAME, route_prefix="/")
        yield f"http://{config.host}:{config.port}"
    finally:
        serve.shutdown()


def check_port(host: str, port: int) -> None:
    """Raises ConfigError when nothing can listen there: better now than after the model is loaded."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}; choose another --port") from None


@contextmanager
def _on_signals(stop: threading.Event) -> Iterator[None]:
    """SIGTERM and SIGINT set ``stop`` inside the context instead of ending the process."""
    kinds = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(kind, lambda *_: stop.set()) for kind in kinds]
    try:
        yield
    finally:
        for kind, handler in zip(kinds, before, strict=True):
            signal.signal(kind, handler)
