"""Archives and outputs in S3: a real server, read and written through the same flags as folders."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest
from s3_server import SECRET, clean, s3_server

from jobs.cli import main
from pipelines.core import locks, storage
from pipelines.core.commits import Block, committing
from pipelines.core.results import Results
from pipelines.media.decode import DecodeOptions, Decoder, Plan
from pipelines.media.manifest import list_videos

ROOT = Path(__file__).parents[3]


@pytest.fixture
def s3(monkeypatch, request):
    """A bucket behind the server, in this process; gives the middleware."""
    with s3_server(**getattr(request, "param", {})) as (environment, app):
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(name)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        storage.resolve("s3://bucket")[0].mkdir("bucket")
        yield app
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def test_a_prefix_a_glob_and_a_manifest_in_s3(s3, archive):
    storage.copy_folder(archive, "s3://bucket/videos")
    rows = list_videos("s3://bucket/videos/").to_pylist()
    assert [row["uri"] for row in rows][:2] == ["s3://bucket/videos/clip0.mp4", "s3://bucket/videos/clip1.mp4"] and len(
        rows
    ) == 7
    assert list_videos("s3://bucket/videos/clip*.mp4").num_rows == 4
    storage.write_text("s3://bucket/videos/m.csv", "video,question\nclip0.mp4,a dog\ns3://bucket/gone.mp4,a dog\n")
    found = {row["uri"]: row for row in list_videos("s3://bucket/videos/m.csv").to_pylist()}
    assert found["s3://bucket/videos/clip0.mp4"] | {"questions": []} == rows[0]
    assert found["s3://bucket/gone.mp4"]["version"] == ""


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


def ground(environment, *arguments):
    command = [sys.executable, "-m", "jobs.cli", "ground", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=clean(environment), capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_ground_reads_and_writes_a_bucket_that_fails_now_and_then(archive, tmp_path, tiny_model, monkeypatch):
    with s3_server(slow_every=11, cut_every=5) as (environment, app):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        storage.resolve("s3://bucket")[0].mkdir("bucket")
        storage.copy_folder(archive, "s3://bucket/videos")
        options = (
            "--model",
            tiny_model,
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
        done = ground(environment, *options)
        assert done.returncode == 3, done.stderr  # three of the videos are broken
        rows = storage.read_table("s3://bucket/runs/out/tubes").to_pylist()
        assert len(rows) == 14 == len({row["id"] for row in rows})
        broken = [row["error"].partition(":")[0] for row in rows if "/clip" not in row["video"]]
        assert sorted(broken) == sorted(["empty_file", "not_a_video", "truncated"] * 2)
        again = ground(environment, *options)
        assert "14" not in again.stderr and storage.read_json("s3://bucket/runs/out/summary.json")["new"] == 0
        assert app.counts["slow"] and app.counts["cut"]
        written = [storage.open_read(uri).read() for uri in storage.find("s3://bucket/runs")]
        logs = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
        for text in [*written, *logs, done.stderr.encode(), done.stdout.encode(), again.stderr.encode()]:
            assert SECRET.encode() not in text
        assert json.loads(storage.read_text("s3://bucket/runs/out/exports/tubes.jsonl").splitlines()[0])["id"]
    fsspec.get_filesystem_class("s3").clear_instance_cache()
