"""Answers of ``ground`` → files for other tools, video by video: nothing is held but one part file and its loose ends.

OUT/exports/tubes.jsonl          every answer, one a line; those that failed say why
OUT/exports/coco_video.json      YouTube-VIS form
OUT/exports/cvat/<video>.xml     CVAT for video 1.1
OUT/exports/mot/<video>/         seqinfo.ini, gt/gt.txt, questions.csv
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack
from pathlib import PurePosixPath
from typing import IO, Any, Literal

from pipelines import storage
from pipelines.parts import Parts
from pipelines.predict import row_to_answer
from spacevllm.data.instance import instance_id
from spacevllm.exports import CATEGORY, coco_annotations, coco_video, cvat_xml, mot_files
from spacevllm.tube import Tube

ExportFormat = Literal["mot", "coco-video", "cvat", "jsonl"]
Rows = list[dict[str, Any]]
Write = Callable[[str, Rows], int]  # a name for its files and one video's rows; how many became tracks


def export(parts: Parts, wanted: Mapping[str, str], out: str, formats: tuple[ExportFormat, ...]) -> dict[str, int]:
    """Writes the wanted answers in each of ``formats``; returns how many tubes each holds (jsonl: answers)."""
    folder = storage.join(out, "exports")
    counts: dict[str, int] = dict.fromkeys(formats, 0)
    if not formats:
        return {}
    with ExitStack() as stack:
        writers = {name: _WRITERS[name](folder, stack) for name in formats}
        expected = Counter(row["video"] for row in parts.collect(wanted, ["id", "video"]).to_pylist())
        names = file_names(expected)
        for video, rows in by_video(parts, wanted, expected):
            for form, write in writers.items():
                counts[form] += write(names[video], rows)
    return counts


def file_names(videos: Collection[str]) -> dict[str, str]:
    """A name for each video's files: its own, with a hash behind it where two videos are called the same."""
    paths = {video: PurePosixPath(storage.name(video).partition("?")[0]) for video in videos}
    shared = Counter(path.name for path in paths.values())
    return {
        video: path.name if shared[path.name] == 1 else f"{path.stem}-{instance_id(video)[:8]}{path.suffix}"
        for video, path in paths.items()
    }


def by_video(parts: Parts, wanted: Mapping[str, str], expected: Mapping[str, int]) -> Iterator[tuple[str, Rows]]:
    """Each video with its ``expected`` number of wanted rows, by question. They mostly lie in one file."""
    waiting: dict[str, Rows] = defaultdict(list)
    for table in parts.tables():
        touched = set()
        for row in table.to_pylist():
            if row["id"] in wanted:
                waiting[row["video"]].append(row)
                touched.add(row["video"])
        for video in sorted(touched):
            if len(waiting[video]) == expected[video]:
                yield video, sorted(waiting.pop(video), key=lambda row: (row["question"], row["id"]))


def _tubes(rows: Rows) -> list[Tube]:
    answers = [row_to_answer(row) for row in rows if row["status"] == "ok"]
    return [answer for answer in answers if isinstance(answer, Tube) and answer.span is not None]


def _jsonl(folder: str, stack: ExitStack) -> Write:
    file = stack.enter_context(storage.open_write(storage.join(folder, "tubes.jsonl")))

    def write(name: str, rows: Rows) -> int:
        for row in rows:
            kept = {name: value for name, value in row.items() if name != "sampled_boxes"}
            kept["boxes"] = [list(box.values()) for box in row["boxes"] or []]
            file.write((json.dumps(kept, ensure_ascii=False) + "\n").encode())
        return len(rows)

    return write


def _coco_video(folder: str, stack: ExitStack) -> Write:
    file = stack.enter_context(storage.open_write(storage.join(folder, "coco_video.json")))
    videos: list[dict[str, Any]] = []
    written = 0
    file.write(b'{"annotations": [')

    def write(name: str, rows: Rows) -> int:
        nonlocal written
        if tubes := _tubes(rows):
            videos.append(coco_video(len(videos) + 1, tubes))
            for annotation in coco_annotations(len(videos), written + 1, tubes):
                file.write((",\n" if written else "\n").encode() + json.dumps(annotation).encode())
                written += 1
        return len(tubes)

    stack.push(lambda kind, *_: None if kind else _end_coco(file, videos))
    return write


def _end_coco(file: IO[bytes], videos: list[dict[str, Any]]) -> None:
    file.write(f'\n], "videos": {json.dumps(videos)}, "categories": {json.dumps([CATEGORY])}}}\n'.encode())


def _cvat(folder: str, stack: ExitStack) -> Write:
    folder = _emptied(storage.join(folder, "cvat"))

    def write(name: str, rows: Rows) -> int:
        if tubes := _tubes(rows):
            storage.write_text(storage.join(folder, f"{name}.xml"), cvat_xml(name, tubes))
        return len(tubes)

    return write


def _mot(folder: str, stack: ExitStack) -> Write:
    folder = _emptied(storage.join(folder, "mot"))

    def write(name: str, rows: Rows) -> int:
        if tubes := _tubes(rows):
            for file, text in mot_files(name, tubes).items():
                storage.write_text(storage.join(folder, name, file), text)
        return len(tubes)

    return write


def _emptied(folder: str) -> str:
    """Videos that are asked nothing any more are no part of a new export."""
    for uri in storage.find(folder):
        storage.remove(uri)
    return folder


_WRITERS: dict[ExportFormat, Callable[[str, ExitStack], Write]] = {
    "mot": _mot,
    "coco-video": _coco_video,
    "cvat": _cvat,
    "jsonl": _jsonl,
}
