"""Jobs that share one OUT: each does its own part, beside the others, and together they have done it all."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest
import ray.cloudpickle
import standin
from s3_server import s3_bucket

from pipelines.archive.ground import GroundConfig, run
from pipelines.archive.plan import open_plan
from pipelines.archive.shards import Shard
from pipelines.archive.tubes import results_of, visible
from pipelines.core import locks, storage
from pipelines.core.commits import Block, Commits, committing
from pipelines.core.delta import Log
from pipelines.core.results import Results
from pipelines.core.tracking import TrackingConfig
from pipelines.media.manifest import media_rows
from spacevllm.config import ConfigError, parse_config

ray.cloudpickle.register_pickle_by_value(standin)  # Ray's workers do not see the tests' folder
FIRST, SECOND = Shard.read("1/2").name, Shard.read("2/2").name


def config(archive, tmp_path, **changes):
    values = {"model": "m", "videos": str(archive), "question": ("a dog", "a cat"), "out": str(tmp_path / "out")}
    return GroundConfig(**values | {"tracking": TrackingConfig(enabled=False)} | changes)


def kept(manifest, shard, *questions):
    with open_plan() as plan:
        plan.ask(manifest, questions or [("", "a dog")])
        plan.keep(Shard.read(shard))
        return {row[0] for row in plan.database.execute("SELECT uri FROM asked JOIN media USING (m)").fetchall()}


def test_whose_a_video_is_depends_on_nothing_else():
    names = [f"/{n}.mp4" for n in range(60)]
    manifest = media_rows({name: name for name in names})
    parts = [kept(manifest, f"{n}/3") for n in (1, 2, 3)]
    assert sorted(uri for part in parts for uri in part) == sorted(names) and min(map(len, parts)) > 10
    assert kept(manifest.slice(20, 20), "2/3") == parts[1] & set(names[20:40])
    own = ("0.mp4", "who?")
    assert [kept(manifest, f"{n}/3", own) for n in (1, 2, 3)] == [part & {"/0.mp4"} for part in parts]


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/0", "-1/2", "a/b", "1/2/3"])
def test_what_is_no_shard_is_told(text):
    values = {"model": "m", "videos": "v", "out": "o", "question": "q", "shard": text}
    with pytest.raises(ConfigError, match="no part like 1/4"):
        parse_config(GroundConfig, values, "test")


def hold(folder):
    """Shards go beside each other; nobody goes beside who holds all; the same shard goes once."""
    with locks.exclusive(folder, FIRST), locks.exclusive(folder, SECOND):
        for shard in ("", FIRST):
            with pytest.raises(locks.StorageBusy, match="is being written by process"), locks.exclusive(folder, shard):
                pass
    with locks.exclusive(folder), pytest.raises(locks.StorageBusy), locks.exclusive(folder, FIRST):
        pass
    with locks.exclusive(folder, FIRST):
        pass


def test_shards_hold_their_parts(tmp_path, monkeypatch):
    hold(str(tmp_path / "out"))
    monkeypatch.setattr(locks, "RENEW_S", 0.2)
    with s3_bucket():
        hold("s3://bucket/out")
        monkeypatch.setattr(locks, "EXPIRE_S", 3.0)
        storage.write_json(f"s3://bucket/out/.lock-{FIRST}", {"pid": 1, "host": "a spot node", "lease": "x"})
        with locks.exclusive("s3://bucket/out"):  # that one is dead
            pass


def test_what_other_shards_commit_is_not_read(tmp_path, monkeypatch):
    """But what a driver of all of it commits is: no row comes twice."""
    mine, other, whole = (results_of(str(tmp_path), "g", shard) for shard in (FIRST, SECOND, ""))
    read, real = [], Results.read
    monkeypatch.setattr(Results, "read", lambda self, file, *which: read.append(self.shard) or real(self, file, *which))

    def add(results, driver, name):
        row = pa.table({"id": [name], "status": ["ok"], "error": [""], "fingerprint": ["f"]})
        driver.add(Block(results.write(row, shard=results.shard), [name]))

    first = Commits(mine, set())
    for results, name in ((other, "b"), (other, "c")):
        with committing(results, set()) as driver:
            add(results, driver, name)
    add(mine, first, "a")
    first.close()
    assert not read
    first = Commits(mine, set())
    with committing(whole, set()) as driver:
        add(whole, driver, "d")
    add(mine, first, "d")
    first.close()
    assert read == [FIRST] * len(read) and len(read) > 0
    assert sorted(results_of(str(tmp_path), "g").table(["id"])["id"].to_pylist()) == ["a", "b", "c", "d"]


def test_a_shard_lets_the_rows_of_others_wait(tmp_path):
    """Those of a run over all as well as those of a shard that is still at work."""
    drivers = [results_of(str(tmp_path), "g", shard) for shard in ("", FIRST, SECOND)]

    def add(results, version, *names, replacing=()):
        row = pa.table({"id": names, "fingerprint": [version] * len(names)})
        row = row.append_column("status", [["ok"] * len(names)]).append_column("error", [[""] * len(names)])
        with committing(results, set(replacing)) as driver:
            driver.add(Block(results.write(row, shard=results.shard), names))

    def seen():
        return {row["id"]: row["fingerprint"] for row, _ in drivers[0].rows(["id", "fingerprint"])}

    whole, first, second = drivers
    add(whole, "1", "a", "b", "c", "d")
    add(whole, "2", "a", "b", replacing="ab")
    add(first, "2", "c", replacing="c")
    add(second, "2", "d", replacing="d")
    first.settle({"a": "2", "c": "2"})
    assert seen() == {"a": "2", "b": "1", "c": "2", "d": "1"}
    second.settle({"b": "2", "d": "2"})
    assert seen() == {"a": "2", "b": "2", "c": "2", "d": "2"} and not Log(whole.folder).files(whole.waiting)


def test_the_last_shard_to_end_writes_the_summary_of_the_whole(archive, tmp_path, ray_cluster):
    first = run(config(archive, tmp_path, shard="1/2"), standin.load)
    out = tmp_path / "out"
    assert not (out / "summary.json").exists() and (out / f"config-{FIRST}.yaml").exists()
    second = run(config(archive, tmp_path, shard="2/2"), standin.load)
    whole = json.loads((out / "summary.json").read_text())
    assert first["in"] + second["in"] == whole["in"] == 14 and first["videos"] < whole["videos"] == 7
    assert (whole["ok"], whole["failed"], whole["shards"]) == (8, 6, 2) and sum(whole["errors"].values()) == 6
    assert json.loads((out / f"summary-{SECOND}.json").read_text()) == second
    assert visible(str(out)).table(["id"]).num_rows == 14
    assert run(config(archive, tmp_path), standin.load)["new"] == 0
    assert run(config(archive, tmp_path, shard="1/2"), standin.load)["new"] == 0
    assert run(config(archive, tmp_path, shard="1/2"), standin.load_other)["in"] == first["in"]
    assert json.loads((out / "summary.json").read_text())["generation"] == whole["generation"]  # half of it is no whole
    with pytest.raises(ValueError, match="export needs the answers of all shards"):
        config(archive, tmp_path, shard="1/2", export=("jsonl",))
