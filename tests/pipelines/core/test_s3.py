"""Archives and outputs in S3: a real server, read and written through the same flags as folders."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.fs
import pytest
from s3_server import SECRET, clean, s3_bucket

from jobs.cli import main
from pipelines.core import locks, storage
from pipelines.core.commits import Block, committing
from pipelines.core.models import local_model
from pipelines.core.results import Results
from pipelines.core.tracking import TrackingConfig
from pipelines.dataset.build_unistg import BuildUnistgConfig
from pipelines.dataset.build_unistg import run as build_unistg
from pipelines.media.decode import DecodeOptions, Decoder
from pipelines.media.manifest import list_videos
from pipelines.media.reading import Plan
from spacevllm.data.moving_shapes import write_data_set
from spacevllm.predictor import Predictor

ROOT = Path(__file__).parents[3]


@pytest.fixture
def s3(request):
    """A bucket behind the server, in this process; gives the middleware."""
    with s3_bucket(**getattr(request, "param", {})) as (_, app):
        yield app


def test_a_prefix_a_glob_and_a_manifest_in_s3(s3, archive):
    storage.copy_folder(archive, "s3://bucket/videos")
    rows = list_videos("s3://bucket/videos/").to_pylist()
    assert [row["uri"] for row in rows][:2] == ["s3://bucket/videos/clip0.mp4", "s3://bucket/videos/clip1.mp4"] and len(
        rows
    ) == 7
    assert list_videos("s3://bucket/videos/clip*.mp4").num_rows == 4
    storage.write_text("s3://bucket/videos/m.csv", "video,question\nclip0.mp4,a dog\ns3://bucket/gone.mp4,a dog\n")
    found = {row["uri"]: row for row in list_videos("s3://bucket/videos/m.csv").to_pylist()}
    assert found["s3://bucket/videos/clip0.mp4"] | {"questions": [], "size": rows[0]["size"]} == rows[0]
    assert found["s3://bucket/gone.mp4"]["version"] == ""


def test_an_object_that_stands_for_a_folder_is_no_file(s3, tmp_path):
    storage.write_bytes("s3://bucket/model/", b"")  # as a console or pyarrow makes it
    storage.write_bytes("s3://bucket/model/config.json", b"{}")
    assert list(storage.find("s3://bucket/model")) == ["s3://bucket/model/config.json"]
    storage.copy_folder("s3://bucket/model", tmp_path / "model")
    assert (tmp_path / "model/config.json").read_text() == "{}"


def test_what_another_process_wrote_is_seen_at_once(s3, tmp_path):
    results = Results("s3://bucket/out/tubes")
    assert results.done({}) == (set(), set())
    write = """
import pyarrow as pa
from pipelines.core.commits import Block, committing
from pipelines.core.results import Results
results = Results("s3://bucket/out/tubes")
row = pa.table({"id": ["x"], "status": ["ok"], "error": [""], "fingerprint": ["f"]})
with committing(results, set()) as commits:
    commits.add(Block(results.write(row), ["x"]))
"""
    subprocess.run([sys.executable, "-c", write], check=True, cwd=ROOT, timeout=300)
    assert results.done({"x": "f"}) == ({"x"}, set())
    assert results.done({"x": "g"}) == (set(), {"x"})
    row = pa.table({"id": ["x"], "status": ["ok"], "error": [""], "fingerprint": ["g"]})
    with committing(results, {"x"}) as commits:
        commits.add(Block(results.write(row), ["x"]))
    assert results.collect({"x": "g"})["fingerprint"].to_pylist() == ["g"] and len(results.uris()) == 1


def test_two_drivers_on_a_bucket_leave_each_row_once(s3):
    results = Results("s3://bucket/out/tubes")
    row = pa.table({"id": ["x"], "status": ["ok"], "error": [""], "fingerprint": ["f"]})
    with committing(results, set()) as first, committing(results, set()) as second:
        first.add(Block(results.write(row), ["x"]))
        first.close()
        second.add(Block(results.write(row), ["x"]))
        second.close()
    assert results.table(["id"])["id"].to_pylist() == ["x"]


def test_a_lease_is_held_renewed_and_taken_over_from_the_dead(s3, monkeypatch):
    """Whatever machine the dead one was on, and whatever its clock said."""
    monkeypatch.setattr(locks, "RENEW_S", 0.2)
    monkeypatch.setattr(locks, "EXPIRE_S", 3.0)
    lock = "s3://bucket/out/.lock"
    with locks.exclusive("s3://bucket/out"):
        busy = pytest.raises(locks.StorageBusy, match=rf"process {os.getpid()} on .*choose another --out")
        with busy, locks.exclusive("s3://bucket/out"):
            pass
    assert not storage.exists(lock)
    storage.write_json(lock, {"pid": 1, "host": "a spot node", "lease": "x", "beat": 7})
    with locks.exclusive("s3://bucket/out"):
        mine = storage.read_json(lock)
        assert mine["pid"] == os.getpid()
        storage.write_json(lock, {**mine, "lease": "somebody who thought this one dead"})
    assert storage.exists(lock)  # it is theirs now


def test_an_output_in_a_bucket_that_is_not_there_is_one_line(s3, archive, capsys, tiny_model):
    """And no bucket comes to be by a typing error."""
    asked = ["--videos", str(archive), "--question", "a dog", "--out", "s3://bukcet/runs"]
    assert main(["ground", "--model", str(tiny_model), *asked]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "there is no bucket bukcet; make it first" in error
    with pytest.raises(storage.OutputError, match="no bucket bukcet"), locks.exclusive("s3://bukcet/runs"):
        pass
    assert [bucket["Name"] for bucket in storage.resolve("s3://bucket")[0].call_s3("list_buckets")["Buckets"]] == [
        "bucket"
    ]
    with locks.exclusive("s3://bucket/runs"):
        assert storage.exists("s3://bucket/runs/.lock")


def test_a_file_written_piece_by_piece_is_there_whole_or_not_at_all(s3):
    with storage.open_write("s3://bucket/whole.txt") as file:
        file.write(b"one ")
        file.write(b"two")
    assert storage.read_text("s3://bucket/whole.txt") == "one two"
    with pytest.raises(RuntimeError), storage.open_write("s3://bucket/half.txt") as file:
        file.write(b"one ")
        raise RuntimeError
    assert not storage.exists("s3://bucket/half.txt")


def test_the_model_of_a_checkpoint_in_a_bucket_is_kept_beside_it(s3, tmp_path):
    """The checkpoint as Ray Train makes and names it: copied by pyarrow, its path without a scheme."""
    from ray.train import Checkpoint

    from pipelines.train import MetricsHistory, keep_model

    for file, data in {"state.pt": b"optimiser", "model/config.json": b"{}", "model/weights": b"w" * 5_000_000}.items():
        storage.write_bytes(tmp_path / "local" / file, data)
    filesystem, path = storage.arrow("s3://bucket/run/checkpoints/recipe/checkpoint_1")
    pyarrow.fs.copy_files(str(tmp_path / "local"), path, destination_filesystem=filesystem)
    checkpoint = pickle.loads(pickle.dumps(Checkpoint(path, filesystem)))  # it travels between processes
    assert "://" not in checkpoint.path
    storage.write_text("s3://bucket/run/model/calibration.json", "of earlier weights")
    keep_model(checkpoint.path, "s3://bucket/run")
    kept = [uri.removeprefix("s3://bucket/run/") for uri in storage.find("s3://bucket/run/model")]
    assert kept == ["model/config.json", "model/weights"]
    assert storage.open_read("s3://bucket/run/model/weights").read() == b"w" * 5_000_000
    with checkpoint.as_directory() as folder:  # what a resumed worker does
        assert Path(folder, "state.pt").read_bytes() == b"optimiser"
    with pytest.raises(FileNotFoundError, match="cannot copy s3://bucket/run/none/model"):
        keep_model("bucket/run/none", "s3://bucket/run")
    for _ in range(2):  # the second goes on with the first one's file
        history = MetricsHistory("s3://bucket/run/metrics.jsonl", "recipe")
        history.add({"step": len(history.rows), "loss": 1.0})
    assert [json.loads(line)["step"] for line in storage.read_lines("s3://bucket/run/metrics.jsonl")] == [0, 1]


@pytest.mark.parametrize("s3", [{"slow_every": 3, "cut_every": 2}], indirect=True)
def test_a_store_that_is_slow_and_cuts_connections_is_asked_again(s3, archive):
    for i in range(3):
        storage.write_bytes(f"s3://bucket/clip{i}.mp4", (archive / f"clip{i}.mp4").read_bytes())
    decoder = Decoder(Plan(4, 32), DecodeOptions())
    for i in range(3):
        row, local = decoder.decode(f"s3://bucket/clip{i}.mp4"), decoder.decode(str(archive / f"clip{i}.mp4"))
        assert row["status"] == "ok", row["error"]
        assert row["frames"] == local["frames"]
    results = Results("s3://bucket/tubes")
    with committing(results, set()) as commits:
        for i in range(5):
            row = pa.table({"id": [str(i)], "status": ["ok"], "error": [""], "fingerprint": ["f"]})
            commits.add(Block(results.write(row), [str(i)]))
    assert results.done({str(i): "f" for i in range(5)})[0] == {str(i) for i in range(5)}
    assert s3.counts["slow"] >= 5 and s3.counts["cut"] >= 1, s3.counts


def spacevllm(environment, *arguments):
    command = [sys.executable, "-m", "jobs.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=clean(environment), capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_ground_reads_and_writes_a_bucket_that_fails_now_and_then(archive, tmp_path, tiny_model):
    with s3_bucket(slow_every=11, cut_every=5) as (environment, app):
        storage.copy_folder(archive, "s3://bucket/videos")
        storage.copy_folder(tiny_model, "s3://bucket/model")
        environment["XDG_CACHE_HOME"] = str(tmp_path / "cache")
        options = (
            "--model",
            "s3://bucket/model",
            "--videos",
            "s3://bucket/videos",
            "--question",
            "a dog",
            "--question",
            "a cat",
        )
        options += (
            "--out",
            "s3://bucket/runs/out",
            "--export",
            "cvat",
            "--export",
            "jsonl",
            f"tracking.store=sqlite:///{tmp_path}/runs.db",
        )
        done = spacevllm(environment, "ground", *options)
        assert done.returncode == 3, done.stderr  # three of the videos are broken
        rows = storage.read_table("s3://bucket/runs/out/tubes").to_pylist()
        assert len(rows) == 14 == len({row["id"] for row in rows})
        broken = [row["error"].partition(":")[0] for row in rows if "/clip" not in row["video"]]
        assert sorted(broken) == sorted(["empty_file", "not_a_video", "truncated"] * 2)
        again = spacevllm(environment, "ground", *options)
        assert "14" not in again.stderr and storage.read_json("s3://bucket/runs/out/summary.json")["new"] == 0
        assert app.counts["slow"] and app.counts["cut"]
        written = [storage.open_read(uri).read() for uri in storage.find("s3://bucket/runs")]
        logs = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
        for text in [*written, *logs, done.stderr.encode(), done.stdout.encode(), again.stderr.encode()]:
            assert SECRET.encode() not in text
        assert json.loads(storage.read_text("s3://bucket/runs/out/exports/tubes.jsonl").splitlines()[0])["id"]


@pytest.mark.slow
def test_train_leaves_its_model_in_a_bucket_and_goes_on_from_there(tmp_path, monkeypatch):
    data = str(tmp_path / "data")
    write_data_set(data, num_videos=4, seed=1)
    build_unistg(BuildUnistgConfig(data=data, out=data, tracking=TrackingConfig(enabled=False)))
    with s3_bucket() as (environment, _):
        command = ("train", "--config", "jobs/configs/debug.yaml", "--data", data, "--out", "s3://bucket/run")
        command += ("phases={stills: {sources: stills, steps: 3, batch_size: 2}}", "tracking.enabled=false")
        command += ("train.log_every=1", "train.checkpoint_every=2", "workers.num_workers=1")
        done = spacevllm(environment, *command)
        assert done.returncode == 0 and "model: s3://bucket/run/model" in done.stdout, done.stderr
        weights = {uri: storage.open_read(uri).read() for uri in storage.find("s3://bucket/run/model")}
        assert [json.loads(line)["step"] for line in storage.read_lines("s3://bucket/run/metrics.jsonl")] == [1, 2, 3]
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        assert Predictor.load(local_model("s3://bucket/run/model")).num_frames == 8
        for file in ("model/model.safetensors", "summary.json"):
            storage.remove(f"s3://bucket/run/{file}")  # as if it had been killed while it wrote them
        again = spacevllm(environment, *command)
        assert again.returncode == 0, again.stderr
        assert {uri: storage.open_read(uri).read() for uri in storage.find("s3://bucket/run/model")} == weights
