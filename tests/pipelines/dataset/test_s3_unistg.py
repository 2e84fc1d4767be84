"""Uni-STG from a bucket into a bucket: the same flags, the same bytes, and a store that fails now and then."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from s3_server import SECRET, clean, s3_bucket

from pipelines.core import storage
from pipelines.dataset import unistg
from pipelines.dataset.convert import ConvertConfig
from pipelines.dataset.convert import run as convert
from pipelines.dataset.unistg import UnistgConfig

ROOT = Path(__file__).parents[3]
SPLITS, OFF = ("test", "train"), "tracking.enabled=false"
LINES = [f"AO8RW {k}.0 {k + 5}.5##a person does thing {k}." for k in range(28)]


@pytest.fixture(scope="module")
def bucket():
    with s3_bucket(slow_every=9) as served:
        yield served


def write_files(folder):
    storage.write_text(f"{folder}/charades_sta_train.txt", "".join(f"{line}\n" for line in [*LINES, "nonsense"]))
    storage.write_text(f"{folder}/charades_sta_test.txt", f"{LINES[0].replace('AO8RW', 'AO8RX')}\n")
    storage.write_json(f"{folder}/charades.json", {name: {"duration": 33.67} for name in ("AO8RW", "AO8RX")})
    turns = [{"from": "human", "value": "What has three sides?"}, {"from": "gpt", "value": "A triangle."}]
    storage.write_json(f"{folder}/llava.json", [{"id": 1, "conversations": turns}])


def sources(folder):
    """The files as a configuration names them."""
    charades = {"source": "charades_sta", "durations": f"{folder}/charades.json", "media_root": "s3://bucket/videos"}
    found = [charades | {"annotations": f"{folder}/charades_sta_{split}.txt"} for split in ("train", "test")]
    return [*found, {"source": "llava", "annotations": f"{folder}/llava.json"}]


BUILDS = """
import json, sys
from jobs.cli import main
from pipelines.core.cluster import ray_session
with ray_session():
    sys.exit(any(main(["build-unistg", *arguments]) for arguments in json.loads(sys.argv[1])))
"""


def build(environment, *builds):
    """``build-unistg`` with one list of arguments after the other, in a process of its own: Ray's workers have the
    environment that it started with."""
    command = [sys.executable, "-c", BUILDS, json.dumps(builds)]
    done = subprocess.run(command, cwd=ROOT, env=clean(environment), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert SECRET not in done.stdout + done.stderr


def content(out, *beginnings):
    """Name → bytes of the files whose names begin so."""
    files = {uri.removeprefix(storage.absolute(out)).lstrip("/"): uri for uri in storage.find(out)}
    return {name: storage.open_read(uri).read() for name, uri in files.items() if name.startswith(beginnings)}


def test_convert_reads_and_writes_a_bucket_as_it_does_a_folder(bucket, tmp_path):
    summaries, annotations = [], []
    for place in ("s3://bucket/convert", str(tmp_path)):
        write_files(f"{place}/files")
        options = sources(f"{place}/files")
        summaries.append([convert(ConvertConfig(out=f"{place}/out", **source)) for source in options])
        annotations.append(content(f"{place}/out", "annotations/"))
        [dropped] = storage.read_text(f"{place}/out/dropped.jsonl").splitlines()
        assert json.loads(dropped)["annotations"] == f"{place}/files/charades_sta_train.txt"
    assert summaries[0] == summaries[1] and [summary["kept"] for summary in summaries[0]] == [28, 1, 1]
    assert annotations[0] == annotations[1] and set(annotations[0]) == {f"annotations/{s}.jsonl" for s in SPLITS}
    again = convert(ConvertConfig(out="s3://bucket/convert/out", **sources("s3://bucket/convert/files")[0]))
    assert (
        again["replaced"] == 28 and content("s3://bucket/convert/out", "annotations/").keys() == annotations[0].keys()
    )


@pytest.mark.slow
def test_a_bucket_holds_what_a_folder_holds(bucket, tmp_path, ray_cluster):
    environment, app = bucket
    write_files("s3://bucket/files")
    write_files(tmp_path / "files")
    config = tmp_path / "unistg.yaml"
    fields = {"out": "s3://bucket/unistg", "sources": sources("s3://bucket/files"), "tracking": {"enabled": False}}
    config.write_text(json.dumps(fields))
    first = ["--config", str(config)]
    build(environment, first, ["--data", "s3://bucket/unistg/sources", "--out", "s3://bucket/again", OFF])
    local = fields | {"out": str(tmp_path / "unistg"), "sources": sources(tmp_path / "files")}
    unistg.run(UnistgConfig.model_validate(local))
    names = ("unistg/", "manifest.parquet", "dataset.json")
    built = content("s3://bucket/unistg", *names)
    assert built == content(tmp_path / "unistg", *names) and {f"unistg/{s}/00000.parquet" for s in SPLITS} < set(built)
    assert storage.read_json("s3://bucket/unistg/summary.json")["ok"] == 30
    assert "charades_sta" in storage.read_text("s3://bucket/unistg/data_card.html")

    assert content("s3://bucket/again", *names) == built
    assert not [path for path in storage.resolve("s3://bucket")[0].find("bucket") if "/.build/" in path]
    assert app.counts["slow"] > 10
