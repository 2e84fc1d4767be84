"""``spacevllm init``: a backbone's folder in its published layout → a SpaceVLLM → training → tubes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import spacevllm
from pipelines.core.tracking import TrackingConfig
from pipelines.dataset.build_unistg import BuildUnistgConfig
from pipelines.dataset.build_unistg import run as build_unistg
from spacevllm.data.moving_shapes import write_data_set

sys.path.insert(0, str(Path(__file__).parents[1] / "spacevllm" / "model"))

from tiny import QWEN3_VL_FIELDS, write_qwen3_vl

RECIPE = """
model: {{init: {init}}}
lora: {{rank: 4, alpha: 8}}
sources:
  stills: {{media: image, questions: 3}}
  videos: {{media: video, questions: 4, micro_batch_size: 1}}
phases:
  mixed: {{sources: {{videos: 1, stills: 1}}, steps: 20, batch_size: 4}}
criterion: {{attention: 1.0, pointer: 1.0}}
train: {{learning_rate: 3.0e-3, log_every: 4}}
workers: {{num_workers: 2, zero_stage: 2}}
tracking: {{enabled: false}}
"""
NO_TRACKING = TrackingConfig(enabled=False)
FIELDS = [f"fields.{name}={json.dumps(value)}" for name, value in QWEN3_VL_FIELDS.items()]


@pytest.fixture
def backbone(tmp_path):
    return write_qwen3_vl(tmp_path / "qwen3-vl")


def test_it_keeps_the_weights_and_adds_what_is_new(cli, backbone, tmp_path):
    status, out, _ = cli("init", "--backbone", backbone, "--out", tmp_path / "model", *FIELDS)
    assert status == 0
    last = out.splitlines()[-1]  # DeepSpeed may have a word before it
    assert last.startswith(f"model: {tmp_path / 'model'} (qwen3_vl, 0.23M parameters") and "8 frames" in last
    weights = {n: w for f in sorted((tmp_path / "model").glob("*.safetensors")) for n, w in load_file(f).items()}
    for file in backbone.glob("*.safetensors"):
        for name, weight in load_file(file).items():
            assert torch.equal(weights[f"backbone.{name}"], weight), name
    predictor = spacevllm.load(tmp_path / "model")
    assert predictor.num_frames == 8 and str(predictor.image_size) == "6c16"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*lacks weights of")
def test_it_trains_and_grounds_what_is_wider_than_high(cli, backbone, tmp_path, ray_cluster):
    write_data_set(tmp_path / "data", num_videos=8, seed=3)
    build_unistg(BuildUnistgConfig(data=str(tmp_path / "data"), out=str(tmp_path / "data"), tracking=NO_TRACKING))
    status, _, error = cli("init", "--backbone", backbone, "--out", tmp_path / "start", *FIELDS)
    assert status == 0, error
    (tmp_path / "train.yaml").write_text(RECIPE.format(init=tmp_path / "start"))
    status, _, error = cli(
        "train", "--config", tmp_path / "train.yaml", "--data", tmp_path / "data", "--out", tmp_path / "run"
    )
    assert status == 0, error
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 20 and lines[-1]["loss"] < lines[0]["loss"]
    model = spacevllm.load(tmp_path / "run" / "model")
    video = next((tmp_path / "data" / "media" / "test").glob("*.mp4"))
    [answer] = model.ground(video, ["the red circle"])
    assert answer.sampled_boxes.shape == (8, 4) and (answer.sampled_boxes <= [160, 120, 160, 120]).all()
    before = spacevllm.load(tmp_path / "start").model.state_dict()
    moved = {n.split(".")[0] for n, w in model.model.state_dict().items() if not torch.equal(w, before[n])}
    assert moved == {"backbone", "queries", "space_decoder"}


def test_more_queries_take_more_frames(cli, backbone, tmp_path):
    more = [*FIELDS, "fields.num_frames=96"]
    status, _, error = cli("init", "--backbone", backbone, "--out", tmp_path / "model", *more)
    assert status == 2 and "queries exist for 1 to 64 frames" in error
    status, _, _ = cli("init", "--backbone", backbone, "--out", tmp_path / "model", *more, "fields.num_queries=97")
    assert status == 0
    assert spacevllm.load(tmp_path / "model").model.queries.embedding.num_embeddings == 97


def test_mistakes_are_one_line(cli, backbone, tmp_path):
    out = tmp_path / "out"
    for arguments, message in (
        (("--backbone", tmp_path / "none", "--out", out), "no such folder"),
        (("--backbone", backbone, "--out", out, "fields.num_frame=3"), "did you mean 'num_frames'"),
        (("--backbone", "s3://bucket/model", "--out", out), "copied between local folders"),
    ):
        status, printed, error = cli("init", *arguments)
        assert (status, printed, error.count("\n")) == (2, "", 1) and message in error
    tree = json.loads((backbone / "config.json").read_text())
    (backbone / "config.json").write_text(json.dumps(tree | {"model_type": "qwen3_5"}))
    _, _, error = cli("init", "--backbone", backbone, "--out", out)
    assert "neither spacevllm nor a backbone's" in error and not out.exists()
