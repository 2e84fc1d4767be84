"""The data set on disk."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import av
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from spacevllm.data.instance import SCHEMA, Instance
from spacevllm.data.moving_shapes import (
    MovingShapesConfig,
    scene_seed,
    split_sizes,
    write_annotations,
    write_data_set,
    write_one,
)

SEEDS = st.integers(0, 10**9)
INDICES = st.integers(0, 999_999)


@pytest.fixture(scope="module")
def data_set(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("shapes")
    write_data_set(out, num_videos=6, seed=4, test_share=0.3)
    return out


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _rows(data_set: Path, split: str) -> list[dict]:
    return [json.loads(line) for line in (data_set / "annotations" / f"{split}.jsonl").read_text().splitlines()]


def test_layout(data_set):
    videos = [f"media/train/{n:06d}.mp4" for n in range(4)] + [f"media/test/{n:06d}.mp4" for n in range(2)]
    images = [name.replace(".mp4", "-0.png") for name in videos]
    assert set(_tree(data_set)) == {*videos, *images, "annotations/train.jsonl", "annotations/test.jsonl"}


def test_rows_are_records_of_real_media(data_set):
    ids = set()
    for split, videos in (("train", 4), ("test", 2)):
        rows = _rows(data_set, split)
        pa.Table.from_pylist(rows, schema=SCHEMA).validate(full=True)
        tasks = [row["task"] for row in rows]
        assert [tasks.count(task) for task in ("stvg", "vtg", "qa", "rec")] == [n * videos for n in (9, 2, 2, 5)]
        for row in rows:
            instance = Instance.from_row(row)
            assert (instance.split, instance.source) == (split, "moving_shapes")
            assert _measured(data_set / instance.media) == (
                instance.num_frames,
                (instance.width, instance.height),
                instance.duration_s,
            )
            ids.add(instance.id)
    assert len(ids) == 18 * 6


@cache
def _measured(path: Path) -> tuple[int, tuple[int, int], float]:
    if path.suffix == ".png":
        return 1, Image.open(path).size, 0.0
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        return len(frames), (stream.width, stream.height), len(frames) / float(stream.average_rate)


def test_same_seed_same_bytes(data_set, tmp_path):
    write_data_set(tmp_path, num_videos=6, seed=4, test_share=0.3)
    assert _tree(tmp_path) == _tree(data_set)


def test_videos_written_at_once_in_any_order_are_the_same(data_set, tmp_path):
    config = MovingShapesConfig(seed=4)
    with ThreadPoolExecutor(3) as pool:
        parts = list(pool.map(lambda n: write_one(tmp_path, config, "train", n), reversed(range(4))))
    write_annotations(tmp_path, "train", [row for part in reversed(parts) for row in part])
    assert _tree(tmp_path).items() <= _tree(data_set).items()


def test_what_is_there_is_kept_and_what_is_missing_is_made(data_set, tmp_path):
    config = MovingShapesConfig(seed=4)
    first = write_one(tmp_path, config, "train", 0)
    video, image = tmp_path / "media/train/000000.mp4", tmp_path / "media/train/000000-0.png"
    kept = video.stat().st_mtime_ns
    image.unlink()
    video.with_name("000000.mp4.part").write_bytes(b"left by a killed process")
    assert write_one(tmp_path, config, "train", 0) == first
    assert video.stat().st_mtime_ns == kept
    assert image.exists()


def test_progress_is_told_once_a_video(tmp_path):
    steps = []
    counts = write_data_set(tmp_path, num_videos=2, seed=0, progress=lambda: steps.append(1))
    assert len(steps) == 2
    assert counts == {split: len(_rows(tmp_path, split)) for split in ("train", "test")}


@given(SEEDS, INDICES, SEEDS, INDICES)
def test_train_and_test_seeds_never_meet(seed_a, index_a, seed_b, index_b):
    assert scene_seed(seed_a, "train", index_a) != scene_seed(seed_b, "test", index_b)


@given(SEEDS, INDICES, SEEDS, INDICES)
def test_no_two_videos_share_a_seed(seed_a, index_a, seed_b, index_b):
    same = scene_seed(seed_a, "train", index_a) == scene_seed(seed_b, "train", index_b)
    assert same == ((seed_a, index_a) == (seed_b, index_b))


@pytest.mark.parametrize(("split", "index"), [("val", 0), ("train", -1), ("train", 1_000_000)])
def test_a_video_that_cannot_be_is_refused(split, index):
    with pytest.raises(ValueError, match="no video"):
        scene_seed(0, split, index)


@pytest.mark.parametrize(("number", "test"), [(2, 1), (10, 1), (100, 10), (104, 10)])
def test_split_sizes(number, test):
    assert split_sizes(number) == {"train": number - test, "test": test}


def test_one_video_cannot_be_split():
    with pytest.raises(ValueError, match="leave none to train on"):
        split_sizes(1)
