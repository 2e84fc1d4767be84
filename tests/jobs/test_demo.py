"""The demo, small: every stage for real, then again, then with one thing changed."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
import yaml

from jobs.common import CONFIGS
from jobs.demo import KEY, Stage, run_stages
from spacevllm.config import Config, ConfigError

SMALL = ("num_videos=6", "test_share=0.2", "archive_videos=1", "max_clips=2", f"train_config={CONFIGS / 'debug.yaml'}")


class Number(Config):
    value: int = 0


@pytest.fixture
def chain(tmp_path):
    """Three cheap stages that record their runs; the values are their configurations."""
    done = []

    def make(first=0, second=0):
        def stage(name, value):
            def run():
                done.append(name)
                (tmp_path / name / "summary.json").write_text("{}")

            return Stage(name, str(tmp_path / name), Number(value=value), run)

        return [stage("first", first), stage("second", second), stage("third", 0)]

    return make, done, tmp_path


@pytest.mark.usefixtures("ray")
def test_complete_stages_are_not_run_again(chain):
    make, done, _ = chain
    run_stages(make())
    run_stages(make())
    assert done == ["first", "second", "third"]


@pytest.mark.usefixtures("ray")
def test_a_change_redoes_its_stage_and_what_follows(chain):
    make, done, folder = chain
    run_stages(make())
    (folder / "second" / "old").touch()
    run_stages(make(second=1))
    assert done == ["first", "second", "third", "second", "third"]
    assert not (folder / "second" / "old").exists()


@pytest.mark.usefixtures("ray")
def test_an_interrupted_stage_keeps_its_folder(chain):
    make, done, folder = chain
    run_stages(make())
    (folder / "second" / "summary.json").unlink()
    (folder / "second" / "checkpoint").touch()
    run_stages(make())
    assert done == ["first", "second", "third", "second", "third"]
    assert (folder / "second" / "checkpoint").exists()


@pytest.mark.usefixtures("ray")
def test_a_stranger_s_folder_is_left_alone(chain):
    make, _, folder = chain
    (folder / "first").mkdir()
    (folder / "first" / "thesis.tex").touch()
    with pytest.raises(ConfigError, match="was not made by the demo"):
        run_stages(make())
    assert (folder / "first" / "thesis.tex").exists()
    assert not (folder / "first" / KEY).exists()


@pytest.mark.slow
def test_demo_from_nothing_to_a_report(cli, ray, tmp_path):
    out = tmp_path / "demo"
    status, printed, error = cli("demo", "--out", out, *SMALL)
    assert status == 0, error
    assert "baseline" in printed or "centre" in printed
    for result in ("scores/summary.json", "tubes/tubes", "model/config.json", "report/report.html", "mlflow.db"):
        assert (out / result).exists(), result
        assert result == "mlflow.db" or result.removesuffix("/config.json") in printed
    assert f"mlflow ui --backend-store-uri sqlite:///{out / 'mlflow.db'}" in printed
    with closing(sqlite3.connect(out / "mlflow.db")) as store:
        runs = {name for (name,) in store.execute("SELECT name FROM runs")}
    assert runs == {"build_unistg", "decode", "train", "evaluate", "ground"}
    saved = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and path.name != "mlflow.db"}

    status, printed, error = cli("demo", "--out", out, *SMALL)
    assert status == 0, error
    assert printed.count(" complete: ") == 5
    assert {path: path.stat().st_mtime_ns for path in saved} == saved
    assert yaml.safe_load((out / "training" / "config.yaml").read_text())["data"] == str(out / "data")
