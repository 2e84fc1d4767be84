"""Annotations → shards: the same bytes for the same seed, and no line lost without a reason."""

from __future__ import annotations

import json
import random

import pytest

from pipelines import storage
from pipelines.build_unistg import LINES, BuildUnistgConfig, check_lines, read_lines, run
from pipelines.manifest import data_set_media, read_records
from pipelines.tracking import TrackingConfig
from spacevllm.config import ConfigError
from spacevllm.data.instance import SCHEMA, Instance

OFF = TrackingConfig(enabled=False)


def record(i, split="train", **changes):
    instance = Instance(
        id=f"{split}{i}", task="vtg", source="test", split=split, media=f"media/{split}/{i // 3}.mp4",
        media_type="video", question=f"what happens {i}?", begin_frame=8, end_frame=16, begin_s=1.0, end_s=2.0,
        fps_num=8, num_frames=24, width=64, height=48, duration_s=3.0,
    )  # fmt: skip
    return instance.to_row() | changes


def write_lines(folder, split, rows):
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    storage.write_text(folder / f"annotations/{split}.jsonl", "\n".join(lines) + "\n")


def shards(folder):
    files = sorted(folder.rglob("unistg/**/*.parquet"))
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def build(folder, **changes):
    return run(BuildUnistgConfig(**{"data": str(folder), "out": str(folder), "tracking": OFF} | changes))


def test_shards_depend_on_lines_and_seed_alone(tmp_path, ray_cluster, monkeypatch):
    rows = [record(i) for i in range(50)]
    first, second, third = (tmp_path / name for name in "abc")
    for folder in (first, second, third):
        write_lines(folder, "train", rows)
        write_lines(folder, "test", [record(i, "test") for i in range(7)])
    summary = build(first, rows_per_shard=20)
    assert (summary["in"], summary["ok"], summary["failed"], summary["shards"]) == (57, 57, 0, 4)
    assert set(shards(first)) == {f"unistg/train/{i:05d}.parquet" for i in range(3)} | {"unistg/test/00000.parquet"}

    random.Random(0).shuffle(rows)
    write_lines(second, "train", rows)
    monkeypatch.setattr("pipelines.build_unistg.LINES_PER_BLOCK", 5)  # many workers' worth of blocks
    assert build(second, rows_per_shard=20)["digest"] == summary["digest"]
    assert shards(second) == shards(first)

    build(third, rows_per_shard=20, seed=1)
    assert shards(third).keys() == shards(first).keys() and shards(third) != shards(first)

    table = read_records(str(first), "train")
    assert table.schema.equals(SCHEMA)
    assert table["id"].to_pylist() != sorted(table["id"].to_pylist())  # shuffled
    assert {Instance.from_row(row).id for row in table.to_pylist()} == {row["id"] for row in rows}
    media = data_set_media(str(first), ["test"]).to_pylist()
    assert [row["media"] for row in media] == [f"media/test/{i}.mp4" for i in range(3)]
    assert media[0]["uri"] == str(first / "media/test/0.mp4")
    assert storage.read_table(first / "manifest.parquet").num_rows == 17 + 3


def test_running_again_builds_only_what_changed(tmp_path, ray_cluster):
    write_lines(tmp_path, "train", [record(i) for i in range(3)])
    summary = build(tmp_path)
    shard = tmp_path / "unistg/train/00000.parquet"
    built = shard.stat().st_mtime_ns
    assert build(tmp_path) == summary and shard.stat().st_mtime_ns == built

    write_lines(tmp_path, "train", [record(i) for i in range(4)])
    assert build(tmp_path)["ok"] == 4 and shard.stat().st_mtime_ns != built
    shard.unlink()
    assert build(tmp_path)["ok"] == 4 and shard.exists()


def test_bad_lines_are_dropped_with_line_and_reason(tmp_path, ray_cluster):
    bad = [
        ("{", "no JSON"),
        (record(1, task="dance"), "task 'dance'"),
        (record(2, begin_s=5.0), "empty or inverted"),
        (record(3, split="test"), "split 'test' in a file of split 'train'"),
        (record(4, num_frames="many"), "wrong type"),
        ('{"id": "x"}', "missing"),
        ("[1]", ""),
        (record(0), "an id that occurs before"),
    ]
    write_lines(tmp_path, "train", [record(0), *(line for line, _ in bad), record(9)])
    summary = build(tmp_path)
    assert (summary["in"], summary["ok"], summary["failed"]) == (10, 2, 8)
    assert sum(summary["errors"].values()) == 8
    dropped = [json.loads(line) for line in (tmp_path / "dropped.jsonl").read_text().splitlines()]
    assert [row["line"] for row in dropped] == list(range(2, 10))
    for row, (_, why) in zip(dropped, bad, strict=True):
        assert why in row["reason"]


def test_another_folder_refers_to_the_media_where_they_are(tmp_path):
    write_lines(tmp_path, "train", [record(0), record(1, media="s3://bucket/1.mp4")])
    checked = check_lines(read_lines(str(tmp_path)), media_root="/data")
    assert checked["media"].to_pylist() == ["/data/media/train/0.mp4", "s3://bucket/1.mp4"]
    assert read_lines(str(tmp_path)).schema.equals(LINES)


def test_no_annotations_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="no annotations"):
        build(tmp_path)
