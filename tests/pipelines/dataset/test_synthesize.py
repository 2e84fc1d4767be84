"""The four stages end to end on Ray: a real endpoint that fails now and then, a real (tiny) Grounding DINO, real
videos; and the truth seen through noise where the outcome has to be right.
"""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest
from chat_server import chat_server
from synthesis_models import save_tiny_dino

from pipelines.core import storage
from pipelines.core.tracking import TrackingConfig
from pipelines.dataset.synthesize import SynthesizeConfig, compare, read_captions, run
from spacevllm.config import ConfigError
from spacevllm.data.instance import Instance
from spacevllm.data.moving_shapes import MovingShapesConfig, make_scene, write_one
from spacevllm.data.moving_shapes.oracle import captions

WORLD = MovingShapesConfig(num_frames=81, images_per_video=0)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Four videos with captions, one caption of a video that is not there, one line that is no record."""
    folder = tmp_path_factory.mktemp("world")
    storage.write_text(folder / "moving_shapes.yaml", json.dumps(WORLD.model_dump(mode="json")))
    lines = []
    for index in range(4):
        write_one(folder, WORLD, "train", index)
        scene = make_scene(WORLD, "train", index)
        lines += [as_caption(truth, caption) for caption, truth in captions(scene, f"media/train/{index:06d}.mp4")]
    lost = json.loads(lines[0]) | {"id": "lost", "media": "media/train/000009.mp4"}
    storage.write_text(folder / "annotations/train.jsonl", "\n".join([*lines, json.dumps(lost), "{"]) + "\n")
    return folder


def as_caption(truth, caption):
    plain = truth.to_row() | {"task": "vtg", "begin_s": caption.begin_s, "end_s": caption.end_s, "boxes": [],
                              "box_frames": [], "begin_frame": None, "end_frame": None}  # fmt: skip
    return json.dumps(plain)


def settings(world, out, **changes):
    tree = {
        "data": str(world), "out": str(out), "tracking": TrackingConfig(enabled=False), "block_rows": 4,
        "analyzer": {"kind": "moving_shapes"}, "annotator": {"kind": "moving_shapes", "world": str(world)},
    }  # fmt: skip
    return SynthesizeConfig.model_validate(tree | changes)


def stage_files(out, stage):
    return {file.name: file.stat().st_mtime_ns for file in (out / "stages" / stage).glob("*.parquet")}


def stage_rows(out, stage):
    files = sorted(stage_files(out, stage))
    return [row for file in files for row in pq.read_table(out / "stages" / stage / file).to_pylist()]


@pytest.mark.slow
def test_every_caption_becomes_a_record_or_keeps_its_reason(world, tmp_path, ray_cluster):
    wide = {"max_area_ratio": 50}  # things that enter grow from a sliver
    summary = run(settings(world, tmp_path, filter=wide))
    found, unreadable = read_captions(str(world))
    assert unreadable == 1 and summary["in"] == len(found) == summary["ok"] + summary["failed"]
    assert summary["errors"]["missing"] == 1 and summary["ok"] >= len(found) / 2

    lines = (tmp_path / "annotations/train.jsonl").read_text().splitlines()
    records = [Instance.from_row(json.loads(line)) for line in lines]
    assert len(records) == summary["ok"] and {record.task for record in records} == {"stvg"}
    truth = {t.question: t for i in range(4) for _, t in captions(make_scene(WORLD, "train", i), "scene")}
    for record in records:
        assert abs(record.begin_s - truth[record.question].begin_s) <= 0.5
        assert record.media.startswith(str(world)) and record.begin_frame < record.end_frame
    assert "the paper: about 40%" in (tmp_path / "funnel.txt").read_text()
    assert (tmp_path / "funnel.svg").read_text().startswith("<svg")

    before = {stage: stage_files(tmp_path, stage) for stage in ("analyzer", "annotator", "refiner", "filter")}
    assert run(settings(world, tmp_path, filter=wide)) | {"seconds": 0} == summary | {"seconds": 0}
    assert {stage: stage_files(tmp_path, stage) for stage in before} == before  # nothing is done twice

    strict = run(settings(world, tmp_path, filter={"max_area_ratio": 1.2}))  # replays the filter alone
    for stage in ("analyzer", "annotator", "refiner"):
        assert stage_files(tmp_path, stage) == before[stage]
    assert strict["ok"] < summary["ok"] and strict["errors"]["area_jump"] > 0
    assert len((tmp_path / "annotations/train.jsonl").read_text().splitlines()) == strict["ok"]

    brief = run(settings(world, tmp_path, filter=wide, refiner={"max_s": 5.0}))
    assert brief["errors"]["too_long"] > 0 and brief["ok"] < summary["ok"]
    assert stage_files(tmp_path, "annotator") == before["annotator"]


def test_one_slow_answer_holds_up_no_other(world, tmp_path, ray_cluster):
    """The first is answered when all others have been asked, of many blocks, with as many requests at once as a block
    has captions."""
    count = len(read_captions(str(world))[0])
    assert count > 10
    with chat_server([("after", count)]) as (url, requests):
        analyzer = {"kind": "endpoint", "url": url, "model": "any", "concurrency": 2, "attempts": 1, "timeout_s": 120}
        summary = run(settings(world, tmp_path, analyzer=analyzer, block_rows=2))
    assert len(requests) == summary["in"] == count and "no_answer" not in summary["errors"]
    assert len(stage_files(tmp_path, "analyzer")) == -(-count // 2)


@pytest.mark.slow
def test_real_models_and_an_endpoint_that_fails_now_and_then(world, tmp_path, ray_cluster):
    dino = save_tiny_dino(tmp_path / "dino")
    out = tmp_path / "out"
    with chat_server([500, "no JSON at all", 429, '{"objects": []}']) as (url, requests):
        analyzer = {"kind": "endpoint", "url": url, "model": "any", "pause_s": 0.01, "concurrency": 2, "attempts": 6}
        annotator = {"model": str(dino), "device": "cpu", "threshold": 0.0, "batch_frames": 4}
        summary = run(settings(world, out, analyzer=analyzer, annotator=annotator))
    assert len(requests) == summary["in"] + 3
    assert summary["errors"].pop("no_object") == 1 and summary["errors"].pop("missing", 1) == 1
    assert set(summary["errors"]) <= {"crowded", "area_jump"}  # 12 boxes a frame: an untrained detector finds all
    annotated = [row for row in stage_rows(out, "annotator") if row["status"] == "ok"]
    assert annotated and all(len(boxes) == 12 for row in annotated for boxes in row["boxes"])
    assert {row["error"].partition(":")[0] for row in stage_rows(out, "filter")} == {"crowded"}

    other = tmp_path / "other"
    run(settings(world, other))
    changed = compare(str(out), str(other), "analyzer")
    assert [old for old, new in changed.values()] == ["no_object"] and compare(str(out), str(out), "filter") == {}


def test_what_the_user_has_to_correct(world, tmp_path):
    with pytest.raises(ConfigError, match=r"annotator\.model .*no model there"):
        run(settings(world, tmp_path, annotator={"model": str(tmp_path / "none")}))
    with pytest.raises(ConfigError, match="holds no record of task vtg"):
        run(settings(tmp_path, tmp_path, annotator={"kind": "moving_shapes", "world": str(world)}))
    with pytest.raises(ConfigError, match=r"annotator\.world .*holds no moving_shapes.yaml"):
        run(settings(world, tmp_path, annotator={"kind": "moving_shapes", "world": str(tmp_path)}))
    with pytest.raises(ValueError, match="needs its url"):
        settings(world, tmp_path, analyzer={"kind": "endpoint"})
    with pytest.raises(ConfigError, match="no stage is called"):
        compare(str(tmp_path), str(tmp_path), "painter")
