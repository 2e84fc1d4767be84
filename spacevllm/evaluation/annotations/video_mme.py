"""Video-MME (Fu et al. 2025): 900 videos, three questions each, four options; accuracy by the video's duration.

A question's id is its ``question_id`` (``001-1``). Read from the published Parquet file, from the same rows as JSON, or
from the JSON of the authors' evaluation, one object a video with its ``questions``.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from spacevllm.config import ConfigError
from spacevllm.data.instance import Instance
from spacevllm.data.sources.base import Dropped, Row, SourceFiles, Text, convert_each, load_json
from spacevllm.evaluation.annotations.quiz import LETTERS, quiz

PUBLISHED = {"test": 2_700}
WHERE = "huggingface.co/datasets/lmms-lab/Video-MME (research only): videomme/*.parquet, and the videos"


class _Question(Row):
    question_id: Text
    duration: Literal["short", "medium", "long"]
    question: Text
    options: Annotated[list[str], Field(min_length=2)]
    answer: Literal["A", "B", "C", "D"]
    video_id: Text
    videoID: str = ""  # on YouTube; the videos are named so


def read(files: SourceFiles) -> Iterator[Instance | Dropped]:
    """Every question of the file."""
    rows = ((_key(number, row), row) for number, row in enumerate(_rows(files)))
    return convert_each(files.annotations, rows, partial(_convert, files))


def _rows(files: SourceFiles) -> list[Any]:
    if files.annotations.suffix == ".json":
        return [row for item in load_json(files.annotations, list) for row in _questions(item)]
    try:
        rows: list[Any] = pq.read_table(files.annotations).to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise ConfigError(f"{files.annotations} is neither JSON nor Parquet: {' '.join(str(error).split())}") from None
    return rows


def _questions(item: Any) -> list[Any]:
    """Of a video's object, what it says of the video added to each; any other row as it is."""
    if not isinstance(item, dict) or not isinstance(item.get("questions"), list):
        return [item]
    about = {name: value for name, value in item.items() if name != "questions"}
    return [about | row if isinstance(row, dict) else row for row in item["questions"]]


def _key(number: int, row: Any) -> str:
    return str(row.get("question_id", f"#{number}")) if isinstance(row, dict) else f"#{number}"


def _convert(files: SourceFiles, key: str, row: Any) -> Instance:
    asked = _Question.model_validate(row)
    index = LETTERS.index(asked.answer)
    if index >= len(asked.options):
        raise ValueError("the answer is none of the options")
    options = [option.removeprefix(f"{LETTERS[i]}.").strip() for i, option in enumerate(asked.options)]
    media = f"{asked.videoID or asked.video_id}.mp4"
    return quiz(files, "video_mme", key, media, asked.question, options, options[index], asked.duration)
