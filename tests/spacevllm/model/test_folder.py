"""What a model folder says without being loaded is what the loaded model says."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from tiny import make

from spacevllm.config import ConfigError
from spacevllm.model.backbones import layout_of
from spacevllm.model.configuration import SpaceVLLMConfig
from spacevllm.model.folder import read_facts
from spacevllm.model.weights import CheckpointError
from spacevllm.predictor import Predictor


@pytest.fixture
def folder(tmp_path):
    Predictor(*make()).save(tmp_path / "model")
    return tmp_path / "model"


def test_facts_are_those_of_the_loaded_model(folder):
    loaded = Predictor.load(folder)
    assert read_facts(folder) == (loaded.model_id, loaded.digest, loaded.num_frames, loaded.image_size)


def test_what_a_configuration_leaves_out_is_the_papers(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "spacevllm"}))
    facts, config = read_facts(folder), SpaceVLLMConfig()
    assert (facts.num_frames, facts.image_size) == (config.num_frames, layout_of(config).frame_size)


def test_what_is_wrong_is_said_without_loading(folder):
    weights = folder / "model.safetensors"
    (folder / "calibration.json").write_text("{}x")
    with pytest.raises(ConfigError, match="not a calibration"):
        read_facts(folder)
    (folder / "calibration.json").unlink()
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="cut short or damaged"):
        read_facts(folder)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"no model\.safetensors"):
        read_facts(folder)
    (folder / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError, match="'bert' is neither"):
        read_facts(folder)


def test_planning_a_run_needs_no_torch():
    modules = "{'torch', 'transformers', 'ray'} & set(sys.modules)"
    code = f"import sys, pipelines.archive.ground, jobs.ground; print(sorted({modules}))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
