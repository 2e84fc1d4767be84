"""``spacevllm import-llava-video SRC OUT``: checked first, then converted, then a model as any other."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import spacevllm

sys.path.insert(0, str(Path(__file__).parents[1] / "spacevllm" / "model"))

from foreign import onevision, write_llava_video


@pytest.fixture
def source(tmp_path):
    return write_llava_video(tmp_path / "source", onevision())


def test_it_converts_and_says_where(cli, source, tmp_path):
    status, out, _ = cli("import-llava-video", source, tmp_path / "out")
    assert status == 0
    assert out.startswith(f"model: {tmp_path / 'out'} (0.10M parameters, 0.00 GB in 2 files; queries and space decoder")
    assert spacevllm.load(tmp_path / "out").model.config.text.num_key_value_heads == 2
    status, out, error = cli("import-llava-video", source, tmp_path / "out")
    assert (status, out) == (2, "") and "is there already" in error


def test_a_dry_run_checks_the_weights_and_writes_nothing(cli, source, tmp_path):
    status, out, _ = cli("import-llava-video", source, tmp_path / "out", "--dry-run")
    assert status == 0
    assert "everything checked, nothing done: 0.10M parameters" in out and f"source: {source}" in out
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_mistakes_are_one_line(cli, source, tmp_path):
    shard = source / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    for arguments, message in (
        ((tmp_path / "none", tmp_path / "out"), "no such folder"),
        ((tmp_path, tmp_path / "out"), "holds no config.json"),
        (("s3://bucket/model", tmp_path / "out"), "weights are converted between local folders"),
        ((source, tmp_path / "out"), "is cut short or damaged"),
    ):
        status, out, error = cli("import-llava-video", *arguments)
        assert (status, out, error.count("\n")) == (2, "", 1)
        assert error.startswith("spacevllm: ") and message in error
