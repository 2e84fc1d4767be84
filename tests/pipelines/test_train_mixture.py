"""A mixture of every task and of text alone on real Ray Train: exact shares in every step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines import train
from pipelines.build_unistg import BuildUnistgConfig
from pipelines.build_unistg import run as build_unistg
from pipelines.manifest import data_set_media
from pipelines.tracking import TrackingConfig
from pipelines.train.config import TrainJobConfig
from pipelines.train.data import clip_samples, read_instances, text_tables
from spacevllm.data.instance import Instance
from spacevllm.data.moving_shapes import write_data_set
from spacevllm.model.answers import format_span
from spacevllm.tube import Span

ROOT = Path(__file__).parents[2]
STEPS = 30
SHARES = {"tubes": 2, "moments": 1, "expressions": 6, "quiz": 1, "texts": 2}
RECIPE = {
    "model": {"init": "tiny"},
    "stages": {
        "tubes": {"media": "video", "tasks": ["stvg"], "questions": 2},
        "moments": {"media": "video", "tasks": ["vtg"], "questions": 2},
        "expressions": {"media": "image", "tasks": ["rec"], "questions": 2, "micro_batch_size": 2},
        "quiz": {"media": "video", "tasks": ["qa"], "questions": 1},
        "texts": {"media": "text"},
        "joint": {"mix": SHARES, "mix_block": 24, "steps": STEPS, "batch_size": 6},
    },
    "train": {"learning_rate": 1e-3, "log_every": 1, "checkpoint_every": 3, "keep_clips": True},
    "workers": {"num_workers": 2, "zero_stage": 2},
    "tracking": {"enabled": False},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory, ray_cluster):
    """Moving Shapes, and 20 questions about no picture at all."""
    out = tmp_path_factory.mktemp("world") / "data"
    write_data_set(str(out), num_videos=8, seed=2)
    texts = [f"From {k}.00s on, {k} more seconds: when?" for k in range(1, 21)]
    with (out / "annotations/train.jsonl").open("a") as file:
        for k, text in enumerate(texts, start=1):
            row = Instance(
                id=f"text/{k}", task="qa", source="general", split="train", media="", media_type="text", question=text,
                answer=format_span(Span(k, 2 * k)), num_frames=0,
            ).to_row()  # fmt: skip
            file.write(json.dumps(row) + "\n")
    summary = build_unistg(BuildUnistgConfig(data=str(out), out=str(out), tracking=TrackingConfig(enabled=False)))
    assert summary["failed"] == 0
    return out


def config(data, out):
    return TrainJobConfig.model_validate(RECIPE | {"data": str(data), "out": str(out)})


def history(out):
    return {row["step"]: row for row in map(json.loads, (out / "metrics.jsonl").read_text().splitlines())}


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """Log lines of a run from beginning to end."""
    out = tmp_path_factory.mktemp("whole") / "run"
    train.run(config(data, out))
    return history(out)


@pytest.mark.slow
def test_a_step_learns_from_the_clips_that_are_due(whole):
    tasks = {"tubes": "stvg", "moments": "vtg", "expressions": "rec", "quiz": "qa", "texts": "qa"}
    assert sorted(whole) == list(range(1, STEPS + 1))
    due = {step: config("none", "none").clips(step - 1) for step in whole}
    for step, row in whole.items():
        assert {name for name in row if name.startswith("loss/")} == {f"loss/{tasks[source]}" for source in due[step]}
    assert any({"texts", "tubes"} <= set(sources) for sources in due.values())


def test_a_record_without_media_is_a_clip_without_frames(data):
    texts = config(data, "none").stages["texts"]
    assert "" not in data_set_media(str(data))["media"].to_pylist()
    [table] = text_tables(read_instances(str(data), "train"), texts)
    rows = {name: table[name].to_pylist() for name in table.column_names}
    samples = clip_samples(rows, texts, "0/0")
    assert {(sample.media_type, len(sample.frames), len(sample.instances)) for sample in samples} == {("text", 0, 1)}
    assert len(samples) == 20 and samples[0].instances[0].answer.startswith("From ")
