"""Annotations → shards: the same bytes for the same seed, and no line lost without a reason."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.core import storage
from pipelines.core.tracking import TrackingConfig
from pipelines.dataset import build_unistg
from pipelines.dataset.build_unistg import BuildUnistgConfig, run
from pipelines.dataset.build_unistg.buckets import SISTER, TESTED
from pipelines.media.manifest import data_set_media, read_records
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


def boxed(i, box):
    """Two boxes in a frame of 64 x 48, the second one as told."""
    return record(i, task="stvg", box_frames=[8, 9], boxes=[[1.0, 1.0, 2.0, 2.0], box])


def again(**changes):
    """A further span, as ``more`` lists it."""
    span = {"track": 0, "begin_frame": 18, "end_frame": 20, "begin_s": 2.25, "end_s": 2.5}
    return span | {"box_frames": [], "boxes": []} | changes


def write_lines(folder, split, rows):
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    storage.write_text(folder / f"annotations/{split}.jsonl", "\n".join(lines) + "\n")


def shards(folder):
    files = sorted(folder.rglob("unistg/**/*.parquet"))
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def build(folder, **changes):
    return run(BuildUnistgConfig(**{"data": str(folder), "out": str(folder), "tracking": OFF} | changes))


def test_shards_depend_on_lines_and_seed_alone(tmp_path, ray_cluster):
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
        (record(5, duration_s=float("nan")), "duration_s is negative or not finite"),
        (record(6, media_type="audio"), "media_type 'audio' is none of video, image, text"),
        (record(7, media_type="text", media=""), "task vtg needs a video or an image"),
        (record(8, media=""), "a video without media"),
        (boxed(11, [1.0, 2.0, float("nan"), 4.0]), "a box without area or with swapped corners"),
        (boxed(12, [9.0, 2.0, 9.0, 4.0]), "a box without area or with swapped corners"),
        (boxed(13, [60.0, 2.0, 90.0, 4.0]), "a box outside the frame"),
        (boxed(14, [1.0, 2.0, 3.0]), "wrong type"),
        (boxed(15, [1.0, 2.0, 3.0, "4 px"]), "could not convert string to float"),
        (record(16, more=[{"track": 0, "begin_s": 1.0}]), "more: a further tube needs end_s"),
        (record(17, more=[again(box_frames=[1], boxes=[[60.0, 2.0, 90.0, 4.0]])]), "a box outside the frame"),
        (record(0), "an id that occurs before"),
    ]
    over_the_border = boxed(10, [50.0, -2.0, 70.0, 40.0])
    several = record(18, more=[again(), again(track=1, box_frames=[1], boxes=[[1.0, 1.0, 2.0, 2.0]])])
    write_lines(tmp_path, "train", [several, record(0), *(line for line, _ in bad), record(9), over_the_border])
    summary = build(tmp_path)
    assert (summary["in"], summary["ok"], summary["failed"]) == (len(bad) + 4, 4, len(bad))
    assert sum(summary["errors"].values()) == len(bad)
    found = read_records(str(tmp_path)).to_pylist()
    kept = {row["id"]: row["boxes"] for row in found}
    assert {row["id"]: row["more"] for row in found if row["more"]} == {"train18": several["more"]}
    assert kept["train10"] == [[1.0, 1.0, 2.0, 2.0], [50.0, -2.0, 70.0, 40.0]]  # as annotated
    dropped = [json.loads(line) for line in (tmp_path / "dropped.jsonl").read_text().splitlines()]
    assert [row["line"] for row in dropped] == list(range(3, len(bad) + 3))
    for row, (_, why) in zip(dropped, bad, strict=True):
        assert why in row["reason"]


def test_another_folder_refers_to_the_media_where_they_are(tmp_path, ray_cluster):
    write_lines(tmp_path / "data", "train", [record(0), record(1, media="s3://bucket/1.mp4")])
    build(tmp_path / "data", out=str(tmp_path / "out"))
    media = read_records(str(tmp_path / "out"), "train", ["media"])["media"].to_pylist()
    assert sorted(media) == [str(tmp_path / "data/media/train/0.mp4"), "s3://bucket/1.mp4"]
    moved = (tmp_path / "data").rename(tmp_path / "moved")
    build(moved, out=str(tmp_path / "out"))  # the same lines about files that lie elsewhere now
    media = read_records(str(tmp_path / "out"), "train", ["media"])["media"].to_pylist()
    assert sorted(media) == [str(moved / "media/train/0.mp4"), "s3://bucket/1.mp4"]


def test_several_folders_and_what_the_converter_dropped(tmp_path, ray_cluster):
    write_lines(tmp_path / "a", "train", [record(0)])
    write_lines(tmp_path / "out", "train", [record(1), "{"])
    told = '{"source": "vidstg", "annotations": "x.json", "file": "x.json", "key": "1", "reason": "no box"}'
    storage.write_text(tmp_path / "out/dropped.jsonl", f'{told}\n{{"file": "an older build\'s"}}\n')
    build(tmp_path / "out", data=(str(tmp_path / "a"), str(tmp_path / "out")), out=str(tmp_path / "out"))
    media = read_records(str(tmp_path / "out"), "train", ["media"])["media"].to_pylist()
    assert sorted(media) == [str(tmp_path / "a/media/train/0.mp4"), "media/train/0.mp4"]
    first, second = (tmp_path / "out/dropped.jsonl").read_text().splitlines()
    assert first == told and json.loads(second)["reason"] == "the line is no JSON"


@pytest.mark.parametrize("changes", [{"workers": 1}, {"workers": 2, "chunk_mb": 0.002}, {"bucket_mb": 0.001}])
def test_the_same_bytes_whatever_the_parallelism_and_the_sizes(changes, tmp_path, ray_cluster):
    """Also with lines of every length at the borders of chunks, and bad ones between."""
    rows = [record(i, question="what " * (i % 17)) for i in range(60)]
    write_lines(tmp_path, "train", [*rows[:30], "{", *rows[30:], record(3), ""])
    write_lines(tmp_path, "val", [record(i, "val") for i in range(9)])
    results = []
    for number, settings in enumerate([{}, changes]):
        out = tmp_path / str(number)
        summary = build(tmp_path, out=str(out), rows_per_shard=7, **settings)
        names = [*shards(out), "manifest.parquet", "dropped.jsonl"]
        results.append(({name: (out / name).read_bytes() for name in names}, summary | {"seconds": 0}))
        assert not (out / ".build").exists()
    assert results[0] == results[1] and len(results[0][0]) == 9 + 2 + 2


@pytest.mark.slow
def test_thousands_of_buckets_with_few_files_open(tmp_path, ray_cluster):
    """2,000 buckets of more chunks than are merged at once, with 128 open files allowed: the bytes of one bucket. How
    often files are opened grows with chunks + buckets, not with their product."""
    rows = [record(i, media=f"media/{i % 700}.mp4") for i in range(2000)]
    write_lines(tmp_path, "train", [*rows[:900], "{", *rows[900:], *(record(i) for i in range(0, 2000, 10))])
    build(tmp_path, out=str(tmp_path / "one"), rows_per_shard=500)
    size = storage.size(tmp_path / "annotations/train.jsonl") / 2**20
    command = [sys.executable, Path(__file__).parent / "few_open_files.py", tmp_path, tmp_path / "many"]
    ran = subprocess.run([*command, str(size / 70), str(size / 2000)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    chunks, buckets, opened = map(int, ran.stdout.split())
    assert chunks >= 70 and buckets >= 2000 and opened < 40_000
    assert shards(tmp_path / "many") == shards(tmp_path / "one")
    for name in ("manifest.parquet", "dropped.jsonl"):
        assert (tmp_path / "many" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


def test_a_killed_build_goes_on_where_it_stopped(tmp_path, ray_cluster, monkeypatch):
    write_lines(tmp_path, "train", [record(i) for i in range(40)])
    with pytest.raises(RuntimeError, match="killed"), monkeypatch.context() as patch:
        patch.setattr(build_unistg, "gather_removals", lambda *_: (_ for _ in ()).throw(RuntimeError("killed")))
        build(tmp_path, chunk_mb=0.005)
    [folder] = (tmp_path / ".build").iterdir()
    chunks = {path.name: path.stat().st_mtime_ns for path in folder.glob("chunk-*")}
    assert len(chunks) > 6
    with monkeypatch.context() as patch:
        patch.setattr(storage, "remove_folder", lambda _: None)
        assert build(tmp_path, chunk_mb=0.005)["ok"] == 40
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("chunk-*")} == chunks


def test_training_records_about_what_is_tested_are_removed_and_listed(tmp_path, ray_cluster):
    def clip(name, source, split, words):
        place = {"id": f"{source}/{split}/{name}", "source": source, "media": f"{source}/{name}.mp4"}
        return record(0, split, question=words, **place)

    def image(name, split, words):
        return record(0, split, id=name, media="shared.png", media_type="image", task="qa", question=words)

    train = [
        clip("1_a", "hcstvg_v1", "train", "a man sits"),  # its clip is in v2's val set
        clip("2_b", "hcstvg_v1", "train", "A man stands."),  # v2 has the same
        clip("2_b", "hcstvg_v2", "train", "a man stands"),
        clip("2_b", "hcstvg_v2", "train", "a man leaves") | {"id": "other words"},
        clip("1_a", "vidstg", "train", "another film, another 1_a"),
        image("image1", "train", "tested"),
        image("image2", "train", "not tested"),
    ]
    val = [clip("1_a", "hcstvg_v2", "val", "he sits"), image("image3", "val", "tested")]
    write_lines(tmp_path, "train", train)
    write_lines(tmp_path, "val", val)
    summary = build(tmp_path)
    dropped = [json.loads(line) for line in (tmp_path / "dropped.jsonl").read_text().splitlines()]
    assert [(row["file"], row["line"], row["key"]) for row in dropped] == [
        (str(tmp_path / "annotations/train.jsonl"), 1, "hcstvg_v1/train/1_a"),
        (str(tmp_path / "annotations/train.jsonl"), 2, "hcstvg_v1/train/2_b"),
        (str(tmp_path / "annotations/train.jsonl"), 6, "image1"),
    ]
    assert [row["reason"] for row in dropped] == [TESTED, SISTER, TESTED] and summary["ok"] == 6
    assert build(tmp_path, leaks="keep")["ok"] == 8


def test_lines_that_are_no_text_cost_only_themselves(tmp_path, ray_cluster):
    good = json.dumps(record(0, question="où\u2028là"), ensure_ascii=False).encode()
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/train.jsonl").write_bytes(b"\xef\xbb\xbf" + good + b"\r\n\xff\xfe\n\n" + b"[" * 100_000)
    summary = build(tmp_path)
    assert (summary["in"], summary["ok"]) == (3, 1)
    dropped = [json.loads(line) for line in (tmp_path / "dropped.jsonl").read_text().splitlines()]
    assert [row["line"] for row in dropped] == [2, 4]
    assert read_records(str(tmp_path))["question"].to_pylist() == ["où\u2028là"]


def test_no_annotations_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="no annotations"):
        build(tmp_path)
