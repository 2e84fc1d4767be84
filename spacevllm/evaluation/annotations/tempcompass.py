"""TempCompass (Liu et al. 2024): multiple choice, yes/no, caption matching and captioning about 410 short videos.

One JSON file a task: video → aspect → questions. A question's id is ``<task>/<video>/<aspect>/<position>``, the task
being the file's name. A caption is scored by a judge that answers the aspect's first multiple-choice question from the
caption alone (as the authors' script does): see ``judging``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from spacevllm.config import ConfigError
from spacevllm.data.instance import Instance
from spacevllm.data.sources.base import Dropped, Row, SourceFiles, Text, convert_each, load_json
from spacevllm.evaluation.annotations.quiz import json_files, quiz

TASKS = ("multi-choice", "yes_no", "caption_matching", "captioning")
PUBLISHED = {"test": 7_540}
WHERE = "github.com/llyx97/TempCompass (CC BY-NC 4.0): the folder questions, and the videos"

_OPTION = re.compile(r"(?:[A-D]\.|(?:Option|Sentence|Caption) [A-D1-4]:)\s")
_LETTER = re.compile(r"[A-D]\.\s+")


class _Question(Row):
    question: Text
    answer: Text


def read(files: SourceFiles) -> Iterator[Instance | Dropped]:
    """Every question of the folder ``questions``, or of one of its files."""
    paths = [path for path in json_files(files.annotations) if path.stem in TASKS]
    if not paths:
        raise ConfigError(f"{files.annotations}: TempCompass's files are {', '.join(f'{task}.json' for task in TASKS)}")
    for path in paths:
        yield from convert_each(path, _questions(path), partial(_convert, files, path.stem))


def judging(annotations: Path, instances: list[Instance]) -> dict[str, Instance]:
    """The multiple-choice question by which each caption is judged, by the captioning question's ``Instance.id``.

    Raises:
        ConfigError: there are captions, and no ``multi-choice.json`` beside them.
    """
    captions = [instance for instance in instances if instance.sentence_type == "captioning"]
    path = (annotations if annotations.is_dir() else annotations.parent) / "multi-choice.json"
    if captions and not path.exists():
        raise ConfigError(f"{path} is missing: captions are judged by its questions")
    asked = {i.id: i for i in read(SourceFiles(path)) if isinstance(i, Instance)} if captions else {}
    found = {}
    for caption in captions:
        _, _, video, aspect, _ = caption.id.split("/")
        first = asked.get(f"tempcompass/multi-choice/{video}/{aspect}/0")
        if first:
            found[caption.id] = first
    return found


def _questions(path: Path) -> Iterator[tuple[str, Any]]:
    for video, aspects in load_json(path, dict).items():
        for aspect, rows in aspects.items() if isinstance(aspects, dict) else ((None, None),):
            listed = enumerate(rows) if isinstance(rows, list) else (("?", None),)
            yield from ((f"{path.stem}/{video}/{aspect}/{number}", row) for number, row in listed)


def _convert(files: SourceFiles, task: str, key: str, row: Any) -> Instance:
    asked = _Question.model_validate(row)
    media = f"{key.split('/')[1]}.mp4"
    question, options, answer = asked.question, [], asked.answer
    if task == "yes_no":
        options = ["yes", "no"]
    elif task != "captioning":
        first, *lines = question.split("\n")
        options = [line.strip() for line in lines if _OPTION.match(line.strip())]
        question = first if len(options) == len(lines) else question
        if len(options) < 2:
            raise ValueError("the question has no options")
        if task == "multi-choice":  # the prompt puts the letters in front again
            options, answer = [_LETTER.sub("", option, count=1) for option in options], _LETTER.sub("", answer, count=1)
    return quiz(files, "tempcompass", key, media, question, options, answer, task)
