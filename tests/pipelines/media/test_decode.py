"""Manifest → frames on a real Ray: every video has its row, and nothing is read twice."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from pipelines.core import storage
from pipelines.core.results import Results
from pipelines.core.tracking import TrackingConfig
from pipelines.media.decode import FRAMES, DecodeConfig, DecodeOptions, Decoder, frames_to_row, row_to_frames, run
from pipelines.media.reading import Plan
from spacevllm.video.reader import sample_frames

OFF = TrackingConfig(enabled=False)


def config(archive, tmp_path, **changes):
    values = {"videos": str(archive), "out": str(tmp_path / "out"), "num_frames": 4, "size": 32, "tracking": OFF}
    return DecodeConfig(**values | changes)


def rows_of(tmp_path):
    table = Results(str(tmp_path / "out/frames")).table(["uri", *FRAMES.names])
    return {os.path.basename(row["uri"]): row for row in table.to_pylist()}


def test_decode_keeps_every_row_and_redoes_only_what_is_missing(archive, tmp_path, ray_cluster, make_mp4):
    summary = run(config(archive, tmp_path, decode=DecodeOptions(block_rows=2)))
    assert (summary["in"], summary["ok"], summary["failed"], summary["new"]) == (7, 4, 3, 7)
    assert summary["errors"]["empty_file"] == 1 and summary["errors"]["not_a_video"] == 1
    assert json.loads((tmp_path / "out/summary.json").read_text()) == summary
    rows = rows_of(tmp_path)
    assert len(rows) == 7
    assert rows["empty.mp4"]["status"] == "failed" and "empty.mp4" in rows["empty.mp4"]["error"]

    sampled = sample_frames(archive / "clip1.mp4", 4, size=32)
    row = rows["clip1.mp4"]
    frames = np.frombuffer(row["frames"], np.uint8).reshape(row["shape"])
    np.testing.assert_array_equal(frames, sampled.frames)
    assert row["indices"] == sampled.indices.tolist() and row["times_s"] == sampled.times_s.tolist()
    assert (row["num_frames"], row["width"], row["height"], row["fps_num"], row["fps_den"]) == (17, 64, 48, 8, 1)

    before = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "out/frames").iterdir()}
    again = run(config(archive, tmp_path))
    assert (again["in"], again["ok"], again["new"]) == (7, 4, 0)
    assert {file.name: file.stat().st_mtime_ns for file in (tmp_path / "out/frames").iterdir()} == before

    make_mp4(archive / "clip0.mp4", num_frames=20)  # changed, one broken file repaired, one new: those and no other
    make_mp4(archive / "empty.mp4", num_frames=9)
    make_mp4(archive / "more.mp4", num_frames=9)
    changed = run(config(archive, tmp_path))
    assert (changed["in"], changed["ok"], changed["new"]) == (8, 6, 3)
    rows = rows_of(tmp_path)
    assert len(rows) == 8 and rows["clip0.mp4"]["num_frames"] == 20

    assert run(config(archive, tmp_path, retry_failed=True))["new"] == 2  # text.mp4 and cut.mp4, as broken as before


def test_another_plan_replaces_the_frames(archive, tmp_path, ray_cluster):
    videos = str(archive / "clip0.mp4")
    run(config(videos, tmp_path))
    assert run(config(videos, tmp_path, num_frames=6))["new"] == 1
    assert rows_of(tmp_path)["clip0.mp4"]["shape"] == [6, 32, 32, 3]


def test_frames_survive_the_way_through_a_row(archive):
    sampled = sample_frames(archive / "clip0.mp4", 4, size=32)
    back = row_to_frames(frames_to_row(sampled) | {"media": "name"})
    np.testing.assert_array_equal(back.frames, sampled.frames)
    np.testing.assert_array_equal(back.info.times_s, sampled.info.times_s)
    for name in ("width", "height", "fps", "num_frames", "duration_s"):
        assert getattr(back.info, name) == getattr(sampled.info, name)
    assert back.info.path == "name"


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9/clip.mp4", "memory://nowhere/clip.mp4"])
def test_a_file_that_cannot_be_fetched_is_a_failed_row(uri):
    row = Decoder(Plan(4, 32), DecodeOptions()).decode(uri)
    assert row["status"] == "failed" and row["error"].startswith("storage: ") and uri in row["error"]


def test_a_remote_video_is_decoded_like_a_local_one(archive):
    storage.write_bytes("memory://videos/clip.mp4", (archive / "clip0.mp4").read_bytes())
    decoder = Decoder(Plan(4, 32), DecodeOptions())
    local, remote = decoder.decode(str(archive / "clip0.mp4")), decoder.decode("memory://videos/clip.mp4")
    assert remote["status"] == "ok" and remote["frames"] == local["frames"]
