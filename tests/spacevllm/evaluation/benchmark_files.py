"""Small annotation files in every benchmark's true schema, and the right answers to them as prediction lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq


class Files(NamedTuple):
    """options: of the command. perfect: a prediction line for each query, all right."""

    options: list[str]
    perfect: list[dict]


def write(name: str, folder: Path) -> Files:
    folder.mkdir(parents=True, exist_ok=True)
    return _WRITERS[name](folder)


def dump(path: Path, value) -> str:
    path.write_text(json.dumps(value))
    return str(path)


def generic_stvg(folder):
    boxes = [[frame, 10 + frame, 20, 60 + frame, 80] for frame in range(20, 45)]
    plain = {"question": "the dog jumps", "num_frames": 100, "width": 320, "height": 240, "boxes": boxes}
    spans = {"begin_frame": 20, "end_frame": 45}
    rows = [
        {"id": "a", "fps": 25, **plain, **spans},
        {"id": 2, "fps": "30000/1001", "segment": [10, 60], **plain, **spans},
    ]
    path = folder / "queries.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Files(["--annotations", str(path)], [{"id": row["id"], **spans, "boxes": boxes} for row in rows])


def hcstvg_record(st_frame=268, count=120, img_num=600):
    """As published for v1: xywh, frames from 1, ends that disagree."""
    bbox = [[100 + i, 50, 60, 120] for i in range(count)]
    begin_s = st_frame / (img_num / 20)
    times = {"st_time": begin_s, "ed_time": begin_s + count / (img_num / 20) - 0.37}
    about = {"img_num": img_num, "caption": "The woman in red turns.", "width": 640, "height": 360}
    return {"bbox": bbox, **times, **about, "st_frame": st_frame}


def hcstvg_v1(folder):
    records = {"55_vfjywN5CN0Y.mp4": hcstvg_record(), "7_abc.mkv": hcstvg_record(1, 50, 125)}
    return Files(["--annotations", dump(folder / "test.json", records)], _hcstvg_perfect(records))


def hcstvg_v2(folder):
    records = {"10_x.mp4": hcstvg_record(30, 80), "11_y.mp4": hcstvg_record(2, 9, 400)}
    for record in records.values():
        height, width = record.pop("height"), record.pop("width")
        record |= {"English": record.pop("caption"), "img_size": [height, width, 3]}
    return Files(["--annotations", dump(folder / "val_v2.json", records)], _hcstvg_perfect(records))


def _hcstvg_perfect(records):
    lines = []
    for name, record in records.items():
        begin = record["st_frame"] - 1
        boxes = [[begin + i, x, y, x + w, y + h] for i, (x, y, w, h) in enumerate(record["bbox"])]
        lines.append({"id": name, "begin_frame": begin, "end_frame": begin + len(boxes), "boxes": boxes})
    return lines


def vidstg(folder):
    segment, target = {"begin_fid": 0, "end_fid": 99}, {"begin_fid": 10, "end_fid": 60}
    record = {
        "vid": "7771650716",
        "fps": 29.97002997002997,
        "frame_count": 150,
        "used_segment": segment,
        "width": 640,
        "height": 360,
        "subject/objects": [{"tid": 0, "category": "dog"}, {"tid": 7, "category": "adult"}],
        "used_relation": {"subject_tid": 0, "object_tid": 7, "predicate": "in_front_of", **target},
        "temporal_gt": target,
        "captions": [{"description": "a dog walks in front of a man.", "type": "subject", "target_id": 0}],
        "questions": [{"description": "what walks in front of a man?", "type": "subject", "target_id": 0}],
    }
    corners = {f: (100 + f, 40, 220 + f, 200) for f in range(120)}
    sides = ("xmin", "ymin", "xmax", "ymax")
    seen = [
        [{"tid": 0, "bbox": dict(zip(sides, corners[f], strict=True)), "generated": 0, "tracker": "none"}]
        for f in corners
    ]
    (folder / "vidor" / "1234").mkdir(parents=True)
    dump(folder / "vidor" / "1234" / "7771650716.json", {"video_id": "7771650716", "trajectories": seen})
    options = ["--annotations", dump(folder / "test_annotations.json", [record]), "--boxes", str(folder / "vidor")]
    spoken = {"begin_frame": 10, "end_frame": 60, "boxes": [[f, *corners[f]] for f in range(10, 60)]}
    return Files(options, [{"id": name, **spoken} for name in ("0/captions/0", "0/questions/0")])


def charades_sta(folder):
    path = folder / "charades_sta_test.txt"
    path.write_text("3MSZA 24.3 30.4##person turn a light on.\n3MSZA 0.0 5.1##a person sits.\n")
    perfect = [{"id": "1", "answer": "From 24.3s to 30.4s."}, {"id": "2", "begin_s": 0.0, "end_s": 5.1}]
    return Files(["--annotations", str(path)], perfect)


def refcoco(folder):
    ref = {"sent_ids": [3, 4], "file_name": "COCO_train2014_000000581857_16.jpg", "ann_id": 1719310, "ref_id": 16}
    ref |= {"image_id": 581857, "split": "testA", "category_id": 1}
    ref["sentences"] = [
        {"tokens": ["the", "lady"], "raw": "the lady", "sent_id": i, "sent": "the lady"} for i in (3, 4)
    ]
    image = {"id": 581857, "file_name": "COCO_train2014_000000581857.jpg", "width": 640, "height": 427}
    box = {"id": 1719310, "image_id": 581857, "bbox": [103.93, 299.99, 134.22, 117.42], "category_id": 1}
    coco = dump(folder / "instances.json", {"images": [image], "annotations": [box], "categories": []})
    x, y, w, h = box["bbox"]
    perfect = [{"id": f"16/{i}", "boxes": [[0, x, y, x + w, y + h]]} for i in (3, 4)]
    return Files(["--annotations", dump(folder / "refs.json", [ref]), "--instances", coco], perfect)


def mvbench(folder):
    scenes = ["Opened the door.", "Closed the door.", "Sat down."]
    row = {"video": "ZS9XR.mp4", "question": "What happened?", "candidates": scenes, "start": 2.5, "end": 16.8}
    few = [row | {"answer": scenes[i]} for i in (0, 2)]
    dump(folder / "action_sequence.json", few)
    dump(
        folder / "object_existence.json",
        [{"video": "v.mp4", "question": "Any?", "candidates": ["yes", "no", "not sure"], "answer": "no"}],
    )
    answers = {"action_sequence/0": "A", "action_sequence/1": "Sat down.", "object_existence/0": "(B) no"}
    return Files(["--annotations", str(folder)], [{"id": k, "answer": v} for k, v in answers.items()])


def video_mme(folder):
    options = ["A. Apples.", "B. Candles.", "C. Berries.", "D. The three kinds are of the same number."]
    plain = {
        "domain": "Knowledge",
        "sub_category": "Humanity & History",
        "url": "https://www.youtube.com/watch?v=fFjv93ACGo8",
    }
    plain |= {
        "videoID": "fFjv93ACGo8",
        "task_type": "Counting Problem",
        "question": "Which is most?",
        "options": options,
    }
    rows = [
        {"video_id": f"00{i}", "duration": duration, "question_id": f"00{i}-1", "answer": letter, **plain}
        for i, (duration, letter) in enumerate([("short", "C"), ("medium", "A"), ("long", "D")])
    ]
    path = folder / "test-00000-of-00001.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return Files(["--annotations", str(path)], [{"id": row["question_id"], "answer": row["answer"]} for row in rows])


def tempcompass(folder):
    choice = "What is the man doing in the video?\nA. dunking a basketball\nB. dribbling a basketball"
    match = "Which description is a more suitable match?\nOption 1: The man is dribbling.\nOption 2: A man is dunking."
    caption = "Generate a caption.\nInformation A: {'action': 'dunking'}\nInformation B: {'action': 'dribbling'}"
    of = {
        "multi-choice": (choice, "A. dunking a basketball"),
        "yes_no": ("Is the man dunking?", "yes"),
        "caption_matching": (match, "Option 2: A man is dunking."),
        "captioning": (caption, "A. dunking a basketball"),
    }
    for task, (question, answer) in of.items():
        dump(folder / f"{task}.json", {"1034419625": {"action": [{"question": question, "answer": answer}]}})
    said = {"multi-choice": "A", "yes_no": "Yes.", "caption_matching": "Option 2", "captioning": "A man dunks."}
    return Files(
        ["--annotations", str(folder)], [{"id": f"{task}/1034419625/action/0", "answer": said[task]} for task in of]
    )


def egoschema(folder):
    names = ["0074f737-11cb-497d-8d07-77c3a8127391", "00b9a0de-c59e-49cb-a127-6081e2fb8c8e"]
    options = {
        f"option {i}": f"C does the {word} thing"
        for i, word in enumerate(["first", "second", "third", "fourth", "fifth"])
    }
    dump(
        folder / "questions.json", [{"q_uid": n, "google_drive_id": "x", "question": "Why?", **options} for n in names]
    )
    dump(folder / "subset_answers.json", dict(zip(names, [3, 4], strict=True)))
    perfect = [{"id": names[0], "answer": "D"}, {"id": names[1], "answer": "C does the fifth thing"}]
    return Files(["--annotations", str(folder)], perfect)


_WRITERS = {
    "generic_stvg": generic_stvg,
    "hcstvg_v1": hcstvg_v1,
    "hcstvg_v2": hcstvg_v2,
    "vidstg": vidstg,
    "charades_sta": charades_sta,
    "refcoco": refcoco,
    "refcoco+": refcoco,
    "refcocog": refcoco,
    "mvbench": mvbench,
    "video_mme": video_mme,
    "tempcompass": tempcompass,
    "egoschema": egoschema,
}
