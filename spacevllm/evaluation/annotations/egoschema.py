"""EgoSchema (Mangalam et al. 2023): one question a video of three minutes, five options; 500 answers are public.

A question's id is its ``q_uid``. Answers stand apart from questions: give the folder that holds ``questions.json`` and
``subset_answers.json``, or ``subset_answers.json`` alone (letters and numbers can be scored then, words cannot).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import Field

from spacevllm.config import ConfigError
from spacevllm.data.instance import Instance
from spacevllm.data.sources.base import Dropped, Row, SourceFiles, Text, convert_each, load_json
from spacevllm.evaluation.annotations.quiz import quiz

PUBLISHED = {"test": 500}
WHERE = "github.com/egoschema/EgoSchema (Ego4D licence): questions.json, subset_answers.json and the videos"
ANSWERS, QUESTIONS, OPTIONS = "subset_answers.json", "questions.json", 5


class _Question(Row):
    question: Text = "?"
    option_0: Text = Field("0", alias="option 0")
    option_1: Text = Field("1", alias="option 1")
    option_2: Text = Field("2", alias="option 2")
    option_3: Text = Field("3", alias="option 3")
    option_4: Text = Field("4", alias="option 4")


def read(files: SourceFiles) -> Iterator[Instance | Dropped]:
    """Every question whose answer is public."""
    folder = files.annotations if files.annotations.is_dir() else files.annotations.parent
    answers = load_json(_need(folder / ANSWERS if files.annotations.name == QUESTIONS else files.annotations), dict)
    questions = folder / QUESTIONS
    rows = load_json(questions, list) if questions.exists() else []
    asked = {row.get("q_uid"): row for row in rows if isinstance(row, dict)}
    found = ((key, (asked.get(key, {} if not asked else None), answer)) for key, answer in answers.items())
    return convert_each(files.annotations, found, partial(_convert, files))


def _need(path: Path) -> Path:
    path = path / ANSWERS if path.is_dir() else path
    if not path.exists():
        raise ConfigError(f"{path} is missing: it holds the public answers of EgoSchema")
    return path


def _convert(files: SourceFiles, key: str, item: tuple[Any, Any]) -> Instance:
    row, answer = item
    if row is None:
        raise ValueError(f"{QUESTIONS} has no such question")
    if not isinstance(answer, int) or not 0 <= answer < OPTIONS:
        raise ValueError(f"the answer is no number from 0 to {OPTIONS - 1}")
    asked = _Question.model_validate(row)
    options = [getattr(asked, f"option_{i}") for i in range(OPTIONS)]
    return quiz(files, "egoschema", key, f"{key}.mp4", asked.question, options, options[answer])
