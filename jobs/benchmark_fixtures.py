"""Writes small stand-ins for the published benchmarks: moving shapes in their file names and schemas."""

from __future__ import annotations

from pathlib import Path

from jobs.common import finish, show_plan
from pipelines.core import locks, storage
from pipelines.core.progress import Progress
from spacevllm.config import Config, ConfigError
from spacevllm.evaluation.fixtures import FIXTURES, MARK, write_fixture


class FixturesConfig(Config):
    """``benchmark-fixtures``. num_videos: clips (or images) of each benchmark. seed: the same gives the same files."""

    out: str
    num_videos: int
    seed: int


def run(config: FixturesConfig, dry_run: bool) -> int:
    """Writes a folder for each benchmark; one that this command did not make is never written into.

    Raises:
        ConfigError: ``out`` is remote, or holds such a folder.
    """
    out = config.out
    if not storage.is_local(out):
        raise ConfigError(f"--out {out}: videos are written to a local folder; copy it to its place afterwards")
    foreign = [name for name in FIXTURES if Path(out, name).exists() and not Path(out, name, MARK).exists()]
    if foreign:
        raise ConfigError(f"--out {out}: {', '.join(foreign)} is there already and no stand-in: choose another folder")
    if dry_run:
        return show_plan("benchmark-fixtures", config, ", ".join(FIXTURES))
    with locks.exclusive(out), Progress("fixtures", len(FIXTURES), "benchmarks") as progress:
        for name in FIXTURES:
            write_fixture(name, out, config.num_videos, config.seed)
            progress.advance(1)
    finish(f"benchmarks: {out} ({', '.join(FIXTURES)})")
    return 0
