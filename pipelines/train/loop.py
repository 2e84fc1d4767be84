"""What every Ray Train worker runs: batches from its shards through a ``Trainer``, reports and checkpoints to Ray."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import ray.train
import torch

from pipelines.train.config import TrainJobConfig
from pipelines.train.data import TEXT_BYTES, ClipStream
from pipelines.train.phases import Phase
from pipelines.train.trainer import Trainer
from spacevllm.frame_size import largest_frame
from spacevllm.model.batch import Batch
from spacevllm.model.collate import ClipSample


def train_worker(payload: dict[str, Any]) -> None:
    """``payload`` holds the config, and the model and processor to start from."""
    config: TrainJobConfig = payload["config"]
    torch.set_num_threads(config.workers.threads)
    torch.manual_seed(config.train.seed)
    loop = Loop(config, Trainer(config, payload["make_model"](), payload["processor"]))
    loop.restore()
    loop.run()


class Loop:
    """One worker's steps. Every rank takes the same ones and reports the same number of times."""

    def __init__(self, config: TrainJobConfig, trainer: Trainer) -> None:
        self.config, self.trainer = config, trainer
        self.started_at = 0
        self.streams: dict[str, ClipStream] = {}
        self.cursors: dict[str, tuple[int, int]] = {}  # of every source so far

    def restore(self) -> None:
        """Continues from the newest checkpoint of this run, if there is one."""
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return
        with checkpoint.as_directory() as folder:
            state = self.trainer.load(folder)
        self.started_at, self.cursors = self.trainer.step, state["cursors"]

    def run(self) -> None:
        """All steps that are left."""
        schedule, log_every = self.config.schedule, self.config.train.log_every
        while self.trainer.step < schedule.total_steps:
            phase = self.config.phases[schedule.at(self.trainer.step)[0]]
            self._close_streams(phase)
            clips = schedule.clips(self.trainer.step)
            parts = [part for source, count in clips.items() for part in self._batches(source, count)]
            self.trainer.train_step(parts, align=phase.objective == "align")
            if self.trainer.step % log_every == 0 or self.trainer.step == schedule.total_steps:
                self.report()

    def _batches(self, source: str, clips: int) -> list[Batch]:
        """This worker's clips of one source, as micro-batches. Sources stay apart: an image is padded to no video."""
        started = time.perf_counter()
        samples = self._take(source, clips)
        self.trainer.meter.wait_s += time.perf_counter() - started
        size = self.config.sources[source].micro_batch_size or len(samples)
        return [self.trainer.collate(samples[i : i + size]) for i in range(0, len(samples), size)]

    def _take(self, source: str, clips: int) -> list[ClipSample]:
        if source not in self.streams:
            self.streams[source] = self._open(source)
        samples = self.streams[source].take(clips)
        self.cursors[source] = self.streams[source].cursor
        return samples

    def _open(self, name: str) -> ClipStream:
        source, processor = self.config.sources[name], self.trainer.processor
        frame = 3 * largest_frame(processor.layout.frame_size)
        clip_bytes = {"video": processor.config.num_frames * frame, "image": frame, "text": TEXT_BYTES}
        return ClipStream(
            ray.train.get_dataset_shard(source.selection),
            source,
            size=self.config.schedule.read_size(name),
            seed=self.config.train.seed,
            cursor=self.cursors.get(name, (0, 0)),
            clip_bytes=clip_bytes[source.media],
        )

    def _close_streams(self, phase: Phase) -> None:
        """A shard serves one stream at a time: those go that ``phase`` does not read."""
        for source in self.streams.keys() - phase.sources.keys():
            self.streams.pop(source).close()

    def report(self) -> None:
        """Metrics to the controller; with a checkpoint where one is due, with the model at the end."""
        trainer = self.trainer
        metrics = {
            "step": trainer.step,
            "started_at": self.started_at,
            "phase": self.config.schedule.at(trainer.step - 1)[0],
            "learning_rate": float(trainer.engine.optimizer.param_groups[0]["lr"]),
            "autocast": float(trainer.config.train.autocast),
            **trainer.meter.read(),
        }
        last = trainer.step == self.config.schedule.total_steps
        if not last and trainer.step % self.config.train.checkpoint_every >= self.config.train.log_every:
            ray.train.report(metrics)
            return
        folder = tempfile.mkdtemp(prefix="checkpoint-")
        trainer.save(folder, {"cursors": self.cursors})
        if last:
            trainer.save_model(Path(folder, "model"))
        # asynchronous: training goes on while the folder is copied, and the copy deletes it
        ray.train.report(
            metrics,
            checkpoint=ray.train.Checkpoint.from_directory(folder),
            checkpoint_upload_mode=ray.train.CheckpointUploadMode.ASYNC,
            delete_local_checkpoint_after_upload=True,
        )
