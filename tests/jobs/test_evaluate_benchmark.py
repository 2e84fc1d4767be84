"""``spacevllm evaluate --benchmark``: what is checked before a model is loaded."""

from __future__ import annotations

import benchmark_files
import pytest


@pytest.fixture
def folders(tmp_path):
    """(--model, --data-root): a folder that looks like a model, two benchmarks without media."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    for name in ("hcstvg_v1", "charades_sta"):
        benchmark_files.write(name, tmp_path / "root" / name)
    return tmp_path / "model", tmp_path / "root"


def test_a_dry_run_counts_and_touches_nothing(cli, folders, tmp_path):
    model, root = folders
    arguments = ("evaluate", "--model", model, "--data-root", root, "--out", tmp_path / "out", "--dry-run")
    status, plan, _ = cli(*arguments, "--benchmark", "all", "--limit", "1")
    assert status == 0
    assert "hcstvg_v1: 1 queries" in plan and "charades_sta: 1 queries" in plan and "limit: 1" in plan
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "give --data, or --benchmark with --data-root"),
        (("--benchmark", "vidstg"), "give --data, or --benchmark with --data-root"),
        (("--benchmark", "vidstg", "--data-root", "ROOT"), "get github.com/Guaranteer/VidSTG-Dataset"),
        (("--benchmark", "nope", "--data-root", "ROOT"), "no such benchmark; known: hcstvg_v1"),
        (("--benchmark", "all", "--data-root", "NONE"), "no such folder"),
        (("--benchmark", "all", "--data-root", "MODEL"), "holds no folder named hcstvg_v1"),
        (("--benchmark", "all", "--data-root", "ROOT", "--data", "x"), "give --data, or --benchmark"),
    ],
)
def test_what_is_wrong_is_one_line(cli, folders, tmp_path, options, message):
    model, root = folders
    names = {"ROOT": root, "MODEL": model, "NONE": tmp_path / "none"}
    given = [names.get(option, option) for option in options]
    status, out, error = cli("evaluate", "--model", model, "--out", tmp_path / "out", *given, "--dry-run")
    assert (status, out, error.count("\n")) == (2, "", 1) and message in error
