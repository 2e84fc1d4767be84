"""One rank of a training run: micro-batches in, one optimiser step out. Needs a process group, knows nothing of Ray."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pipelines.train.config import TrainJobConfig
from pipelines.train.engine import make_engine, whole_state, with_precision
from pipelines.train.meter import Meter
from pipelines.train.model import choose_trained
from spacevllm.config import ConfigError
from spacevllm.model.batch import Batch
from spacevllm.model.collate import Collator
from spacevllm.model.criterion import Criterion
from spacevllm.model.flops import FlopsModel, measured_peak
from spacevllm.model.lora import add_lora, fold_lora
from spacevllm.model.modeling import SpaceVLLM, build
from spacevllm.model.processing import SpaceVLLMProcessor
from spacevllm.predictor import Predictor

STATE = "state"  # DeepSpeed's tag inside a checkpoint


class Trainer:
    """Every rank takes the same steps, with equally many micro-batches in each.

    Attributes:
        step: optimiser steps taken. engine: DeepSpeed's. meter: of the steps since it was last read.
    """

    def __init__(self, config: TrainJobConfig, model: SpaceVLLM, processor: SpaceVLLMProcessor) -> None:
        self.config = config = with_precision(config)
        self.processor, self.step = processor, 0
        self.collate = Collator(processor, config.criterion.time_weight)
        self.criterion = Criterion(config.criterion)
        self.engine = make_engine(config, choose_trained(model, config))
        trained = {group["part"] for group in self.engine.optimizer.param_groups}
        self.flops = FlopsModel(processor.config, trained - {"llm"} if config.lora else trained)
        dtype = torch.bfloat16 if config.train.autocast else torch.float32
        peak = config.workers.peak_tflops * 1e12 or measured_peak(self.engine.device, dtype)
        self.meter = Meter(self.criterion, self.engine.device, peak)

    def train_step(self, parts: Sequence[Batch], align: bool = False) -> None:
        """Forward and backward for every micro-batch, then one optimiser step.

        The loss is that of one batch of all micro-batches of all ranks: each part is divided by the whole's counts.

        Args:
            parts: micro-batches on the CPU. align: of an ``align`` phase.
        """
        for group in self.engine.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * self.config.schedule.learning_rate_factor(self.step)
        counts = [self.criterion.counts(batch, align) for batch in parts]
        totals = self._totals(counts)
        for i, (batch, part_counts) in enumerate(zip(parts, counts, strict=True)):
            self.engine.set_gradient_accumulation_boundary(i == len(parts) - 1)
            self._backward(batch.to(self.engine.device), part_counts, totals, align)
        norm = self._gradient_norm()
        self.engine.step()
        work = [self.flops.work(batch) for batch in parts]
        self.meter.add_step(
            self.engine.get_global_grad_norm() if norm is None else norm,
            sum(w.tokens for w in work),
            sum(self.flops.training(w, align) for w in work),
        )
        self.step += 1

    def _totals(self, counts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Counts of all micro-batches of all ranks: what the sums are divided by."""
        table = torch.stack([torch.stack(list(part.values())) for part in counts]).sum(0)  # (terms, tasks)
        table = table.to(self.engine.device)
        dist.all_reduce(table)
        return dict(zip(counts[0], table, strict=True))

    def _backward(self, batch: Batch, part_counts: dict[str, Tensor], totals: dict[str, Tensor], align: bool) -> None:
        output = self.engine(batch, align=align, pointer=self.config.criterion.pointer > 0)
        sums = self.criterion.sums(output, batch)
        loss = self.criterion.loss(sums, totals)
        # DeepSpeed takes the mean over the ranks; these are parts of one sum
        self.engine.backward(loss * dist.get_world_size(), scale_wrt_gas=False)
        self.meter.add_part(sums, part_counts, loss)

    def _gradient_norm(self) -> Tensor | None:
        """At ZeRO 0, where DeepSpeed clips without a word about the norm, of the gradients, which are clipped here."""
        if self.config.workers.zero_stage:
            return None
        limit = self.config.train.gradient_clipping
        return torch.nn.utils.clip_grad_norm_(self.engine.module.parameters(), limit)

    def save(self, folder: str, state: dict[str, Any]) -> None:
        """This rank's part of a checkpoint: weights that learn, optimiser, step, random state, and ``state``."""
        client = {"step": self.step, "parameters": self._names(), **state}
        self.engine.save_checkpoint(folder, tag=STATE, client_state=client, exclude_frozen_parameters=True)
        torch.save(_random_state(), Path(folder, f"random_{dist.get_rank()}.pt"))

    def load(self, folder: str) -> dict[str, Any]:
        """Goes on where ``save`` was called, with as many ranks as there were then; returns its ``state``.

        Raises:
            ConfigError: a checkpoint of weights with other names, which DeepSpeed would leave out without a word.
        """
        _, state = self.engine.load_checkpoint(folder, tag=STATE, load_module_strict=False)
        if state.get("parameters") != self._names():
            raise ConfigError(
                f"{folder}: this checkpoint's weights have other names than the model's, so another version wrote it; "
                f"finish the run with that version, or start anew with another --out"
            )
        _set_random_state(torch.load(Path(folder, f"random_{dist.get_rank()}.pt"), weights_only=True))
        self.step = state["step"]
        return state

    def _names(self) -> list[str]:
        return [name for name, parameter in self.engine.module.named_parameters() if parameter.requires_grad]

    def save_model(self, folder: str | Path) -> None:
        """A ``from_pretrained`` folder, adapters folded in, from rank 0. All ranks call it together."""
        state, config = whole_state(self.engine), self.config
        if dist.get_rank():
            return
        with torch.device("meta"):
            plain = build(self.processor.config)
            if config.lora:
                add_lora(plain, config.lora.rank, config.lora.alpha)
        plain.load_state_dict(state, strict=False, assign=True)
        plain.tie_weights()
        Predictor(fold_lora(plain) if config.lora else plain, self.processor).save(folder)


def _random_state() -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    return state | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def _set_random_state(state: dict[str, Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])
