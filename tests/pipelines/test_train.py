"""Training with the real Ray Train and the real DeepSpeed engine: two processes on gloo."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import spacevllm
from pipelines import train
from pipelines.build_unistg import BuildUnistgConfig
from pipelines.build_unistg import run as build_unistg
from pipelines.tracking import TrackingConfig
from pipelines.train.config import TrainJobConfig
from pipelines.train.optimizer import MuonAdamW
from spacevllm.config import ConfigError, load_config
from spacevllm.data.moving_shapes import write_data_set

CONFIGS = Path(__file__).parents[2] / "jobs" / "configs"


def config(data: str, out: Path, *overrides: str) -> TrainJobConfig:
    return load_config(TrainJobConfig, CONFIGS / "debug.yaml", [f"data={data}", f"out={out}", *overrides])


@pytest.fixture(scope="module")
def data(tmp_path_factory, ray_cluster) -> str:
    out = str(tmp_path_factory.mktemp("world") / "data")
    write_data_set(out, num_videos=12, seed=1)
    build_unistg(BuildUnistgConfig(data=out, out=out, tracking=TrackingConfig(enabled=False)))
    return out


@pytest.mark.slow
def test_every_stage_of_the_debug_recipe_and_nothing_twice(data, tmp_path):
    job = config(data, tmp_path / "run")
    summary = train.run(job)
    assert summary["steps"] == 16 and summary["clips_failed"] == 0
    assert summary["last"]["step"] == 16 and summary["last"]["started_at"] == 0
    for name in ("loss", "lm", "l1", "giou", "attention", "pointer", "tokens_per_s", "data_wait_share"):
        assert isinstance(summary["last"][name], float), name
    model = spacevllm.load(tmp_path / "run" / "model")
    [tube] = model.ground(next(Path(data, "media", "test").glob("*.mp4")), ["the red circle"])
    assert tube.sampled_boxes.shape == (8, 4)
    changed = (tmp_path / "run" / "model" / "model.safetensors").stat().st_mtime_ns
    assert train.run(job) == summary
    assert (tmp_path / "run" / "model" / "model.safetensors").stat().st_mtime_ns == changed


@pytest.mark.slow
def test_zero_stages_agree(data, tmp_path):
    """ZeRO 0 and 2 are the same optimiser, cut differently: same losses (the debug recipe runs ZeRO 1)."""
    losses = []
    for stage in (0, 2):
        short = ["stages.align.steps=1", "stages.stills.steps=1", "stages.videos.steps=2", "train.optimizer=adamw"]
        job = config(data, tmp_path / f"zero{stage}", f"workers.zero_stage={stage}", "train.autocast=false", *short)
        losses.append(train.run(job)["last"]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def registered_checkpoints(out: Path) -> list[Path]:
    """Ray resumes from what its manager has written down, not from any folder that is there."""
    books = out.glob("checkpoints/*/checkpoint_manager_snapshot.json")
    return [book for book in books if "checkpoint_2" in book.read_text()]


@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_last_checkpoint(data, tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "jobs.cli", "train", "--config", str(CONFIGS / "debug.yaml")]
    command += ["--data", data, "--out", str(out), "stages.videos.steps=30", "tracking.enabled=false"]
    first = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not registered_checkpoints(out) and first.poll() is None:
            time.sleep(0.1)  # waits for an event, not for luck: the run is far longer than this
        assert first.poll() is None, "the run ended before it could be killed"
    finally:
        os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert not (out / "model").exists()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    last = json.loads((out / "summary.json").read_text())["last"]
    assert last["step"] == 38 and last["started_at"] >= 4


def test_muon_needs_whole_matrices(data, tmp_path):
    with pytest.raises(ConfigError, match="needs workers"):
        config(data, tmp_path, "train.optimizer=muon", "workers.zero_stage=1")


def test_batches_must_divide_by_workers(tmp_path):
    with pytest.raises(ConfigError, match="does not divide by"):
        config("data", tmp_path, "workers.num_workers=3")


def test_the_learning_rate_warms_up_and_falls_in_every_stage(tmp_path):
    job = config("data", tmp_path, "stages.videos.steps=100", "train.warmup=0.1", "train.final_lr=0.1")
    factors = [job.learning_rate_factor(step) for step in range(8, 108)]
    assert factors[0] == pytest.approx(0.1) and max(factors) == pytest.approx(1, abs=0.03)
    assert factors[-1] == pytest.approx(0.1, abs=0.01) and factors.index(max(factors)) == 9


def test_muon_and_adamw_step_and_resume_as_one():
    def make():
        torch.manual_seed(0)
        layer = torch.nn.Linear(4, 6)
        parts = ((layer.bias, False), (layer.weight, True))
        return layer, MuonAdamW([{"params": [p], "lr": 0.1, "muon": muon} for p, muon in parts], 0.98)

    def steps(layer, optimizer, count):
        for _ in range(count):
            optimizer.zero_grad()
            layer(torch.ones(2, 4)).pow(2).sum().backward()
            optimizer.step()

    whole, optimizer = make()
    steps(whole, optimizer, 4)
    layer, before = make()
    steps(layer, before, 2)
    resumed, after = make()
    resumed.load_state_dict(layer.state_dict())
    after.load_state_dict(before.state_dict())
    for group in after.param_groups:
        assert group["lr"] == 0.1
    steps(resumed, after, 2)
    assert torch.equal(resumed.weight, whole.weight) and torch.equal(resumed.bias, whole.bias)
    after.param_groups[0]["lr"] = after.param_groups[1]["lr"] = 0.0
    weight = resumed.weight.clone()
    steps(resumed, after, 1)
    assert torch.equal(resumed.weight, weight)
