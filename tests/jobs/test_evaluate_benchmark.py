"""``spacevllm evaluate --benchmark`` and ``benchmark-fixtures``: as a stranger tries them, and what is said before."""

from __future__ import annotations

import json

import benchmark_files
import pytest

from spacevllm.evaluation.fixtures import FIXTURES


@pytest.fixture
def folders(tmp_path, make_mp4):
    """(--model, --data-root): a folder that looks like a model; two benchmarks, one of them without a media."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    for name in ("hcstvg_v1", "charades_sta"):
        benchmark_files.write(name, tmp_path / "root" / name)
    make_mp4(tmp_path / "root/hcstvg_v1/media/7_abc.mkv")
    return tmp_path / "model", tmp_path / "root"


def test_a_dry_run_counts_and_touches_nothing(cli, folders, tmp_path):
    model, root = folders
    arguments = ("evaluate", "--model", model, "--data-root", root, "--out", tmp_path / "out", "--dry-run")
    status, plan, _ = cli(*arguments, "--benchmark", "all", "--limit", "1")
    assert status == 0 and "limit: 1" in plan
    assert (
        "hcstvg_v1: 1 of 2 queries" in plan and "charades_sta: not there (" in plan and "mvbench: not there (" in plan
    )
    status, plan, _ = cli(*arguments, "--benchmark", "hcstvg_v1")
    assert status == 0 and "hcstvg_v1: 1 of 2 queries" in plan
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "give --data, or --benchmark with --data-root"),
        (("--benchmark", "vidstg"), "give --data, or --benchmark with --data-root"),
        (("--benchmark", "vidstg", "--data-root", "ROOT"), "get github.com/Guaranteer/VidSTG-Dataset"),
        (("--benchmark", "charades_sta", "--data-root", "ROOT"), "3MSZA.mp4: no such file, nor any other"),
        (("--benchmark", "nope", "--data-root", "ROOT"), "no such benchmark; known: hcstvg_v1"),
        (("--benchmark", "all", "--data-root", "NONE"), "no such folder"),
        (("--benchmark", "all", "--data-root", "ROOT", "--data", "x"), "give --data, or --benchmark"),
        (("--benchmark", "all", "--data-root", "ROOT", "--split", "val"), "--split is for one --benchmark"),
        (("--benchmark", "hcstvg_v1", "--data-root", "ROOT", "--split", "val"), "hcstvg_v1 has train, test"),
    ],
)
def test_what_is_wrong_is_one_line(cli, folders, tmp_path, options, message):
    model, root = folders
    names = {"ROOT": root, "MODEL": model, "NONE": tmp_path / "none"}
    given = [names.get(option, option) for option in options]
    status, out, error = cli("evaluate", "--model", model, "--out", tmp_path / "out", *given, "--dry-run")
    assert (status, out, error.count("\n")) == (2, "", 1) and message in error


def test_without_any_benchmark_each_says_where_to_get_it(cli, folders, tmp_path):
    """One line a benchmark and one to go on with; no model is loaded, nothing is started for it."""
    model, _ = folders
    status, out, error = cli(
        "evaluate", "--benchmark", "all", "--model", model, "--data-root", model, "--out", tmp_path
    )
    *lines, last = error.splitlines()
    assert (status, out) == (2, "") and [line.split()[1] for line in lines] == list(FIXTURES)
    assert all("; get " in line and "/media" in line for line in lines)
    assert "benchmark-fixtures" in last


def test_fixtures_are_never_written_over_something_else(cli, tmp_path):
    (tmp_path / "vidstg").mkdir()
    status, out, error = cli("benchmark-fixtures", "--out", tmp_path)
    assert (status, out, error.count("\n")) == (2, "", 1) and "vidstg is there already" in error


ONE_OF_EACH = ["charades_sta", "refcoco+", "mvbench"]  # tasks: to start with each benchmark takes ten seconds or more


@pytest.mark.slow
def test_a_stranger_tries_all_benchmarks(cli, ray, tmp_path):
    """Stand-ins, an untrained model, the real way: one table; without media the others still run."""
    root, out = tmp_path / "root", tmp_path / "out"
    status, said, _ = cli("benchmark-fixtures", "--out", root, "--num-videos", "1")
    assert status == 0 and "egoschema" in said
    assert cli("benchmark-fixtures", "--out", root, "--num-videos", "1")[0] == 0  # its own may be made again
    arguments = ("evaluate", "--benchmark", "all", "--model", "tiny", "--data-root", root, "--out", out, "--limit", "2")
    arguments += ("worst=1", "tracking.enabled=false", f"benchmarks={json.dumps(ONE_OF_EACH)}")
    status, table, error = cli(*arguments)
    assert status == 0 and "is not scored" not in error
    rows = [line.split("|")[1].split()[0] for line in table.splitlines() if line.startswith("| ")][1:]
    assert list(dict.fromkeys(rows)) == ONE_OF_EACH
    summary = json.loads((out / "summary.json").read_text())
    assert all(scored["in"] <= 2 and scored["in"] == scored["new"] for scored in summary["benchmarks"].values())
    for media in (root / "mvbench/media").iterdir():
        media.unlink()
    status, table, error = cli(*arguments)
    assert status == 3 and error.count("is not scored") == 1 and "mvbench/media" in error
    again = json.loads((out / "summary.json").read_text())
    assert len(again["benchmarks"]) == 2 and all(scored["new"] == 0 for scored in again["benchmarks"].values())
