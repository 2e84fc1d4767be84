"""Runs in Ray Train's controller process: hands every report on."""

from __future__ import annotations

from typing import Any

from ray.train import UserCallback
from ray.util.queue import Queue


class ForwardReports(UserCallback):
    """Rank 0's metrics of every report go into ``queue``."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        self.queue.put(metrics[0])
