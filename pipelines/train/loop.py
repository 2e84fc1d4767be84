"""What every training worker runs: a DeepSpeed engine over the stages, checkpoints, a model folder at the end."""

from __future__ import annotations

import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Generator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipelines.train.config import StageSection, TrainJobConfig
from pipelines.train.data import batches
from pipelines.train.optimizer import make_optimizer
from spacevllm.data.collate import ClipSample, Collator
from spacevllm.model.criterion import Criterion
from spacevllm.model.modeling import SpaceVLLM
from spacevllm.model.processing import SpaceVLLMProcessor
from spacevllm.predictor import Predictor

STATE = "state"  # DeepSpeed's tag inside a checkpoint


def train_worker(payload: dict[str, Any]) -> None:
    """``payload`` holds the config, and the model and processor to start from."""
    config: TrainJobConfig = payload["config"]
    torch.set_num_threads(config.workers.threads)
    torch.manual_seed(config.train.seed)
    trainer = Trainer(config, payload["make_model"](), payload["processor"])
    trainer.restore()
    trainer.fit()


class Trainer:
    """One worker's loop. Every rank takes the same steps and reports the same number of times."""

    def __init__(self, config: TrainJobConfig, model: SpaceVLLM, processor: SpaceVLLMProcessor) -> None:
        import ray.train

        self.config, self.processor = config, processor
        self.collate = Collator(processor, config.criterion.time_weight)
        self.criterion = Criterion(config.criterion)
        self.engine = make_engine(config, model)
        self.step = self.started_at = 0
        self.context = ray.train.get_context()
        self.meter = Meter()

    def restore(self) -> None:
        """Continues from the newest checkpoint of this run, if there is one."""
        import ray.train

        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return
        with checkpoint.as_directory() as folder:
            _, state = self.engine.load_checkpoint(folder, tag=STATE)
        self.step = self.started_at = state["step"]

    def fit(self) -> None:
        """All steps that are left; each takes its batch from the stream of its source."""
        streams: dict[str, Generator[list[ClipSample], None, None]] = {}
        total, log_every = self.config.total_steps, self.config.train.log_every
        while self.step < total:
            stage, source = self.config.at(self.step)[0], self.config.source(self.step)
            for over in set(streams) - {stage, self.config.stages[stage].rehearse}:
                streams.pop(over).close()  # a shard serves one stream at a time
            if source not in streams:
                streams[source] = self._stream(source)
            samples = next(streams[source])
            self.meter.waited()
            self.meter.add(self.train_step(samples, self.config.stages[source]))
            self.step += 1
            if self.step % log_every == 0 or self.step == total:
                self.report()

    def train_step(self, samples: list[ClipSample], stage: StageSection) -> dict[str, Tensor]:
        """Forward, backward, one optimiser step; the loss terms, detached."""
        batch = self.collate(samples).to(self.engine.device)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * self.config.learning_rate_factor(self.step)
        align = stage.objective == "align"
        with self._autocast():
            output = self.engine(batch, align=align, pointer=self.config.criterion.pointer > 0)
        terms = self.criterion.alignment(output, batch) if align else self.criterion(output, batch)
        self.engine.backward(terms["loss"])
        self.engine.step()
        self.meter.tokens += int((batch.segments >= 0).sum())
        return {name: term.detach() for name, term in terms.items()}

    def report(self) -> None:
        """Metrics to the controller; with a checkpoint where one is due, with the model at the end."""
        import ray.train

        stage, _ = self.config.at(self.step - 1)
        metrics = {
            "step": self.step,
            "started_at": self.started_at,
            "stage": stage,
            "learning_rate": self._learning_rate(),
            **self.meter.read(),
        }
        last = self.step == self.config.total_steps
        if not last and self.step % self.config.train.checkpoint_every >= self.config.train.log_every:
            ray.train.report(metrics)
            return
        folder = tempfile.mkdtemp(prefix="checkpoint-")
        self.engine.save_checkpoint(folder, tag=STATE, client_state={"step": self.step})
        if last and self.context.get_world_rank() == 0:
            Predictor(self.engine.module, self.processor).save(Path(folder, "model"))
        # asynchronous: training goes on while the folder is copied, and the copy deletes it
        ray.train.report(
            metrics,
            checkpoint=ray.train.Checkpoint.from_directory(folder),
            checkpoint_upload_mode=ray.train.CheckpointUploadMode.ASYNC,
            delete_local_checkpoint_after_upload=True,
        )

    def _stream(self, source: str) -> Generator[list[ClipSample], None, None]:
        """This worker's batches of one stage, from where a restarted run left them."""
        import ray.train

        stage = self.config.stages[source]
        consumed = sum(self.config.source(step) == source for step in range(self.step))
        shard = ray.train.get_dataset_shard(stage.media)
        return batches(shard, stage, self.context.get_world_size(), self.config.train.seed, consumed)

    def _learning_rate(self) -> float:
        return float(self.engine.optimizer.param_groups[0]["lr"])

    def _autocast(self) -> AbstractContextManager[Any]:
        if not self.config.train.autocast:
            return nullcontext()
        return torch.autocast(self.engine.device.type, torch.bfloat16)


class Meter:
    """Means of the loss terms since the last report, tokens/s, and the share of time spent waiting for data."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self.sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros(()))
        self.steps = self.tokens = 0
        self.wait_s = 0.0
        self.started = self.mark = time.perf_counter()

    def waited(self) -> None:
        """A batch has arrived."""
        self.wait_s += time.perf_counter() - self.mark

    def add(self, terms: dict[str, Tensor]) -> None:
        """A step is done."""
        for name, term in terms.items():
            self.sums[name] = self.sums[name] + term.float().cpu()
        self.steps += 1
        self.mark = time.perf_counter()

    def read(self) -> dict[str, float]:
        seconds = time.perf_counter() - self.started
        values = {name: float(total) / self.steps for name, total in self.sums.items()}
        values |= {
            "steps_per_s": self.steps / seconds,
            "tokens_per_s": self.tokens / seconds,
            "data_wait_share": self.wait_s / seconds,
        }
        self._reset()
        return values


def make_engine(config: TrainJobConfig, model: SpaceVLLM) -> Any:
    """The DeepSpeed engine around ``model``; on CPU it runs on gloo and compiles nothing."""
    if not config.workers.use_gpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # it would compile C++ for 23 s at every start
    deepspeed.logger.setLevel("WARNING")
    optimizer = make_optimizer(model, config)
    micro = min(stage.batch_size for stage in config.stages.values()) // config.workers.num_workers
    settings = {
        "train_micro_batch_size_per_gpu": micro,  # stages differ; DeepSpeed only reads it for its own printing
        "gradient_clipping": config.train.gradient_clipping,
        "zero_optimization": {"stage": config.workers.zero_stage},
        "zero_allow_untested_optimizer": True,
    }
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings, dist_init_required=False)
    return engine
