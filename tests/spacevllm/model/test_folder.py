"""What a model folder says without being loaded is what the loaded model says."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys

import pytest
from tiny import make

import spacevllm
from spacevllm.config import ConfigError
from spacevllm.model import digest
from spacevllm.model.backbones import layout_of
from spacevllm.model.configuration import OWN_FIELDS, SpaceVLLMConfig
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


def test_every_field_that_answers_depend_on_is_part_of_the_digest(folder):
    """With the defaults it is what it was before fields were looked at."""
    answers = OWN_FIELDS - {"backbone_config", "pointer_head", "wordings"}  # the rest is the weights', or training's
    assert {name: getattr(SpaceVLLMConfig(), name) for name in answers} == digest.ANSWER_FIELDS
    tree = json.loads((folder / "config.json").read_text())

    def digest_with(**fields):
        (folder / "config.json").write_text(json.dumps(tree | fields))
        return digest.digest_of(folder)

    plain = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()[:16]
    assert digest_with(**digest.ANSWER_FIELDS) == plain == digest_with(**digest.ANSWER_FIELDS, wordings="one")
    other = [digest_with(**digest.ANSWER_FIELDS | {name: "other"}) for name in digest.ANSWER_FIELDS]
    assert len({plain, *other}) == 1 + len(digest.ANSWER_FIELDS)
    as_it_was = digest_with()
    asked_for = Predictor.load(folder, fields={"time_encoding": "list"}).digest
    assert asked_for == digest_with(time_encoding="list") != as_it_was


@pytest.mark.parametrize("writable", [True, False])
def test_weights_are_summed_once_until_a_file_changes(folder, tmp_path, monkeypatch, writable):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if not writable:
        (folder / digest.KNOWN).mkdir()  # as in a folder of somebody else's: it cannot be written
    first = digest.digest_of(folder)
    assert bool(list(tmp_path.glob("cache/spacevllm/digests/*.json"))) is not writable
    assert not list(folder.glob(f"{digest.KNOWN}.*")), "nothing half-written is left"
    weights = folder / "model.safetensors"
    stat, data = weights.stat(), weights.read_bytes()
    weights.write_bytes(bytes(len(data)))
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert digest.digest_of(folder) == first, "they were read again"
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    changed = digest.digest_of(folder)
    assert changed != first
    weights.write_bytes(data)
    assert digest.digest_of(folder) == first
    (folder / "calibration.json").write_text("{}")
    assert digest.digest_of(folder) not in (first, changed)


def test_a_model_elsewhere_is_said_to_be_elsewhere():
    for uri in ("s3://bucket/model", "models:/grounder@best"):
        for read in (read_facts, spacevllm.load):
            with pytest.raises(FileNotFoundError, match=r"no folder of this machine: spacevllm\.load") as error:
                read(uri)
            assert uri in str(error.value)


def test_planning_a_run_needs_no_torch():
    modules = "{'torch', 'transformers', 'ray'} & set(sys.modules)"
    code = f"import sys, pipelines.archive.ground, jobs.ground; print(sorted({modules}))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
