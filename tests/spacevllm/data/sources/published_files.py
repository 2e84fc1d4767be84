"""Small annotation files in the published schemas, and what can be wrong in each of them; see also own_files.py."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from spacevllm.data.sources import SourceFiles

NAN = float("nan")


class Published(NamedTuple):
    """rows: three that are good. write: rows → files. bad: a change of one row → words of the reason it is dropped for.
    repeated: whether a row that stands there twice is an error."""

    rows: list[Any]
    write: Callable[[Path, list[Any]], SourceFiles]
    bad: list[tuple[Callable[[Any], Any], str]]
    repeated: bool = True


def put(*path_and_value: Any) -> Callable[[Any], Any]:
    """Sets ``row[path] = value``."""
    *path, last, value = path_and_value

    def change(row):
        row = copy.deepcopy(row)
        inner = row
        for step in path:
            inner = inner[step]
        inner[last] = value
        return row

    return change


def cut(*path: Any) -> Callable[[Any], Any]:
    """Deletes ``row[path]``."""

    def change(row):
        row = copy.deepcopy(row)
        inner = row
        for step in path[:-1]:
            inner = inner[step]
        del inner[path[-1]]
        return row

    return change


def instead(value: Any) -> Callable[[Any], Any]:
    return lambda row: value


def write_json(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


# HC-STVG: an object of clips by file name ----


def _clip(name: str, **fields: Any) -> list[Any]:
    boxes = [[10.0 + i, 20, 50, 80.5] for i in range(6)]
    common = {"bbox": boxes, "st_time": 8.9147, "ed_time": 9.4, "st_frame": 268, "img_num": 600}
    return [name, common | fields]


def _write_object(folder: Path, rows: list[Any]) -> SourceFiles:
    """Rows are [key, value]; an object that repeats a key can only be written by hand."""
    body = ", ".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in rows)
    (folder / "train.json").write_text("{" + body + "}")
    return SourceFiles(folder / "train.json", split="train")


CLIP_NAMES = ("55_vfjywN5CN0Y.mp4", "1_aMYcLyh9OhU.mkv", "10__Gvp-cj3bmIY.mp4")
_CLIP_BAD = [
    (cut(1, "bbox"), "bbox: Field required"),
    (cut(1, "img_num"), "img_num: Field required"),
    (put(1, "st_frame", "268"), "st_frame: Input should be a valid integer"),
    (put(1, "st_frame", 0), "st_frame: Input should be greater than 0"),
    (put(1, "st_frame", 601), "begins after the end of the video"),
    (put(1, "ed_time", 8.0), "empty or inverted"),
    (put(1, "st_time", NAN), "st_time: Input should be a finite number"),
    (put(1, "bbox", 3, 2, NAN), "bbox: Input should be a finite number"),
    (put(1, "bbox", 3, [1, 2, 3]), "bbox: List should have at least 4 items"),
    (put(1, "bbox", 3, 2, -5), "without area or with swapped corners"),
    (put(1, "bbox", 3, 0, 700), "outside the frame"),
    (put(1, "bbox", []), "bbox: List should have at least 1 item"),
    (put(1, None), "Input should be"),
]
HCSTVG_V1 = Published(
    rows=[_clip(n, caption="The woman in red turns.", width=640, height=360) for n in CLIP_NAMES],
    write=_write_object,
    bad=[*_CLIP_BAD, (put(1, "caption", "  "), "caption: "), (put(1, "width", True), "width: ")],
)
HCSTVG_V2 = Published(
    rows=[_clip(n, English="The man walks.", Chinese="男人走路。", img_size=[360, 640, 3]) for n in CLIP_NAMES],
    write=_write_object,
    bad=[*_CLIP_BAD, (put(1, "English", 3), "English: "), (put(1, "img_size", [360]), "img_size: ")],
)


# VidSTG: a list of records, their boxes in one VidOR file a video ----


def vidstg_record(vid: str, **fields: Any) -> dict[str, Any]:
    """test[0] of the published file, shortened to 60 frames and one caption."""
    record = {
        "vid": vid,
        "fps": 29.97002997002997,
        "frame_count": 60,
        "used_segment": {"begin_fid": 5, "end_fid": 47},
        "width": 640,
        "height": 360,
        "subject/objects": [{"tid": 0, "category": "dog"}, {"tid": 7, "category": "adult"}],
        "used_relation": {"subject_tid": 0, "object_tid": 7, "predicate": "in_front_of", "begin_fid": 5, "end_fid": 39},
        "temporal_gt": {"begin_fid": 10, "end_fid": 39},
        "captions": [{"description": "a dog walks in front of a man.", "type": "object", "target_id": 0}],
        "questions": [],
    }
    return record | fields


def vidor_file(folder: Path, vid: str, num_frames: int = 60, **fields: Any) -> Path:
    """Trajectories with sparse tids; thing 7 is not seen on frames 20 to 29."""

    def boxes(frame):
        seen = [0] if 20 <= frame < 30 else [0, 7]
        corners = {"xmin": 10 + frame, "ymin": 20, "xmax": 110 + frame, "ymax": 140}
        return [{"tid": t, "bbox": corners, "generated": int(frame % 5 > 0), "tracker": "none"} for t in seen]

    things = [{"tid": 0, "category": "dog"}, {"tid": 7, "category": "adult"}]
    video = {"version": "VERSION 1.0", "video_id": vid, "video_path": f"1025/{vid}.mp4", "frame_count": num_frames}
    video |= {"fps": 29.97002997002997, "width": 640, "height": 360, "subject/objects": things}
    video |= {"trajectories": [boxes(frame) for frame in range(num_frames)], "relation_instances": []}
    return write_json(folder / "1025" / f"{vid}.json", video | fields)


def _write_vidstg(folder: Path, rows: list[Any]) -> SourceFiles:
    for vid in ("7771650716", "6913478890", "5235909148"):
        vidor_file(folder / "vidor", vid)
    return SourceFiles(write_json(folder / "test_annotations.json", rows), "test", boxes=folder / "vidor")


VIDSTG = Published(
    rows=[vidstg_record(vid) for vid in ("7771650716", "6913478890", "5235909148")],
    write=_write_vidstg,
    bad=[
        (cut("fps"), "fps: Field required"),
        (put("fps", NAN), "fps: Input should be a finite number"),
        (put("fps", 0), "fps: Input should be greater than 0"),
        (put("frame_count", "60"), "frame_count: Input should be a valid integer"),
        (put("temporal_gt", {"begin_fid": 39, "end_fid": 10}), "temporal_gt is empty, inverted"),
        (put("temporal_gt", "end_fid", 49), "not inside used_segment"),
        (put("used_segment", "end_fid", 60), "not inside the video"),
        (put("temporal_gt", None), "temporal_gt: "),
        (put("captions", 0, "target_id", 3), "target_id is none of subject/objects"),
        (put("captions", 0, "description", ""), "description: "),
        (cut("captions", 0, "target_id"), "target_id: Field required"),
        (put("captions", 0, "nonsense"), "Input should be"),
        (put("captions", None), "captions: no list of sentences"),
        (put("vid", "404"), "VidOR has no annotation of the video"),
        (put("width", 12), "outside the frame"),
    ],
    repeated=False,  # nothing in it is an id
)


# Charades-STA: lines ----


def _write_lines(folder: Path, rows: list[Any]) -> SourceFiles:
    (folder / "charades_sta_train.txt").write_text("".join(f"{row}\n" for row in rows))
    videos = {"AO8RW": {"subset": "training", "duration": 33.67, "actions": [[149, 16.0, 22.2]]}}
    videos |= {"BROKE": {"subset": "training", "duration": NAN}}
    durations = write_json(folder / "charades.json", videos)
    return SourceFiles(folder / "charades_sta_train.txt", "train", durations=durations)


CHARADES_STA = Published(
    rows=[f"AO8RW {begin} 6.9##a person is putting a book on a shelf." for begin in ("0.0", "1.5", "2.0")],
    write=_write_lines,
    bad=[
        (instead("AO8RW 0.0 6.9 a person"), "not of the form"),
        (instead("AO8RW 0.0##a person"), "not of the form"),
        (instead("AO8RW 0.0 6.9##"), "not of the form"),
        (instead("AO8RW 6.9 0.0##a person"), "empty or inverted"),
        (instead("AO8RW 6.9 6.9##a person"), "empty or inverted"),
        (instead("AO8RW nan 6.9##a person"), "not finite"),
        (instead("AO8RW 0.0 inf##a person"), "not finite"),
        (instead("AO8RW -1.0 6.9##a person"), "begins before the video"),
        (instead("AO8RW 33.7 36.9##a person"), "begins after the end of the video"),
        (instead("AO8RW zero 6.9##a person"), "could not convert string to float"),
        (instead("XXXXX 0.0 6.9##a person"), "duration: Field required"),
        (instead("BROKE 0.0 6.9##a person"), "duration: Input should be a finite number"),
    ],
)


# RefCOCO: pickled refs and COCO's instances ----


def _ref(ref_id: int, **fields: Any) -> dict[str, Any]:
    sentence = {"tokens": ["right", "rocks"], "raw": "RIGHT ROCKS", "sent_id": ref_id * 10, "sent": "right rocks"}
    ref = {"sent_ids": [ref_id * 10], "file_name": f"COCO_train2014_000000581857_{ref_id}.jpg", "ann_id": 1719310}
    ref |= {"ref_id": ref_id, "image_id": 581857, "split": "train", "sentences": [sentence], "category_id": 1}
    return ref | fields


def coco_instances() -> dict[str, Any]:
    image = {"id": 581857, "file_name": "COCO_train2014_000000581857.jpg", "width": 640, "height": 427, "license": 1}
    boxes = {1719310: [10.5, 20.25, 100, 50], 2: [0, 0, NAN, 5], 3: [700.0, 0, 10, 10], 4: [10, 10, 0, 10]}
    rows = [{"id": i, "image_id": 581857, "bbox": box, "category_id": 1, "iscrowd": 0} for i, box in boxes.items()]
    return {"images": [image, image | {"id": 9}], "annotations": rows, "categories": [{"id": 1, "name": "person"}]}


def _write_refs(folder: Path, rows: list[Any]) -> SourceFiles:
    (folder / "refs(unc).p").write_bytes(pickle.dumps(rows, protocol=0))
    return SourceFiles(folder / "refs(unc).p", instances=write_json(folder / "instances.json", coco_instances()))


REFCOCO = Published(
    rows=[_ref(16), _ref(17), _ref(18, split="testA")],
    write=_write_refs,
    bad=[
        (cut("ann_id"), "ann_id: Field required"),
        (put("ann_id", "1719310"), "ann_id: Input should be a valid integer"),
        (put("ann_id", 5), "ann_id is not in COCO's instances"),
        (put("image_id", 5), "image_id is not in COCO's instances"),
        (put("image_id", 9), "belongs to another image"),
        (put("ann_id", 2), "bbox: Input should be a finite number"),
        (put("ann_id", 3), "outside the frame"),
        (put("ann_id", 4), "without area"),
        (put("sentences", 0, "sent", " "), "sent: "),
        (put("sentences", None), "sentences: no list"),
        (instead("nonsense"), "Input should be"),
    ],
)


# DiDeMo, TACoS, InternVid ----


def _didemo(number: int) -> dict[str, Any]:
    video = "12090392@N02_13482799053_87ef417396.mov"
    record = {"annotation_id": number, "description": "a dog jumps", "num_segments": 6, "video": video}
    record |= {"times": [[1, 4], [1, 4], [0, 0], [2, 4]], "dl_link": "https://www.flickr.com/video_download.gne?id=1"}
    return record


DIDEMO = Published(
    rows=[_didemo(number) for number in (0, 7, 12)],
    write=lambda folder, rows: SourceFiles(write_json(folder / "train_data.json", rows), "train"),
    bad=[
        (cut("times"), "times: Field required"),
        (put("times", []), "times: List should have at least 1 item"),
        (put("times", 2, [4, 1]), "empty or inverted"),
        (put("times", 2, [4, 6]), "times: Input should be less than 6"),
        (put("times", 2, [NAN, 5]), "times: Input should be a valid integer"),
        (put("times", 2, ["1", 5]), "times: Input should be a valid integer"),
        (put("num_segments", 1), "begins after the end of the video"),
        (put("annotation_id", None), "annotation_id: "),
        (put("description", ""), "description: "),
        (instead(None), "Input should be"),
    ],
)


def _tacos(name: str) -> list[Any]:
    return [name, {"timestamps": [[224, 358]], "sentences": ["He took out a pan"], "fps": 29.4, "num_frames": 12438}]


TACOS = Published(
    rows=[_tacos(name) for name in ("s17-d69.avi", "s30-d52.avi", "s34-d28.avi")],
    write=_write_object,
    bad=[
        (cut(1, "fps"), "fps: Field required"),
        (put(1, "fps", NAN), "fps: Input should be a finite number"),
        (put(1, "num_frames", 0), "num_frames: "),
        (put(1, "timestamps", 0, [358, 224]), "empty or inverted"),
        (put(1, "timestamps", 0, [-3, 224]), "begins before the video"),
        (put(1, "timestamps", 0, [12438, 12500]), "begins after the end of the video"),
        (put(1, "timestamps", 0, [1, 2, 3]), "timestamp: List should have at most 2 items"),
        (put(1, "timestamps", 0, [1.5, 3]), "timestamp: Input should be a valid integer"),
        (put(1, "timestamps", []), "timestamp: Input should be a valid list"),
        (put(1, "sentences", 0, None), "sentence: "),
        (put(1, "sentences", []), "sentence: "),
        (cut(1, "sentences"), "sentence: "),
        (put(1, "nonsense"), "timestamp: "),
    ],
)


def _internvid(video: str) -> str:
    row = {"YoutubeID": video, "Start_timestamp": "00:07:33.689", "End_timestamp": "00:07:51.085"}
    return json.dumps(row | {"Caption": "a screen with people", "Aesthetic_Score": 4.29, "UMT_Score": 0.45})


def _write_internvid(folder: Path, rows: list[Any]) -> SourceFiles:
    (folder / "internvid.jsonl").write_text("".join(f"{row}\n" for row in rows))
    return SourceFiles(folder / "internvid.jsonl", "train")


def _line(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda row: json.dumps(change(json.loads(row)))


INTERNVID = Published(
    rows=[_internvid(video) for video in ("qJrOyggIB-w", "UkQzZimp7Qs", "vJxjY1-0120")],
    write=_write_internvid,
    bad=[
        (instead("{"), "the line is no JSON"),
        (instead("[1]"), "Input should be"),
        (_line(cut("Caption")), "Caption: Field required"),
        (_line(put("Start_timestamp", 3.5)), "Start_timestamp: "),
        (_line(put("Start_timestamp", "7:33")), "not of the form hh:mm:ss.sss"),
        (_line(put("Start_timestamp", "00:99:00.0")), "not of the form hh:mm:ss.sss"),
        (_line(put("End_timestamp", "00:00:01.000")), "empty or inverted"),
        (_line(put("YoutubeID", "")), "YoutubeID: "),
    ],
)


# LLaVA: conversations ----


def _conversation(id: str, **fields: Any) -> dict[str, Any]:
    turns = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A dog."}]
    return {"id": id, "image": f"coco/train2017/{id}.jpg", "conversations": turns} | fields


LLAVA = Published(
    rows=[_conversation("000000033471"), _conversation("000000033471"), _conversation("000000052846")],
    write=lambda folder, rows: SourceFiles(write_json(folder / "llava_v1_5_mix665k.json", rows), "train"),
    bad=[
        (cut("image"), "the question shows an image or a video, and the record names none"),
        (put("image", ["a.jpg", "b.jpg"]), "image: Input should be a valid string"),
        (put("video", "a.mp4"), "an image and a video"),
        (cut("conversations"), "conversations: no list of turns"),
        (put("conversations", 0, "value", "<image>\n"), "the question is empty"),
        (put("conversations", 0, "value", NAN), "value: Input should be a valid string"),
        (put("conversations", 0, "from", "gpt"), "speaker: Input should be 'human'"),
        (cut("conversations", 1), "Input should be"),
        (cut("conversations", 1, "value"), "value: Field required"),
        (instead("nonsense"), "conversations: no list of turns"),
    ],
    repeated=False,
)


PUBLISHED = {
    "didemo": DIDEMO,
    "tacos": TACOS,
    "internvid": INTERNVID,
    "llava": LLAVA,
    "hcstvg_v1": HCSTVG_V1,
    "hcstvg_v2": HCSTVG_V2,
    "vidstg": VIDSTG,
    "charades_sta": CHARADES_STA,
    "refcoco": REFCOCO,
    "refcoco+": REFCOCO,
    "refcocog": REFCOCO,
}
