"""Answers of ``ground`` → files for other tools, video by video.

OUT/exports/tubes.jsonl          every answer, one a line; those that failed say why
OUT/exports/coco_video.json      YouTube-VIS form
OUT/exports/cvat/<video>.xml     CVAT for video 1.1
OUT/exports/mot/<video>/         seqinfo.ini, gt/gt.txt, questions.csv

A video's rows lie in one part file for each run that asked about it. What is held: ids and the files of each video;
one part file as it is read; of the videos that lie in the very same files, the wanted rows, as Arrow; and of one video
what its own file takes. Boxes of the frames that the model saw, in and out of the span, are not read.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Container, Iterator, Mapping
from contextlib import ExitStack
from functools import cached_property
from pathlib import PurePosixPath
from typing import IO, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.archive.answers import ANSWERS, row_to_answer
from pipelines.core import storage
from pipelines.core.results import Results
from spacevllm.answer import Answer
from spacevllm.data.instance import instance_id
from spacevllm.exports import CATEGORY, coco_annotations, coco_video, cvat_xml, mot_files, num_tracks

ExportFormat = Literal["mot", "coco-video", "cvat", "jsonl"]
NAME_BYTES = 200  # of a video's own name; file systems take 255, endings included
COLUMNS = [name for name in ANSWERS.names if name != "sampled_boxes"]


class Rows:
    """One video's wanted rows, by question. table: columns ``COLUMNS``."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table.sort_by([("question", "ascending"), ("id", "ascending")])

    def rows(self) -> Iterator[dict[str, Any]]:
        """One at a time: a box is some 300 bytes in a row, and 20 in Arrow and in a tube."""
        for number in range(self.table.num_rows):
            yield from self.table.slice(number, 1).to_pylist()

    @cached_property
    def answers(self) -> list[Answer]:
        """Those that have a span."""
        answers = (row_to_answer(row | {"sampled_boxes": None}) for row in self.rows() if row["status"] == "ok")
        return [answer for answer in answers if isinstance(answer, Answer) and answer.span is not None]


Write = Callable[[str, Rows], int]  # a name for its files and one video's answers; how many tracks they became


def export(results: Results, wanted: Container[str], out: str, formats: tuple[ExportFormat, ...]) -> dict[str, int]:
    """Writes the wanted answers in each of ``formats``; returns how many tracks each holds (jsonl: answers)."""
    folder = storage.join(out, "exports")
    counts: dict[str, int] = dict.fromkeys(formats, 0)
    if not formats:
        return {}
    with ExitStack() as stack:
        writers = {name: _WRITERS[name](folder, stack) for name in formats}
        places = files_of(results, wanted)
        names = file_names(places)
        for video, rows in by_video(places, wanted):
            for form, write in writers.items():
                counts[form] += write(names[video], rows)
    return counts


def file_names(videos: Collection[str]) -> dict[str, str]:
    """A name for each video's files, no two the same: its own, with a hash behind it where two videos are called the
    same; a hash alone where its own is none that a file in a folder can have, such as ``..``."""
    paths = {video: PurePosixPath(_own_name(video)) for video in videos}
    shared = Counter(path.name for path in paths.values())
    names = {
        video: path.name if shared[path.name] == 1 else f"{path.stem}-{instance_id(video)[:8]}{path.suffix}"
        for video, path in paths.items()
    }
    taken = Counter(names.values())  # somebody may have named a video as another one's hash comes out
    return {video: name if taken[name] == 1 else f"video-{instance_id(video)}" for video, name in names.items()}


def _own_name(video: str) -> str:
    """The last part of a path, key or URL (web addresses alone have a query), if a visible file can be called so."""
    web = video.startswith(("http://", "https://"))
    name = storage.name(re.split("[?#]", video)[0] if web else video)
    usable = not name.startswith(".") and 0 < len(name.encode(errors="replace")) <= NAME_BYTES and "\0" not in name
    return name if usable else f"video-{instance_id(video)}"


def files_of(results: Results, wanted: Container[str]) -> dict[str, tuple[str, ...]]:
    """Each video with wanted rows → the part files that they lie in, in order of name."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for row, uri in results.rows(["id", "video"]):
        if row["id"] in wanted:
            found[row["video"]][uri] = None
    return {video: tuple(uris) for video, uris in found.items()}


def by_video(places: Mapping[str, tuple[str, ...]], wanted: Container[str]) -> Iterator[tuple[str, Rows]]:
    """Each video whole. Those that lie in the same files are read together: runs ask about videos in the same order, so
    few files are read more than twice."""
    together: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for video, uris in places.items():
        together[uris].add(video)
    for uris, videos in sorted(together.items()):
        table = pa.concat_tables([_rows(uri, wanted, videos) for uri in uris], promote_options="default")
        for video in sorted(videos):
            yield video, Rows(table.filter(pc.equal(table["video"], video)))


def _rows(uri: str, wanted: Container[str], videos: set[str]) -> pa.Table:
    table = storage.read_table(uri, COLUMNS)
    places = zip(table["id"].to_pylist(), table["video"].to_pylist(), strict=True)
    return table.filter(pa.array([id in wanted and video in videos for id, video in places], pa.bool_()))


def _jsonl(folder: str, stack: ExitStack) -> Write:
    file = stack.enter_context(storage.open_write(storage.join(folder, "tubes.jsonl")))

    def write(name: str, rows: Rows) -> int:
        for row in rows.rows():
            for tube in (row, *(row.get("more") or ())):
                tube["boxes"] = [list(box.values()) for box in tube["boxes"] or []]
            file.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
        return rows.table.num_rows

    return write


def _coco_video(folder: str, stack: ExitStack) -> Write:
    file = stack.enter_context(storage.open_write(storage.join(folder, "coco_video.json")))
    videos: list[dict[str, Any]] = []
    written = 0
    file.write(b'{"annotations": [')

    def write(name: str, rows: Rows) -> int:
        nonlocal written
        before = written
        if answers := rows.answers:
            videos.append(coco_video(len(videos) + 1, answers))
            for annotation in coco_annotations(len(videos), written + 1, answers):
                file.write((",\n" if written else "\n").encode() + json.dumps(annotation).encode())
                written += 1
        return written - before

    stack.push(lambda kind, *_: None if kind else _end_coco(file, videos))
    return write


def _end_coco(file: IO[bytes], videos: list[dict[str, Any]]) -> None:
    file.write(f'\n], "videos": {json.dumps(videos)}, "categories": {json.dumps([CATEGORY])}}}\n'.encode())


def _cvat(folder: str, stack: ExitStack) -> Write:
    folder = _emptied(storage.join(folder, "cvat"))

    def write(name: str, rows: Rows) -> int:
        if answers := rows.answers:
            storage.write_text(storage.join(folder, f"{name}.xml"), cvat_xml(name, answers))
        return num_tracks(answers)

    return write


def _mot(folder: str, stack: ExitStack) -> Write:
    folder = _emptied(storage.join(folder, "mot"))

    def write(name: str, rows: Rows) -> int:
        if answers := rows.answers:
            for file, text in mot_files(name, answers).items():
                storage.write_text(storage.join(folder, name, file), text)
        return num_tracks(answers)

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
