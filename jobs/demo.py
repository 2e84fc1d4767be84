"""All stages in order on a small world, each through its own job's code; a second run redoes only what is missing.

A stage is complete when its folder holds ``summary.json`` and the key of what it was made from: its configuration and
the keys of the stages before it. Same key but no summary: it was interrupted, and goes on. Another key: its folder is
removed and made anew. All stages after one that ran are run, too, and find by themselves what they have already.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from jobs import moving_shapes, report
from jobs.common import CONFIGS, resolve, show_plan
from jobs.evaluate import score_lines
from pipelines import train
from pipelines.archive import ground
from pipelines.core import storage
from pipelines.core.cluster import ray_session
from pipelines.core.tracking import TrackingConfig, store_uri
from pipelines.evaluation import evaluate
from pipelines.media.manifest import read_records
from spacevllm.config import Config, ConfigError, dump_config

KEY = ".demo-stage"


class DemoConfig(Config):
    """Sizes of the demo; the rest is each stage's own configuration.

    Attributes:
        out: local folder for everything.
        seed: of the world. num_videos, test_share: how many, and the share of held-out ones.
        train_config: YAML of the training job. train: overrides of it, such as ``train.learning_rate=1e-3``.
        archive_videos: held-out videos that are grounded as an archive.
        max_clips: clips in the report.
    """

    out: str
    seed: int = Field(0, ge=0)
    num_videos: int = Field(3000, ge=2)
    test_share: float = Field(0.05, gt=0, lt=1)
    train_config: str = str(CONFIGS / "tiny.yaml")
    train: tuple[str, ...] = ()
    archive_videos: int = Field(20, ge=1)
    max_clips: int = Field(40, ge=1)


@dataclass(frozen=True)
class Stage:
    """One step: a folder, what it is made from, and how."""

    name: str
    out: str
    config: Config
    run: Callable[[], Any]


def run(out: str, overrides: list[str], dry_run: bool) -> int:
    """Runs what is missing; ends with one line per result. Returns the exit status."""
    config = resolve(DemoConfig, "", overrides, out=out)
    if not storage.is_local(out):
        raise ConfigError(f"--out {out}: the demo writes to a local folder")
    stages = plan(config)
    if dry_run:
        return show_plan("demo", config, " → ".join(stage.name for stage in stages))
    started = time.monotonic()
    run_stages(stages)
    _show_results(config, time.monotonic() - started)
    return 0


def plan(config: DemoConfig) -> list[Stage]:
    """The stages in order, every configuration checked. Raises ConfigError."""
    at = {name: storage.join(config.out, name) for name in ("data", "training", "scores", "tubes", "report")}
    shape_options = [f"test_share={config.test_share}"]
    shapes = moving_shapes.resolve_job(at["data"], config.num_videos, config.seed, shape_options)
    training = resolve(train.TrainJobConfig, config.train_config, config.train, data=at["data"], out=at["training"])
    model = storage.join(at["training"], "model")
    scoring = evaluate.EvaluateConfig(model=model, data=at["data"], out=at["scores"])
    questions = storage.join(at["tubes"], "questions.jsonl")
    archive = storage.join(at["data"], "media", "test")
    grounding = ground.GroundConfig(model=model, videos=archive, questions=questions, out=at["tubes"])
    page = report.ReportConfig(
        tubes=at["tubes"], out=at["report"], data=at["data"], scores=at["scores"], max_clips=config.max_clips,
        title="Moving shapes: held-out videos, grounded",
    )  # fmt: skip
    return [
        Stage("data", at["data"], shapes, lambda: moving_shapes.make(shapes)),
        Stage("training", at["training"], training, lambda: train.run(training)),
        Stage("scores", at["scores"], scoring, lambda: evaluate.run(scoring)),
        Stage("tubes", at["tubes"], grounding, lambda: _ground(config, grounding, at["data"])),
        Stage("report", at["report"], page, lambda: report.make(page)),
    ]


def run_stages(stages: list[Stage]) -> None:
    """Runs each stage that is not complete, says how long it took; one Ray session serves them all."""
    key, changed = "", False
    with ExitStack() as session:
        for number, stage in enumerate(stages, start=1):
            key = hashlib.sha256(f"{key}\n{stage.name}\n{dump_config(stage.config)}".encode()).hexdigest()[:16]
            title = f"[{number}/{len(stages)}] {stage.name:<9}"
            if _is_complete(stage, key) and not changed:
                print(f"{title} complete: {stage.out}", flush=True)
                continue
            changed = True
            _make_room(stage, key)
            print(f"{title} → {stage.out}", flush=True)
            session.enter_context(ray_session())
            started = time.monotonic()
            stage.run()
            print(f"{title} done in {time.monotonic() - started:.0f} s", flush=True)


def _is_complete(stage: Stage, key: str) -> bool:
    marker = Path(stage.out, KEY)
    return marker.exists() and marker.read_text() == key and Path(stage.out, "summary.json").exists()


def _make_room(stage: Stage, key: str) -> None:
    """An interrupted stage keeps its folder; one made from something else loses it; a stranger's is left alone."""
    folder, marker = Path(stage.out), Path(stage.out, KEY)
    if marker.exists() and marker.read_text() != key:
        shutil.rmtree(folder)
    elif not marker.exists() and folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} was not made by the demo: choose another --out, or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    marker.write_text(key)


def _ground(config: DemoConfig, grounding: ground.GroundConfig, data: str) -> None:
    """Asks each of the first held-out videos its own questions, as a person's list of questions would."""
    records = [
        row for row in read_records(data, "test", ["task", "media", "question"]).to_pylist() if row["task"] == "stvg"
    ]
    archive = sorted({row["media"] for row in records})[: config.archive_videos]
    chosen = [{"video": r["media"], "question": r["question"]} for r in records if r["media"] in archive]
    assert grounding.questions is not None
    storage.write_text(grounding.questions, "".join(json.dumps(row) + "\n" for row in chosen))
    ground.run(grounding)


def _show_results(config: DemoConfig, seconds: float) -> None:
    out = Path(config.out)
    link = out / "model"
    if not link.is_symlink():
        link.symlink_to("training/model")
    mlflow = Path(sys.executable).with_name("mlflow")
    store = store_uri(TrackingConfig(), str(out / "training"))
    print(f"\ndemo complete in {seconds:.0f} s")
    print("\n".join(score_lines(storage.read_json(out / "scores" / "summary.json"))))
    print(f"scores   {out / 'scores' / 'summary.json'}")
    print(f"tubes    {out / 'tubes' / 'tubes'}  (Parquet: one row a video and question)")
    print(f"model    {link}  (spacevllm.load({str(link)!r}))")
    print(f"report   {out / 'report' / 'report.html'}  (open it in a browser)")
    print(f"curves   {mlflow} ui --backend-store-uri {store}")
