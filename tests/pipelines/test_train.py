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
from pipelines.train.model import choose_trained, shape_only
from pipelines.train.optimizer import MuonAdamW, parameter_groups
from spacevllm.config import ConfigError, load_config
from spacevllm.data.moving_shapes import write_data_set
from spacevllm.model.configuration import tiny_config
from spacevllm.model.modeling import build

LONGER = ("stages.mixed.steps=24", "train.log_every=1", "tracking.enabled=false")
CONFIGS = Path(__file__).parents[2] / "jobs" / "configs"


def config(data: str, out: Path, *overrides: str) -> TrainJobConfig:
    return load_config(TrainJobConfig, CONFIGS / "debug.yaml", [f"data={data}", f"out={out}", *overrides])


@pytest.fixture(scope="module")
def data(tmp_path_factory, ray_cluster) -> str:
    out = str(tmp_path_factory.mktemp("world") / "data")
    write_data_set(out, num_videos=12, seed=1)
    build_unistg(BuildUnistgConfig(data=out, out=out, tracking=TrackingConfig(enabled=False)))
    return out


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory) -> Path:
    """The debug recipe, every step reported, from beginning to end."""
    out = tmp_path_factory.mktemp("finished") / "run"
    train.run(config(data, out, *LONGER))
    return out


def history(out: Path) -> dict[int, dict]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == sorted({row["step"] for row in rows})
    return {row["step"]: row for row in rows}


@pytest.mark.slow
def test_every_stage_of_the_debug_recipe_and_nothing_twice(data, finished):
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["steps"] == 40 and summary["clips_failed"] == 0
    assert summary["last"]["step"] == 40 and summary["last"]["started_at"] == 0
    model = spacevllm.load(finished / "model")
    [tube] = model.ground(next(Path(data, "media", "test").glob("*.mp4")), ["the red circle"])
    assert tube.sampled_boxes.shape == (8, 4)
    changed = (finished / "model" / "model.safetensors").stat().st_mtime_ns
    assert train.run(config(data, finished, *LONGER)) == summary
    assert (finished / "model" / "model.safetensors").stat().st_mtime_ns == changed


@pytest.mark.slow
def test_a_log_line_says_what_is_learned_how_fast_and_what_waits(finished):
    rows = history(finished)
    assert sorted(rows) == list(range(1, 41))
    assert {"alignment", "loss", "loss/rec"} <= set(rows[1]) and "lm" not in rows[1]
    for name in ("loss", "lm", "l1", "giou", "attention", "pointer"):
        assert isinstance(rows[40][name], float), name
    assert {"loss/stvg", "loss/vtg", "loss/qa"} <= set().union(*rows.values())
    learned = {name for name in rows[40] if name.startswith("loss/")}
    assert learned == {"loss/stvg", "loss/rec", "loss/vtg"}, "a mixed stage reads all its sources in every step"
    for row in rows.values():
        assert row["gradient_norm"] > 0 and row["tokens_per_s"] > 0
        assert 0 < row["flops_utilisation"] < 1 and 0 <= row["data_wait_share"] < 1


def last_step(out: Path) -> int:
    """The last one that was reported; 0 before the first."""
    metrics = out / "metrics.jsonl"
    return max(history(out), default=0) if metrics.exists() else 0


@pytest.mark.slow
def test_a_killed_run_goes_on_as_if_nothing_had_been(data, finished, tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "jobs.cli", "train", "--config", str(CONFIGS / "debug.yaml")]
    command += ["--data", data, "--out", str(out), *LONGER]
    first = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while last_step(out) < 24 and first.poll() is None:  # inside the mixture: every source has its own place
            time.sleep(0.1)  # waits for an event, not for luck: the run is far longer than this
        assert first.poll() is None, "the run ended before it could be killed"
    finally:
        os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert not (out / "model").exists()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    resumed, whole = history(out), history(finished)
    started_at = resumed[40]["started_at"]
    assert started_at > 16 and set(resumed) >= set(range(started_at + 1, 41))
    for step, row in resumed.items():
        for name in ("loss", "gradient_norm", "learning_rate"):
            assert row[name] == pytest.approx(whole[step][name], rel=1e-6), (step, name)


def test_muon_needs_whole_matrices(tmp_path):
    with pytest.raises(ConfigError, match="needs workers"):
        config("data", tmp_path, "train.optimizer=muon", "workers.zero_stage=1")


def test_batches_must_divide_by_workers(tmp_path):
    with pytest.raises(ConfigError, match="does not divide by"):
        config("data", tmp_path, "workers.num_workers=3")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.videos.micro_batch_size=4", "does not divide by workers.num_workers 2 x micro_batch_size 4"),
        ("stages.mixed.mix={still: 1}", "wants 'still', which is none of align, stills, videos, tubes, times, mixed"),
        ("stages.times.tasks=[stvg]", "must each read other media or tasks"),
        ("stages.mixed.mix={align: 1}", "must have one objective"),
        ("stages.mixed.mix={mixed: 1}", "can only mix or rehearse stages with media of their own"),
        ("stages.mixed.mix={tubes: 0}", "stages.mixed.mix.tubes: Input should be greater than 0"),
        ("stages.mixed.mix={tubes: 1, times: 40}", "a worker's block of 5 clips has none of tubes; raise mix_block"),
        ("stages.mixed.mix_block=5", "mix_block 5 does not divide by workers.num_workers 2"),
        ("stages.mixed.media=image", "needs either media (and tasks, and rehearse) or mix"),
        ("stages.stills.media=null", "needs either media (and tasks, and rehearse) or mix"),
        ("stages.stills.batch_size=0", "stages.stills needs a batch_size"),
        ("stages.align.media=text", "nothing in text that objective align could align"),
        ("train.freeze=[tower, projector, llm, queries, decoder, presence]", "nothing is left to train"),
        ("train.freeze=[towers]", "train.freeze.0: Input should be 'tower', 'projector'"),
        ("train.learning_rates={head: 1.0e-3}", "train.learning_rates.head"),
        ("workers.zero_stage=4", "workers.zero_stage"),
        ("lora={ranks: 8}", "lora.ranks: unknown key, did you mean 'rank'?"),
    ],
)
def test_what_does_not_fit_together_is_said(tmp_path, override, message):
    with pytest.raises(ConfigError) as error:
        config("data", tmp_path, override)
    assert message in str(error.value)


def test_lora_and_a_frozen_language_model_contradict_each_other(tmp_path):
    with pytest.raises(ConfigError, match="which is what lora trains"):
        config("data", tmp_path, "lora={rank: 8}", "train.freeze=[llm]")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("criterion.presence=1", "set model.fields.presence_head to true"),
        ("train.freeze=[tower, projector, llm, queries, decoder]", "every part that the model has"),
    ],
)
def test_what_the_model_lacks_is_said_before_a_worker_starts(tmp_path, override, message):
    job = config("data", tmp_path, override)
    with pytest.raises(ConfigError, match=message):
        choose_trained(shape_only(job, [])[0](), job)


def test_each_part_has_its_own_learning_rate():
    """The tiny recipe's: Muon's matrices at twice the rate, new modules, too, the rest at 1e-3."""
    job = load_config(TrainJobConfig, CONFIGS / "tiny.yaml", ["data=none", "out=none"])
    groups = parameter_groups(build(tiny_config(400)), job)
    rates = {(group["part"], group["muon"]): group["peak_lr"] for group in groups}
    assert rates == {
        ("tower", True): 2e-3,
        ("tower", False): 1e-3,
        ("projector", True): 2e-3,
        ("projector", False): 1e-3,
        ("llm", True): 2e-3,
        ("llm", False): 1e-3,
        ("queries", False): 2e-3,
        ("decoder", False): 2e-3,
    }


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
