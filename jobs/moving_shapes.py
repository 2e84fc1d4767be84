"""Makes a moving-shapes world: MP4 files and annotations in all cores, then its Uni-STG shards."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from pydantic import Field

from jobs.common import finish, resolve, show_plan
from pipelines.core import locks, storage
from pipelines.core.progress import Progress
from spacevllm.config import Config, ConfigError, dump_config, load_config
from spacevllm.data.moving_shapes import MovingShapesConfig, split_sizes, write_annotations, write_one

RECORD = "moving_shapes.yaml"


class MovingShapesJobConfig(Config):
    """One data set.

    Attributes:
        out: local folder.
        num_videos: train and held-out videos together.
        test_share: share of the held-out ones; their seeds and the training seeds never meet.
        world: the world and what is asked about it; its ``seed`` is the command's ``--seed``.
    """

    out: str
    num_videos: int = Field(ge=2)
    test_share: float = Field(0.1, gt=0, lt=1)
    world: MovingShapesConfig = MovingShapesConfig()


def run(out: str, num_videos: int, seed: int, overrides: list[str], dry_run: bool) -> int:
    """Makes what is missing of the data set; returns the exit status."""
    config = resolve_job(out, num_videos, seed, overrides)
    if dry_run:
        return show_plan("moving-shapes", config)
    counts = make(config)
    questions = ", ".join(f"{count} {split}" for split, count in counts.items())
    finish(f"data set: {config.out} ({config.num_videos} videos; questions: {questions})")
    return 0


def resolve_job(out: str, num_videos: int, seed: int, overrides: list[str]) -> MovingShapesJobConfig:
    """Raises ConfigError: unknown key, wrong value, remote folder, or a folder that holds another world."""
    seeded = [*overrides, f"world.seed={seed}"]
    config = resolve(MovingShapesJobConfig, "", seeded, out=out, num_videos=num_videos)
    if not storage.is_local(out):
        raise ConfigError(f"--out {out}: videos are written to a local folder; copy it to its place afterwards")
    record = Path(out, RECORD)
    if record.exists() and load_config(MovingShapesConfig, record) != config.world:
        raise ConfigError(f"--out {out} holds another world (see {record}): choose another folder or remove it")
    return config


def make(config: MovingShapesJobConfig) -> dict[str, int]:
    """Writes media, annotations and Uni-STG shards; returns the number of questions of each split."""
    from pipelines.dataset.build_unistg import BuildUnistgConfig
    from pipelines.dataset.build_unistg import run as build

    with locks.exclusive(config.out):
        Path(config.out, RECORD).write_text(dump_config(config.world))
        counts = _render(config)
    build(BuildUnistgConfig(data=config.out, out=config.out))
    return counts


def _render(config: MovingShapesJobConfig) -> dict[str, int]:
    counts = {}
    spawn = multiprocessing.get_context("spawn")  # a forked copy of Ray's or torch's threads can hang
    with (
        ProcessPoolExecutor(os.cpu_count(), spawn) as pool,
        Progress("videos", config.num_videos, "videos") as progress,
        ExitStack() as after,
    ):
        after.callback(pool.shutdown, cancel_futures=True)  # interrupted, it would do all that is left
        for split, number in split_sizes(config.num_videos, config.test_share).items():
            instances = []
            write = partial(write_one, config.out, config.world, split)
            with _deaf_children():
                written = pool.map(write, range(number), chunksize=4)
            for asked in written:
                instances += asked
                progress.advance(1)
            write_annotations(config.out, split, instances)
            counts[split] = len(instances)
    return counts


@contextmanager
def _deaf_children() -> Iterator[None]:
    """Ctrl-C is for this process: a worker that is started in here never hears it, not even while it is importing."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
