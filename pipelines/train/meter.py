"""What a log line says: losses, learning speed and where the time went, since the last line."""

from __future__ import annotations

import time
from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from spacevllm.data.instance import TASKS
from spacevllm.model.criterion import Criterion, mean


class Meter:
    """Sums over steps on the device; ranks and device meet only in ``read``.

    Args:
        peak_flops: of one device per second.
    """

    def __init__(self, criterion: Criterion, device: torch.device, peak_flops: float) -> None:
        self.criterion, self.device, self.peak_flops = criterion, device, peak_flops
        self.wait_s = 0.0
        self._reset()

    def _reset(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, Tensor] = {}
        self.loss = torch.zeros((), device=self.device)
        self.gradient_norm = torch.zeros((), device=self.device)
        self.steps = 0
        self.tokens = self.flops = self.wait_s = 0.0
        self.started = time.perf_counter()

    def add_part(self, sums: Mapping[str, Tensor], counts: Mapping[str, Tensor], loss: Tensor) -> None:
        """One micro-batch: its sums and counts by task, its share of the step's loss."""
        for store, new in ((self.sums, sums), (self.counts, counts)):
            for name, value in new.items():
                store[name] = store.get(name, 0) + value.detach().to(self.device)
        self.loss += loss.detach()

    def add_step(self, gradient_norm: float | Tensor, tokens: float, flops: float) -> None:
        """A step is done; tokens and FLOPs are this rank's."""
        self.gradient_norm += gradient_norm
        self.tokens += tokens
        self.flops += flops
        self.steps += 1

    def read(self) -> dict[str, float]:
        """Over all ranks, since the last call: every term and ``loss``, ``loss/<task>`` of the tasks there were, and
        ``gradient_norm`` are means over the steps; ``data_wait_share`` is of this rank's time. All ranks call it."""
        seconds = time.perf_counter() - self.started
        self._sum_over_ranks()
        values = {name: float(mean(self.sums[name], self.counts[name])) for name in self.sums}
        values |= {"loss": float(self.loss) / self.steps, **self._task_losses()}
        ranks = dist.get_world_size()
        values |= {
            "gradient_norm": float(self.gradient_norm) / self.steps,
            "steps_per_s": self.steps / seconds,
            "tokens_per_s": self.tokens / seconds,
            "flops_utilisation": self.flops / seconds / (self.peak_flops * ranks),
            "data_wait_share": self.wait_s / seconds,
        }
        self._reset()
        return values

    def _sum_over_ranks(self) -> None:
        numbers = torch.tensor([self.tokens, self.flops], dtype=torch.float64, device=self.device)
        tables = [store[name] for store in (self.sums, self.counts) for name in sorted(store)]
        for tensor in (*tables, self.loss, numbers):
            dist.all_reduce(tensor)
        self.tokens, self.flops = numbers.tolist()

    def _task_losses(self) -> dict[str, float]:
        """The weighted sum of a task's own terms, each over what that task holds."""
        losses: dict[str, float] = {}
        for t, task in enumerate(TASKS):
            terms = {name: (self.sums[name][t], self.counts[name][t]) for name in self.sums}
            if any(count > 0 for _, count in terms.values()):
                weighted = (self.criterion.weight(name) * float(mean(*pair)) for name, pair in terms.items())
                losses[f"loss/{task}"] = sum(weighted)
        return losses
