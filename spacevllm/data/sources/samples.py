"""A small world with annotations in every published schema, so that a build can be tried without any download.

Moving Shapes plays the films: what its scenes ask becomes rows as each data set publishes them, true schema and all,
and each file holds one broken row, for these occur::

    DIR/moving_shapes.yaml      the world
    DIR/media/<split>/*.mp4, *.png
    DIR/<source>/...            as unpacked from its publisher
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from spacevllm.data.instance import Instance, instance_id
from spacevllm.data.moving_shapes import MovingShapesConfig, make_scene, split_sizes, write_one
from spacevllm.data.moving_shapes.oracle import captions

WORLD = MovingShapesConfig(num_frames=161, images_per_video=2)  # 20 s, as HC-STVG's clips
BROKEN = {"bbox": None, "timestamps": None, "times": None}  # no reader takes this for anything
SPLITS = {"train": "train", "test": "val"}  # the world's and the published name


def write_samples(folder: str | Path, num_videos: int = 16, seed: int = 0) -> None:
    """Writes what is missing of the media, and all annotation files.

    Raises:
        ValueError: fewer than two videos.
    """
    root, world = Path(folder), WORLD.model_copy(update={"seed": seed})
    root.mkdir(parents=True, exist_ok=True)
    (root / "moving_shapes.yaml").write_text(yaml.safe_dump(world.model_dump(mode="json")))
    files: dict[str, Any] = {}
    expressions: list[Instance] = []
    sizes = split_sizes(num_videos, 0.25)
    for split, count in sizes.items():
        asked = [instance for index in range(count) for instance in write_one(root, world, split, index)]
        rough = [one for index in range(count) for one in _rough(world, split, index)]
        expressions += [instance for instance in asked if instance.task == "rec"]
        name = SPLITS[split]
        files |= dict([*_tubes(asked, name), *_moments(asked, name), *_rough_moments(rough, name)])
    files |= dict(_expressions(expressions))
    _share_a_clip(files)
    _write(root, files)


def _write(root: Path, files: dict[str, Any]) -> None:
    for name, value in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value if isinstance(value, str) else json.dumps(value))
    for version, split in (("hcstvg_v1", "train"), ("hcstvg_v1", "val"), ("hcstvg_v2", "train"), ("hcstvg_v2", "val")):
        for clip in files[f"{version}/{split}.json"]:
            source, target = root / "media" / clip.partition("_")[2].replace("_", "/"), root / "hcstvg" / clip
            if source.exists() and not target.exists():
                target.parent.mkdir(exist_ok=True)
                shutil.copyfile(source, target)


def _rough(world: MovingShapesConfig, split: str, index: int) -> Iterator[tuple[Instance, float, float]]:
    """Captions: the truth, begin and end of the rough interval."""
    for caption, truth in captions(make_scene(world, split, index), f"media/{split}/{index:06d}.mp4"):
        yield truth, caption.begin_s, caption.end_s


def _tubes(asked: list[Instance], split: str) -> Iterator[tuple[str, Any]]:
    """Each video gives a question to HC-STVG v1, v2 and VidSTG."""
    tubes = [i for i in asked if i.task == "stvg" and _has_every_box(i)]
    first, second, third = ({_name(i): i for i in tubes[n::3]} for n in range(3))
    yield f"hcstvg_v1/{split}.json", _hcstvg(first, _v1)
    yield f"hcstvg_v2/{split}.json", _hcstvg(second, _v2)
    yield f"vidstg/{split}_annotations.json", [*map(_vidstg, third.values()), {"vid": "broken"}]
    for name, instance in third.items():
        yield f"vidor/{split}/{name}.json", {"trajectories": _trajectories(instance)}


def _moments(asked: list[Instance], split: str) -> Iterator[tuple[str, Any]]:
    moments = [i for i in asked if i.task == "vtg"]
    yield f"charades_sta/charades_sta_{split}.txt", "\n".join([*map(_charades, moments[0::2]), "no such form"]) + "\n"
    durations = {_name(i): {"duration": i.duration_s, "fps": float(i.fps)} for i in moments}
    yield f"charades_sta/charades_{split}.json", durations
    yield f"tacos/{split}.json", _tacos(moments[1::2])
    yield f"llava/{split}.json", [*(_llava(i) for i in asked if i.task == "qa"), _about_nothing(), BROKEN]


def _rough_moments(rough: list[tuple[Instance, float, float]], split: str) -> Iterator[tuple[str, Any]]:
    yield f"didemo/{split}_data.json", [*(_didemo(n, *one) for n, one in enumerate(rough[0::2])), BROKEN]
    yield f"internvid/{split}.jsonl", "\n".join([*(_internvid(*one) for one in rough[1::2]), "{"]) + "\n"


def _expressions(asked: list[Instance]) -> Iterator[tuple[str, Any]]:
    yield "coco/instances.json", _instances(asked)
    for part, name in enumerate(("refcoco", "refcoco+", "refcocog")):
        yield f"{name}/refs.json", [*map(_ref, asked[part::3]), {"ref_id": -1, "split": "train", "sentences": [{}]}]


def _share_a_clip(files: dict[str, Any]) -> None:
    """As in the published ones, v1 and v2 have clips in common: one sentence twice, one training clip that v2 tests."""
    v1, v2, tested = (files[f"hcstvg_{name}.json"] for name in ("v1/train", "v2/train", "v2/val"))
    (first, clip), (second, other) = list(v1.items())[:2]
    v2.pop(second, None)
    for target, name, row in ((v2, first, clip), (tested, second, other)):
        height, width = row["height"], row["width"]
        target[name] = {k: row[k] for k in row if k not in ("caption", "width", "height")} | {
            "English": row["caption"], "img_size": [height, width, 3],
        }  # fmt: skip


def _has_every_box(instance: Instance) -> bool:
    begin, end = instance.begin_frame or 0, instance.end_frame or 0
    return set(range(begin, end)) <= set(instance.box_frames)


def _name(instance: Instance) -> str:
    return Path(instance.media).stem


def _span_boxes(instance: Instance) -> list[list[float]]:
    """x, y, w, h of each frame in the span."""
    boxes = dict(zip(instance.box_frames, instance.boxes, strict=True))
    corners = (boxes[frame] for frame in range(instance.begin_frame or 0, instance.end_frame or 0))
    return [[x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)] for x1, y1, x2, y2 in corners]


def _hcstvg(instances: dict[str, Instance], more: Any) -> dict[str, Any]:
    """One sentence a clip; a clip's name is a number and the film it was cut from."""
    clips = {f"{n}_{i.split}_{name}.mp4": _clip(i) | more(i) for n, (name, i) in enumerate(instances.items())}
    return clips | {"0_broken.mp4": BROKEN}


def _clip(instance: Instance) -> dict[str, Any]:
    return {
        "bbox": _span_boxes(instance),
        "st_time": instance.begin_s,
        "ed_time": instance.end_s,
        "st_frame": (instance.begin_frame or 0) + 1,
        "img_num": instance.num_frames - 1,  # 160 in 20 s
    }


def _v1(instance: Instance) -> dict[str, Any]:
    return {"caption": instance.question, "width": instance.width, "height": instance.height}


def _v2(instance: Instance) -> dict[str, Any]:
    return {"English": instance.question, "img_size": [instance.height, instance.width, 3]}


def _vidstg(instance: Instance) -> dict[str, Any]:
    begin, end = instance.begin_frame, instance.end_frame
    asked = [{"description": instance.question, "type": "shape", "target_id": 0}]
    declares = instance.sentence_type == "declarative"
    return {
        "vid": _name(instance),
        "fps": float(instance.fps),
        "frame_count": instance.num_frames,
        "used_segment": {"begin_fid": 0, "end_fid": instance.num_frames - 1},
        "width": instance.width,
        "height": instance.height,
        "subject/objects": [{"tid": 0, "category": "shape"}],
        "used_relation": {"subject_tid": 0, "object_tid": 0, "predicate": "-", "begin_fid": begin, "end_fid": end},
        "temporal_gt": {"begin_fid": begin, "end_fid": end},
        "captions": asked if declares else [],
        "questions": [] if declares else asked,
    }


def _trajectories(instance: Instance) -> list[list[dict[str, Any]]]:
    """VidOR's: a list of boxes for each frame. The thing asked for has tid 0."""
    sides = ("xmin", "ymin", "xmax", "ymax")
    frames: list[list[dict[str, Any]]] = [[] for _ in range(instance.num_frames)]
    for frame, box in zip(instance.box_frames, instance.boxes, strict=True):
        frames[frame] = [{"tid": 0, "bbox": dict(zip(sides, box, strict=True))}]
    return frames


def _charades(instance: Instance) -> str:
    return f"{_name(instance)} {instance.begin_s} {instance.end_s}##{instance.question.rstrip('?.')}."


def _tacos(instances: list[Instance]) -> dict[str, Any]:
    videos: dict[str, Any] = {"broken.avi": BROKEN}
    for i in instances:
        facts = {"timestamps": [], "sentences": [], "fps": float(i.fps), "num_frames": i.num_frames}
        video = videos.setdefault(f"{_name(i)}.mp4", facts)
        video["timestamps"].append([i.begin_frame, i.end_frame])
        video["sentences"].append(i.question)
    return videos


def _didemo(number: int, truth: Instance, begin_s: float, end_s: float) -> dict[str, Any]:
    first = int(begin_s // 5)
    last = max(math.ceil(end_s / 5) - 1, first)
    return {
        "annotation_id": number,
        "description": truth.question,
        "video": f"{_name(truth)}.mp4",
        "num_segments": math.ceil(truth.duration_s / 5),
        "times": [[first, last]] * 4,
    }


def _internvid(truth: Instance, begin_s: float, end_s: float) -> str:
    begin, end = (f"00:00:{second:06.3f}" for second in (begin_s, end_s))
    row = {"YoutubeID": _name(truth), "Start_timestamp": begin, "End_timestamp": end, "Caption": truth.question}
    return json.dumps(row)


def _llava(instance: Instance) -> dict[str, Any]:
    turns = [{"from": "human", "value": f"<video>\n{instance.question}"}, {"from": "gpt", "value": instance.answer}]
    return {"id": instance.id, "video": Path(instance.media).name, "conversations": turns}


def _about_nothing() -> dict[str, Any]:
    """General data without a picture."""
    turns = [("human", "What has three sides?"), ("gpt", "A triangle."), ("human", "And four?"), ("gpt", "A square.")]
    return {"id": "text", "conversations": [{"from": speaker, "value": text} for speaker, text in turns]}


def _instances(expressions: list[Instance]) -> dict[str, Any]:
    files = {i.media: i for i in expressions}
    images = [
        {"id": _number(media), "file_name": media.removeprefix("media/"), "width": i.width, "height": i.height}
        for media, i in files.items()
    ]
    boxes = [
        {"id": _number(i.id), "image_id": _number(i.media), "category_id": 1, "bbox": _box(i)} for i in expressions
    ]
    return {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "shape"}]}


def _ref(instance: Instance) -> dict[str, Any]:
    number = _number(instance.id)
    words = instance.question
    return {
        "sent_ids": [number],
        "file_name": f"{_name(instance)}_{number}.png",
        "ann_id": number,
        "ref_id": number,
        "image_id": _number(instance.media),
        "split": SPLITS[instance.split],
        "sentences": [{"tokens": words.split(), "raw": words, "sent_id": number, "sent": words}],
        "category_id": 1,
    }


def _number(name: str) -> int:
    return int(instance_id(name)[:7], 16)


def _box(instance: Instance) -> list[float]:
    x1, y1, x2, y2 = instance.boxes[0]
    return [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)]
