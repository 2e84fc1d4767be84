"""Ask an archive, learn to say no, look for one thing: the jobs as a person runs them, on an untrained model."""

from __future__ import annotations

import json
import shutil

import pyarrow as pa
import pytest

from jobs.cli import main
from pipelines.core import storage
from spacevllm.calibration import FILE, Calibration


@pytest.fixture(scope="module")
def doubtful(tmp_path_factory, ray):
    """A data set that also asks about what does not occur."""
    folder = tmp_path_factory.mktemp("doubtful") / "data"
    options = ["world.absent_per_video=3", "world.images_per_video=0", "test_share=0.5"]
    assert main(["moving-shapes", "--out", str(folder), "--num-videos", "4", "--seed", "1", *options]) == 0
    return folder


@pytest.mark.slow
def test_evaluate_then_calibrate_then_search(cli, doubtful, model, tmp_path):
    own = shutil.copytree(model, tmp_path / "model")
    scores = tmp_path / "scores"
    status, out, error = cli("evaluate", "--model", own, "--data", doubtful, "--out", scores)
    assert status == 0, error
    presence = json.loads((scores / "summary.json").read_text())["presence"]
    assert presence["n_absent"] == 6 and 0 <= presence["auroc"] <= 1
    assert 0 <= presence["false_alarms@recall0.95"] <= 1 and "presence " in out
    absent = [r for r in storage.read_table(scores / "queries.parquet").to_pylist() if r["status"] == "absent"]
    assert len(absent) == 6 and all(row["truth_present"] is False for row in absent)

    status, _, error = cli("calibrate", "--model", own, "--scores", scores)
    assert status == 2 and "0 questions about what is there" in error  # it mumbled, and no answer has no confidence
    speak(scores / "queries.parquet")
    status, out, error = cli("calibrate", "--model", own, "--scores", scores)
    assert status == 0, error
    found = Calibration.load(own)
    assert found.n_absent == 5 and ", 1 without an answer left out" in out and f"calibration: {own / FILE}" in out
    assert found(0.9) > 0.8 and found(0.1) < 0.2  # the one without an answer bends nothing
    status, _, error = cli("calibrate", "--model", own, "--scores", scores)
    assert status == 2 and "remove it, evaluate again" in error
    status, _, error = cli("calibrate", "--model", model, "--scores", tmp_path)
    assert status == 2 and "holds no queries.parquet" in error

    videos, out = doubtful / "media" / "test", tmp_path / "found"
    options = ("--model", own, "--videos", videos, "--out", out)
    status, said, error = cli("search", "the red circle while it moves left", *options)
    assert status in (0, 3), error  # an untrained model may mumble
    assert said.splitlines()[-1].startswith(f"page: {out / 'page' / 'report.html'} (found in ")
    assert "the red circle while it moves left" in (out / "page" / "report.html").read_text()
    assert {row["present"] for row in storage.read_table(out / "tubes").to_pylist()} <= {True, False}
    cli("search", "the red circle while it moves left", *options)
    assert storage.read_json(out / "summary.json")["new"] == 0
    assert storage.read_json(out / "page" / "summary.json")["in"] == 2

    options = (
        "--model",
        own,
        "--videos",
        next(videos.glob("*.mp4")),
        "--out",
        out,
    )  # the others' answers lie there, too
    _, said, _ = cli("search", "the red circle while it moves left", *options)
    assert storage.read_json(out / "page" / "summary.json")["in"] == 1
    assert "of 1 videos" in said.splitlines()[-1]


def speak(queries):
    """As a model that can tell would have answered all questions but one."""
    rows = storage.read_table(queries).to_pylist()
    told = [row for row in rows if row["truth_present"] is not None]
    for number, row in enumerate(told):
        row["confidence"] = (0.9 if row["truth_present"] else 0.1) + number / 1000
    next(row for row in told if not row["truth_present"])["confidence"] = -1.0
    storage.write_table(queries, pa.Table.from_pylist(rows))


def test_an_empty_question_is_refused(cli, model, tmp_path):
    status, _, error = cli("search", " ", "--model", model, "--videos", tmp_path, "--out", tmp_path / "o")
    assert status == 2 and "question" in error and error.count("\n") == 1
