"""Ray, started in one place: quiet (unless SPACEVLLM_DEBUG is set), with the settings that small machines need."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

DEBUG_VARIABLE = "SPACEVLLM_DEBUG"  # set: what Ray logs, and what workers print, comes to the terminal
MIN_CPUS = 4  # Ray Data dead-locks when its consumers hold all CPUs, as they do on a two-core machine
ENVIRONMENT = {
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # workers under `uv run` hang otherwise
    "RAY_worker_register_timeout_seconds": "300",  # a machine that is busy with other things is slow, not broken
}
# Ray Data gives a run up when no block has moved for half an hour; one block may be eight films of two hours.
STALL_VARIABLE, STALL_S = "RAY_DATA_EXECUTION_NO_PROGRESS_TIMEOUT_S", 6 * 3600
NEVER = (
    -1.0
)  # a pool's utilisation at which it lets workers go: a model that waits is cheaper than one that loads again


def pool(workers: int, **options: Any) -> Any:
    """A Ray Data pool of so many workers from its start, which goes on with fewer when nodes are lost.

    A pool that may not shrink waits for ever for a worker that nothing is left to hold.

    Args:
        options: more of ``ActorPoolStrategy``.
    """
    from ray.data import ActorPoolStrategy

    return ActorPoolStrategy(min_size=1, max_size=workers, initial_size=workers, **options)


@contextmanager
def ray_session(address: str | None = None) -> Iterator[None]:
    """A Ray session for the block: the running one, the cluster at ``address`` or RAY_ADDRESS, or a local one.

    A session that was there before is left running; one that was started or connected here is closed at the end.
    """
    for name, value in ENVIRONMENT.items():  # before the import
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        _set_up_ray_data()
        yield
        return
    _start(address or os.environ.get("RAY_ADDRESS"))
    _set_up_ray_data()
    try:
        yield
    finally:
        ray.shutdown()


def is_debug() -> bool:
    return bool(os.environ.get(DEBUG_VARIABLE))


def _start(address: str | None) -> None:
    import ray

    options: dict[str, Any] = {"address": address or "local"}
    if not address:
        options |= {"num_cpus": max(MIN_CPUS, os.cpu_count() or 1), "include_dashboard": False}
    debug = is_debug()  # else: rows carry their errors, and Ray logs to files
    options |= {"log_to_driver": debug, "logging_level": logging.INFO if debug else logging.ERROR}
    with nullcontext() if debug else _silent_start():
        try:
            ray.init(**options)
        except Exception as error:
            if "timed out during startup" not in str(error):
                raise
            ray.shutdown()  # Ray waits 30 s for itself, and from a cold disk it can need more: once again, warm
            ray.init(**options)


@contextmanager
def _silent_start() -> Iterator[None]:
    """Ray's C++ writes harmless "E" lines about actors to the console; told not to, it says so there, at start."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    sys.stderr.flush()
    stderr = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def _set_up_ray_data() -> None:
    """Quiet, as each stage shows one progress line of its own, which bars and notices would write over; and patient."""
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False
    context.print_on_execution_start = False
    context.autoscaling_config.actor_pool_util_downscaling_threshold = NEVER
    context.execution_no_progress_timeout_s = float(os.environ.get(STALL_VARIABLE, STALL_S))
    logging.getLogger("ray.data").setLevel(logging.INFO if is_debug() else logging.ERROR)  # what goes wrong is raised
