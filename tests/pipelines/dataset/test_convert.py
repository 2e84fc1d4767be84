"""Annotation files → records: counted, streamed, several sources in one folder, and on to shards."""

from __future__ import annotations

import json

import pytest

from pipelines.core import storage
from pipelines.core.tracking import TrackingConfig
from pipelines.dataset.build_unistg import BuildUnistgConfig
from pipelines.dataset.build_unistg import run as build
from pipelines.dataset.convert import ConvertConfig, check, run, split_of
from spacevllm.config import ConfigError
from spacevllm.data.instance import Instance
from spacevllm.data.sources import SOURCES

GOOD = "AO8RW 0.0 6.9##a person is putting a book on a shelf."
PAST = "AO8RW 30.0 40.0##a person leaves."


def charades(folder, *rows, split="train"):
    path = folder / f"charades_sta_{split}.txt"
    path.write_text("".join(f"{row}\n" for row in rows))
    durations = folder / "charades.json"
    durations.write_text(json.dumps({"AO8RW": {"duration": 33.67}}))
    return {"source": "charades_sta", "annotations": str(path), "durations": str(durations)}


def llava(folder, name, *questions):
    pairs = [[{"from": "human", "value": q}, {"from": "gpt", "value": "yes"}] for q in questions]
    (folder / name).write_text(json.dumps([{"id": 1, "image": "1.jpg", "conversations": pair} for pair in pairs]))
    return {"source": "llava", "annotations": str(folder / name)}


def coco_video(folder, name, video):
    clip = {"id": 1, "file_name": video, "fps": 8, "width": 64, "height": 48, "length": 24}
    tube = {"id": 1, "video_id": 1, "category_id": 1, "question": "a dog", "bboxes": [[1, 2, 30, 40]]}
    (folder / name).write_text(json.dumps({"videos": [clip], "annotations": [tube]}))
    return {"source": "coco_video", "annotations": str(folder / name)}


def convert(out, options, **more):
    return run(ConvertConfig(out=str(out), **options, **more))


def records(out, split="train"):
    lines = (out / f"annotations/{split}.jsonl").read_text().splitlines()
    return [Instance.from_row(json.loads(line)) for line in lines]


def dropped(out):
    return [json.loads(line) for line in (out / "dropped.jsonl").read_text().splitlines()]


def test_counts_and_reasons(tmp_path):
    options = charades(tmp_path, GOOD, PAST, "AO8RW 9 1##a", "AO8RW 8 1##b", "nonsense")
    summary = convert(tmp_path / "out", options)
    assert summary == {
        "source": "charades_sta",
        "read": 5,
        "kept": 2,
        "dropped": {"the span is empty or inverted": 2, "the line is not of the form VIDEO BEGIN END##SENTENCE": 1},
        "marked": {"ends after the video": 1},
        "splits": {"train": 2},
        "published": {"train": 12_408},
        "replaced": 0,
    }
    assert [record.id for record in records(tmp_path / "out")] == ["charades_sta/train/1", "charades_sta/train/2"]
    assert [(row["file"], row["key"]) for row in dropped(tmp_path / "out")] == [
        ("charades_sta_train.txt", number) for number in "345"
    ]
    record = storage.read_json(tmp_path / "out/sources.json")
    assert [entry["kept"] for entry in record.values()] == [2]


def test_sources_share_a_folder_and_are_replaced_alone(tmp_path):
    out = tmp_path / "out"
    convert(out, charades(tmp_path, GOOD, PAST, "nonsense"))
    first = llava(tmp_path, "first.json", "What?", "Who?", "")
    convert(out, first)
    convert(out, llava(tmp_path, "second.json", "Where?"))
    assert len(records(out)) == 2 + 2 + 1 and len(dropped(out)) == 2

    again = convert(out, charades(tmp_path, GOOD))  # the other row is gone
    assert again["replaced"] == 2
    assert convert(out, first | {"media_root": "s3://images"})["replaced"] == 2
    assert sorted(record.id for record in records(out)) == [
        "charades_sta/train/1", "llava/first/0/0", "llava/first/1/0", "llava/second/0/0",
    ]  # fmt: skip
    assert {record.media for record in records(out) if "first" in record.id} == {"s3://images/1.jpg"}
    assert [row["source"] for row in dropped(out)] == ["llava"]

    emptied = convert(out, charades(tmp_path, "nonsense"))
    assert (emptied["read"], emptied["kept"], emptied["replaced"]) == (1, 0, 1)
    assert len(records(out)) == 3


@pytest.mark.parametrize("folder", ["train/", "/archive/tue/", "s3://bucket/"])
def test_videos_of_one_folder_are_no_group(tmp_path, folder):
    out = tmp_path / "out"
    first, second = (coco_video(tmp_path, f"{name}.json", f"{folder}{name}.mp4") for name in "ab")
    assert [convert(out, options)["replaced"] for options in (first, second, first)] == [0, 0, 1]
    root = "media/" if folder == "train/" else ""  # a whole path or URL needs none
    assert sorted(record.media for record in records(out)) == [f"{root}{folder}{name}.mp4" for name in "ab"]


def test_every_line_of_what_was_dropped_is_kept(tmp_path):
    """U+2028 ends a line for ``str.splitlines`` and stands unescaped in JSON."""
    convert(tmp_path / "out", charades(tmp_path, "nonsense"))
    rows = [row | {"key": "a\u2028b"} for row in dropped(tmp_path / "out")]
    (tmp_path / "out/dropped.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    convert(tmp_path / "out", llava(tmp_path, "a.json", "What?"))
    assert [json.loads(line) for line in (tmp_path / "out/dropped.jsonl").open()] == rows


def test_a_file_that_cannot_be_read_changes_nothing(tmp_path):
    out = tmp_path / "out"
    options = llava(tmp_path, "a.json", "What?")
    convert(out, options)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    for text, why in (("{", "is no JSON"), ("[]", "holds no question")):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(ConfigError, match=rf"a\.json.*{why}"):
            convert(out, options)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_build_unistg_takes_the_records(tmp_path, ray_cluster):
    convert(tmp_path, charades(tmp_path, GOOD, PAST, "nonsense"))
    convert(tmp_path, llava(tmp_path, "a.json", "What?"))
    build(BuildUnistgConfig(data=str(tmp_path), out=str(tmp_path), tracking=TrackingConfig(enabled=False)))
    built = [Instance.from_row(row) for row in storage.read_table(tmp_path / "unistg/train").to_pylist()]
    assert len(built) == 3 and sorted(built, key=lambda i: i.id) == sorted(records(tmp_path), key=lambda i: i.id)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("charades_sta_test.txt", "test"),
        ("val_v2.json", "val"),
        ("train.json", "train"),
        ("validation_data.json", "val"),
        ("VidSTG-test.json", "test"),
    ],
)
def test_the_file_says_its_split(name, split):
    config = ConvertConfig(source="vidstg", annotations=f"/data/{name}", out="x")
    assert split_of(config, SOURCES["vidstg"]) == split
    assert split_of(config.model_copy(update={"split": "mine"}), SOURCES["vidstg"]) == "mine"
    assert split_of(config, SOURCES["refcoco"]) == ""  # its refs say it


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "vidsgt"}, "--source vidsgt: is none of hcstvg_v1, .*vidstg"),
        ({"annotations": "none.json"}, "--annotations none.json: no such file"),
        ({"durations": "none.json"}, "--durations none.json: no such file"),
        ({"boxes": "vidor"}, "--boxes vidor: charades_sta does not read it, only vidstg"),
        ({"fps": "30"}, "--fps 30: charades_sta does not read it, only cvat"),
        ({"source": "refcoco", "durations": ""}, "--instances is needed with --source refcoco"),
        ({"source": "mot", "durations": ""}, "--questions is needed"),
        ({"source": "cvat", "durations": "", "fps": "fast"}, "--fps fast: give a number"),
        ({"source": "cvat", "durations": "", "fps": "0"}, "--fps 0: give a number"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_read(tmp_path, options, message):
    config = ConvertConfig(**({"out": str(tmp_path / "out")} | charades(tmp_path, GOOD) | options))
    with pytest.raises(ConfigError, match=message):
        check(config)


def test_a_split_that_nobody_says(tmp_path):
    (tmp_path / "all.json").write_text("[]")
    config = ConvertConfig(source="vidstg", annotations=str(tmp_path / "all.json"), out=str(tmp_path / "out"))
    with pytest.raises(ConfigError, match=r"--split is needed: all\.json does not say train, val or test"):
        check(config)
