"""Starts the service, keeps it until SIGTERM or SIGINT, and takes it down again."""

from __future__ import annotations

import logging
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pipelines.core.cluster import ray_session
from pipelines.core.models import pinned
from pipelines.serve.config import Replicas, ServeConfig, check_access
from spacevllm.config import ConfigError

APP_NAME = "spacevllm"
FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"  # the Prometheus client's own name
HEADROOM = 64  # requests that are answered at once: the page, health checks, refusals
ROUTER = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"


def run(config: ServeConfig, ready: Callable[[str], None] | None = None) -> dict[str, Any]:
    """Serves until SIGTERM or SIGINT.

    Args:
        config: the server.
        ready: called once with the address, when requests are answered.

    Returns:
        The address it had, ``{"url": …}``.

    Raises:
        ConfigError: the port is taken, or a server open to others has no key.
    """
    check_access(config)
    check_port(config.host, config.port)
    config = config.model_copy(update={"model": pinned(config.model)})  # all copies, whenever they start, are one model
    stop = threading.Event()
    # Ray installs handlers of its own when it starts: ours come after
    with ray_session(None), on_signals(stop), service(config) as url:
        if ready and not stop.is_set():
            ready(url)
        stop.wait()
    return {"url": url}


@contextmanager
def service(config: ServeConfig) -> Iterator[str]:
    """The running service in an open Ray session; yields its address. At the end it answers what is in work."""
    from ray import serve  # half a second that --dry-run need not wait for

    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # the command tells itself when it is ready
    with tempfile.TemporaryDirectory(prefix="spacevllm-serve-", ignore_cleanup_errors=True) as folder:
        serve.start(http_options={"host": config.host, "port": config.port})
        try:
            serve.run(_application(config, Path(folder)), name=APP_NAME, route_prefix="/")
            yield f"http://{config.host}:{config.port}"
        finally:
            with suppress(Exception):  # a start that failed has nothing to delete
                serve.delete(APP_NAME)
            serve.shutdown()


def _application(config: ServeConfig, folder: Path) -> Any:
    """Ingress and model as Serve takes them; ``folder`` is this server's own, gone when it ends."""
    from pipelines.serve.ingress import Ingress
    from pipelines.serve.model import GroundModel

    (folder / "metrics").mkdir()
    waiting = config.max_requests * config.ingress.max  # the ingress says 429 itself
    environment = {"env_vars": {FOLDER_VARIABLE: str(folder / "metrics")}}
    shared = {"graceful_shutdown_timeout_s": config.shutdown_s, "graceful_shutdown_wait_loop_s": 0.2}
    model = GroundModel.options(  # type: ignore[attr-defined]
        **_copies(config.replicas),
        **shared,
        max_ongoing_requests=waiting + HEADROOM,  # or a health check waits until a question is answered
        ray_actor_options={"num_cpus": 1, "num_gpus": config.num_gpus, "runtime_env": environment},
        **_routing(config.replicas),
    ).bind(config)
    ingress = Ingress.options(  # type: ignore[attr-defined]
        **_copies(config.ingress),
        **shared,
        max_ongoing_requests=config.max_requests + HEADROOM,
        ray_actor_options={"num_cpus": 1, "runtime_env": environment},
    )
    return ingress.bind(config, model, config.store or str(folder / "videos"))


def _copies(replicas: Replicas) -> dict[str, Any]:
    if replicas.min == replicas.max:
        return {"num_replicas": replicas.min}
    scaling = {
        "min_replicas": replicas.min,
        "max_replicas": replicas.max,
        "target_ongoing_requests": replicas.target_ongoing_requests,
    }
    return {"autoscaling_config": scaling}


def _routing(replicas: Replicas) -> dict[str, Any]:
    """With several copies, a video's questions go to the copy that remembers it."""
    from ray.serve.config import RequestRouterConfig

    if replicas.max == 1:
        return {}
    return {"request_router_config": RequestRouterConfig(request_router_class=ROUTER)}  # type: ignore[arg-type]


def check_port(host: str, port: int) -> None:
    """Raises ConfigError when nothing can listen there: better now than after the model is loaded."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}; choose another --port") from None


@contextmanager
def on_signals(stop: threading.Event) -> Iterator[None]:
    """SIGTERM and SIGINT set ``stop`` inside the context instead of ending the process."""
    kinds = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(kind, lambda *_: stop.set()) for kind in kinds]
    try:
        yield
    finally:
        for kind, handler in zip(kinds, before, strict=True):
            signal.signal(kind, handler)
