"""MVBench (Li et al. 2024): 20 tasks of 200 questions, one JSON file a task; the answer is the option's text.

Five tasks ask about a part of the video: ``start`` and ``end`` in seconds. A question's id is ``<task>/<position>``,
the file's name and the place in it from 0. Its table is the mean over tasks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

from pydantic import Field

from spacevllm.data.instance import Instance
from spacevllm.data.sources.base import Dropped, Row, SourceFiles, Text, convert_each, load_json
from spacevllm.evaluation.annotations.quiz import json_files, quiz

PUBLISHED = {"test": 4_000}
WHERE = "huggingface.co/datasets/OpenGVLab/MVBench (MIT): the folder json, and the videos"


class _Question(Row):
    video: Text
    question: Text
    candidates: Annotated[list[str], Field(min_length=2)]
    answer: str
    start: Annotated[float | int, Field(ge=0)] | None = None
    end: float | int | None = None


def read(files: SourceFiles) -> Iterator[Instance | Dropped]:
    """Every question of the folder ``json``, or of one of its files."""
    for path in json_files(files.annotations):
        rows = ((f"{path.stem}/{number}", row) for number, row in enumerate(load_json(path, list)))
        yield from convert_each(path, rows, partial(_convert, files, path.stem))


def _convert(files: SourceFiles, task: str, key: str, row: Any) -> Instance:
    asked = _Question.model_validate(row)
    if (asked.start is None) != (asked.end is None):
        raise ValueError("start and end: one without the other")
    instance = quiz(files, "mvbench", key, asked.video, asked.question, asked.candidates, asked.answer, task)
    return instance if asked.start is None else replace(instance, begin_s=asked.start, end_s=asked.end)
