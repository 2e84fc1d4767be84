"""Good, missing, broken and mis-annotated files: each has its row and reason, and only changed files are read again."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from pipelines.core import storage
from pipelines.core.tracking import TrackingConfig
from pipelines.dataset.build_unistg import BuildUnistgConfig
from pipelines.dataset.build_unistg import run as build
from pipelines.media.check_media import CheckMediaConfig, run
from spacevllm.config import ConfigError
from spacevllm.data.instance import Instance, TrueTube

OFF = TrackingConfig(enabled=False)
FACTS = {"fps_num": 8, "num_frames": 24, "width": 64, "height": 48, "duration_s": 3.0}


def record(media, number=0, **changes):
    told = FACTS | changes
    span = {"task": "vtg", "media_type": "video", "begin_frame": 8, "end_frame": 16, "begin_s": 1.0, "end_s": 2.0}
    place = {"id": f"{media}{number}", "source": "test", "split": "train", "media": f"media/{media}", "question": "?"}
    return Instance(**(place | span | told)).to_row()


@pytest.fixture
def data(tmp_path, make_mp4, ray_cluster):
    for name in ("good", "cut", "small", "slow", "short", "late", "unknown"):
        make_mp4(tmp_path / f"media/{name}.mp4")
    (tmp_path / "media/cut.mp4").write_bytes((tmp_path / "media/good.mp4").read_bytes()[:900])
    Image.new("RGB", (32, 20)).save(tmp_path / "media/image.png")
    no_span = {"task": "qa", "begin_frame": None, "end_frame": None, "begin_s": None, "end_s": None}
    still = {"media_type": "image", "width": 32, "height": 20, "num_frames": 1, "fps_num": 0, "duration_s": 0.0}
    rows = [
        record("good.mp4"), record("good.mp4", 1),
        record("late.mp4", more=[TrueTube(0, 2.0, 9.0, 16, 72)]),
        record("absent.mp4"), record("cut.mp4"),
        record("small.mp4", width=128, num_frames=99, end_frame=90), record("slow.mp4", fps_num=7),
        record("short.mp4", end_frame=40),
        record("unknown.mp4", fps_num=0, num_frames=1, width=0, height=0, duration_s=0.0),
        record("image.png", **no_span, **still),
    ]  # fmt: skip
    storage.write_text(tmp_path / "annotations/train.jsonl", "\n".join(map(json.dumps, rows)))
    assert build(BuildUnistgConfig(data=str(tmp_path), out=str(tmp_path), tracking=OFF))["ok"] == len(rows)
    return tmp_path


def test_every_file_has_a_row_and_a_reason(data, tmp_path, make_mp4):
    config = CheckMediaConfig(data=str(data), out=str(tmp_path / "check"), tracking=OFF)
    summary = run(config)
    rows = {row["media"]: row for row in storage.read_table(tmp_path / "check/media").to_pylist()}
    reasons = {name.removeprefix("media/"): row["error"].partition(":")[0] for name, row in rows.items()}
    assert reasons == {
        "good.mp4": "", "image.png": "", "unknown.mp4": "", "absent.mp4": "missing", "cut.mp4": "truncated",
        "small.mp4": "other_size", "slow.mp4": "other_fps", "short.mp4": "annotated_past_end",
        "late.mp4": "annotated_past_end",
    }  # fmt: skip
    assert (summary["in"], summary["ok"], summary["failed"], summary["new"]) == (9, 3, 6, 9)
    small = rows["media/small.mp4"]["error"]
    assert "annotated 128x48, the file has 64x48; annotated 99 frames, the file has 24" in small
    assert rows["media/good.mp4"]["num_frames"] == 24 and rows["media/good.mp4"]["fps"] == 8
    text = (tmp_path / "check/report.txt").read_text()
    assert text.startswith("3 of 9 media are there") and "media/absent.mp4:" in text

    make_mp4(data / "media/cut.mp4")
    again = run(config)
    assert (again["new"], again["ok"]) == (1, 4)


def test_no_data_set_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="is no data set"):
        run(CheckMediaConfig(data=str(tmp_path), out=str(tmp_path), tracking=OFF))
