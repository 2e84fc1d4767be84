"""Training with the real Ray Train and the real DeepSpeed engine: two processes on gloo.

One whole run serves most tests, as starting one takes longer than its steps: every phase of the debug recipe, then a
mixture of every task and of text alone.
"""

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
from jobs.cli import main
from pipelines import train
from pipelines.core.storage import OutputError
from pipelines.core.tracking import TrackingConfig
from pipelines.dataset.build_unistg import BuildUnistgConfig
from pipelines.dataset.build_unistg import run as build_unistg
from pipelines.media.manifest import data_set_media
from pipelines.train.config import TrainJobConfig
from pipelines.train.data import clip_samples, read_instances, text_tables
from pipelines.train.model import choose_trained, prepare_model, shape_only
from pipelines.train.muon import Float32Muon, orthogonal
from pipelines.train.optimizer import MuonAdamW, parameter_groups
from spacevllm.config import ConfigError, load_config
from spacevllm.data.instance import Instance
from spacevllm.data.moving_shapes import write_data_set
from spacevllm.model.configuration import tiny_config
from spacevllm.model.modeling import build
from spacevllm.span import Span
from spacevllm.untrained import save_untrained
from spacevllm.words.answers import format_span

SHARES = {"tubes": 2, "times": 1, "stills": 6, "quiz": 1, "texts": 2}
JOINT = range(19, 49)  # steps of the mixture
LONGER = (
    "sources.quiz={media: video, tasks: [qa], questions: 1}",
    "sources.texts={media: text}",
    f"phases.joint={{sources: {json.dumps(SHARES)}, block: 24, steps: {len(JOINT)}, batch_size: 6}}",
    "workers.zero_stage=2",  # would hang where ranks learn other parts of the model
    "train.log_every=1",
    "workers.peak_tflops=1000",  # measured at the start, it is a busy machine's
    "tracking.enabled=false",
)
CONFIGS = Path(__file__).parents[3] / "jobs" / "configs"


def config(data: str, out: Path, *overrides: str) -> TrainJobConfig:
    return load_config(TrainJobConfig, CONFIGS / "debug.yaml", [f"data={data}", f"out={out}", *overrides])


@pytest.fixture(scope="module")
def data(tmp_path_factory, ray_cluster) -> str:
    """Moving Shapes, and 20 questions about no picture at all."""
    out = str(tmp_path_factory.mktemp("world") / "data")
    write_data_set(out, num_videos=12, seed=1)
    texts = [f"From {k}.00s on, {k} more seconds: when?" for k in range(1, 21)]
    with Path(out, "annotations/train.jsonl").open("a") as file:
        for k, text in enumerate(texts, start=1):
            row = Instance(
                id=f"text/{k}", task="qa", source="general", split="train", media="", media_type="text", question=text,
                answer=format_span(Span(k, 2 * k)), num_frames=0,
            ).to_row()  # fmt: skip
            file.write(json.dumps(row) + "\n")
    summary = build_unistg(BuildUnistgConfig(data=out, out=out, tracking=TrackingConfig(enabled=False)))
    assert summary["failed"] == 0
    return out


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory) -> Path:
    """The debug recipe and the mixture, every step reported, from beginning to end."""
    out = tmp_path_factory.mktemp("finished") / "run"
    train.run(config(data, out, *LONGER))
    return out


def history(out: Path) -> dict[int, dict]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == sorted({row["step"] for row in rows})
    return {row["step"]: row for row in rows}


@pytest.mark.slow
def test_every_phase_of_the_debug_recipe_and_nothing_twice(data, finished):
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["steps"] == 48 and summary["clips_failed"] == 0
    assert summary["last"]["step"] == 48 and summary["last"]["started_at"] == 0
    model = spacevllm.load(finished / "model")
    [tube] = model.ground(next(Path(data, "media", "test").glob("*.mp4")), ["the red circle"])
    assert tube.sampled_boxes.shape == (8, 4)
    changed = (finished / "model" / "model.safetensors").stat().st_mtime_ns
    assert train.run(config(data, finished, *LONGER)) == summary
    assert (finished / "model" / "model.safetensors").stat().st_mtime_ns == changed


@pytest.mark.slow
def test_a_log_line_says_what_is_learned_how_fast_and_what_waits(finished):
    rows = history(finished)
    assert sorted(rows) == list(range(1, 49))
    assert {"alignment", "loss", "loss/rec"} <= set(rows[1]) and "lm" not in rows[1]
    for name in ("loss", "lm", "l1", "giou", "attention", "pointer"):
        assert isinstance(rows[18][name], float), name
    assert {"loss/stvg", "loss/vtg", "loss/qa"} <= set().union(*rows.values())
    assert learned(rows[18]) == {"loss/stvg", "loss/rec", "loss/vtg"}, "a mixture reads all sources in every step"
    for row in rows.values():
        assert row["gradient_norm"] > 0 and row["tokens_per_s"] > 0
        assert 0 < row["flops_utilisation"] < 1 and 0 <= row["data_wait_share"] < 1


def learned(row: dict) -> set[str]:
    return {name for name in row if name.startswith("loss/")}


@pytest.mark.slow
def test_a_step_of_a_mixture_learns_from_the_clips_that_are_due(finished):
    tasks = {"tubes": "stvg", "times": "vtg", "stills": "rec", "quiz": "qa", "texts": "qa"}
    rows, job = history(finished), config("none", Path("none"), *LONGER)
    due = {step: job.schedule.clips(step - 1) for step in JOINT}
    for step, sources in due.items():
        assert learned(rows[step]) == {f"loss/{tasks[source]}" for source in sources}
    assert any({"texts", "tubes"} <= set(sources) for sources in due.values())
    assert {source for sources in due.values() for source in sources} == set(SHARES)


def test_a_record_without_media_is_a_clip_without_frames(data):
    texts = config(data, Path("none"), *LONGER).sources["texts"]
    assert "" not in data_set_media(data)["media"].to_pylist()
    [table] = text_tables(read_instances(data, "train"), texts)
    rows = {name: table[name].to_pylist() for name in table.column_names}
    samples = clip_samples(rows, texts, "0/0")
    assert {(sample.media_type, len(sample.frames), len(sample.instances)) for sample in samples} == {("text", 0, 1)}
    assert len(samples) == 20 and samples[0].instances[0].answer.startswith("From ")


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
        while last_step(out) < 26 and first.poll() is None:  # inside the mixture: every source has its own place
            time.sleep(0.1)  # waits for an event, not for luck: the run is far longer than this
        assert first.poll() is None, "the run ended before it could be killed"
    finally:
        os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert not (out / "model").exists()
    (out / "model").mkdir()
    (out / "model" / "calibration.json").write_text("{}")  # of a model that was here before
    assert main(command[3:]) == 0  # the same command again, in the Ray that is running here
    assert not (out / "model" / "calibration.json").exists()
    resumed, whole = history(out), history(finished)
    started_at = resumed[48]["started_at"]
    assert started_at in JOINT and set(resumed) >= set(range(started_at + 1, 49))
    for step, row in resumed.items():
        for name in ("loss", "gradient_norm", "learning_rate"):
            assert row[name] == pytest.approx(whole[step][name], rel=1e-6), (step, name)


def test_a_store_that_refuses_once_costs_no_line_of_the_history(tmp_path, capfd):
    kept = train.MetricsHistory(str(tmp_path / "metrics.jsonl"), "recipe")
    (tmp_path / "metrics.jsonl").mkdir()  # nothing can be written there
    kept.add({"step": 1})
    assert "metrics.jsonl is behind, the next report brings it up to date: cannot write" in capfd.readouterr().err
    with pytest.raises(OutputError):
        kept.write()
    (tmp_path / "metrics.jsonl").rmdir()
    kept.add({"step": 2})
    assert sorted(history(tmp_path)) == [1, 2]


def test_muon_needs_whole_matrices(tmp_path):
    with pytest.raises(ConfigError, match="needs workers"):
        config("data", tmp_path, "train.optimizer=muon", "workers.zero_stage=1")


def test_batches_must_divide_by_workers(tmp_path):
    with pytest.raises(ConfigError, match="does not divide by"):
        config("data", tmp_path, "workers.num_workers=3")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sources.videos.micro_batch_size=4", "batch_size 4 does not divide by workers.num_workers 2 x sources.videos"),
        ("phases.videos.batch_sizes={stills: 3}", "phases.videos.batch_sizes.stills 3 does not divide by workers"),
        ("phases.videos.batch_sizes={tubes: 8}", "batch_sizes: 'tubes' is none of its sources videos, stills"),
        ("phases.mixed.batch_sizes={tubes: 8}", "phases.mixed.batch_sizes needs draw: batches"),
        ("phases.videos.block=8", "phases.videos.block needs draw: clips"),
        ("phases.videos.sources={videos: 5, stills: 0.5}", "phases.videos.sources.stills: 0.5 steps cannot be"),
        (
            "phases.mixed.sources=still",
            "sources: 'still' is none of the sources captions, stills, videos, tubes, times",
        ),
        ("phases.mixed.sources={}", "phases.mixed.sources: Dictionary should have at least 1 item"),
        ("sources.times.tasks=[stvg]", "phases.mixed.sources: tubes and times both read video:stvg; keep one"),
        ("phases.mixed.sources={tubes: 0}", "phases.mixed.sources.tubes: Input should be greater than 0"),
        ("phases.mixed.sources={tubes: 1, times: 40}", "a worker's block of 5 clips has none of tubes; raise block"),
        ("phases.mixed.block=5", "block 5 does not divide by workers.num_workers 2"),
        ("sources.stills.media=null", "sources.stills.media: Input should be 'video', 'image' or 'text'"),
        ("phases.stills.batch_size=0", "phases.stills.batch_size: Input should be greater than or equal to 1"),
        ("sources.captions.media=text", "there is nothing in text that objective align could align"),
        ("phases.other={sources: stills, batch_size: 2}", "phases.other.steps: Field required"),
        ("phases={mixed: {sources: tubes, steps: 0, batch_size: 2}}", "phases have 0 steps in all"),
        ("train.freeze=[tower, projector, llm, queries, decoder]", "nothing is left to train"),
        ("train.freeze=[towers]", "train.freeze.0: Input should be 'tower', 'projector'"),
        ("train.learning_rates={head: 1.0e-3}", "train.learning_rates.head"),
        ("workers.zero_stage=4", "workers.zero_stage"),
        ("lora={ranks: 8}", "lora.ranks: unknown key, did you mean 'rank'?"),
    ],
)
def test_what_does_not_fit_together_is_said(tmp_path, override, message):
    with pytest.raises(ConfigError) as error:
        config("data", tmp_path, override)
    assert message in str(error.value) and len(str(error.value)) < 250, "one line, without the whole recipe"


def test_lora_and_a_frozen_language_model_contradict_each_other(tmp_path):
    with pytest.raises(ConfigError, match="which is what lora trains"):
        config("data", tmp_path, "lora={rank: 8}", "train.freeze=[llm]")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (["criterion.presence=1"], "set model.fields.presence_head to true"),
        (["criterion.presence=1", "train.freeze=[tower, projector, llm, queries, decoder]"], "presence_head to true"),
        (
            ["model.fields={presense_head: true}"],
            "presense_head: unknown key, did you mean 'presence_head'",
        ),
        (["model.fields={prompt_order: last}"], "model.fields.prompt_order: Input should be 'video_first' or"),
        (["model.fields={num_frames: 5000}"], "model.fields: num_frames is 5000"),
        (["model.fields={presence_head: true, space_head: text_coordinates}"], "space_head text_coordinates has none"),
    ],
)
def test_what_the_model_cannot_be_is_said(tmp_path, override, message):
    with pytest.raises(ConfigError) as error:
        shape_only(config("data", tmp_path, *override), [])
    assert message in str(error.value)


def test_a_model_named_from_here_is_found_from_where_workers_stand(tmp_path, monkeypatch):
    save_untrained(tmp_path / "start")
    monkeypatch.chdir(tmp_path)
    make_model, _ = prepare_model(config("data", tmp_path, "model.init=start"), [])
    monkeypatch.chdir("/")
    assert make_model().config.num_frames == 8


def test_a_head_that_nothing_teaches_stays_as_it_is(tmp_path):
    """Weight decay alone would shrink it, and a cast would round it."""
    job = config("data", tmp_path, "model.fields={presence_head: true}")
    model = choose_trained(build(tiny_config(400, presence_head=True)), job)
    assert {p.dtype for p in model.presence_head.parameters()} == {torch.float32}
    assert not any(p.requires_grad for p in model.presence_head.parameters())


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


def test_the_learning_rate_warms_up_and_falls_in_every_phase(tmp_path):
    job = config("data", tmp_path, "phases.videos.steps=100", "train.warmup=0.1", "train.final_lr=0.1")
    factors = [job.schedule.learning_rate_factor(step) for step in range(8, 108)]
    assert factors[0] == pytest.approx(0.1) and max(factors) == pytest.approx(1, abs=0.03)
    assert factors[-1] == pytest.approx(0.1, abs=0.01) and factors.index(max(factors)) == 9


@pytest.mark.parametrize("shape", [(24, 8), (8, 24)])
def test_muon_in_float32_is_torchs_but_for_bfloat16(shape):
    torch.manual_seed(0)
    start = torch.randn(shape)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    how = {"lr": 0.1, "weight_decay": 0.01, "adjust_lr_fn": "match_rms_adamw"}
    optimizers = Float32Muon([ours], **how), torch.optim.Muon([theirs], **how)
    for _ in range(4):
        gradient = torch.randn(shape)
        for weight, optimizer in zip((ours, theirs), optimizers, strict=True):
            weight.grad = gradient.clone()
            optimizer.step()
    moved = (theirs - start).norm()
    assert (ours - theirs).norm() < 0.02 * moved and moved > 0.5
    assert optimizers[0].state_dict()["state"].keys() == optimizers[1].state_dict()["state"].keys()
    values = torch.linalg.svdvals(orthogonal(torch.randn(shape), (3.4445, -4.775, 2.0315), 5, 1e-7))
    assert values.min() > 0.5 and values.max() < 1.5


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
