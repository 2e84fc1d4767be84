"""What is asked: questions from the command and from a file; ``plan`` pairs them with their videos."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipelines.core import storage
from pipelines.core.listing import is_utf8
from pipelines.core.rows import is_rows, read_rows
from pipelines.media.manifest import Line, check_columns
from spacevllm.config import ConfigError


def read_questions(question: str | Sequence[str], file: str | None) -> list[tuple[str, str]]:
    """(video or ``""``, question) of the command and of the file.

    Args:
        file: ``.txt``, one question a line; or ``.jsonl``, ``.json``, ``.csv``, ``.parquet`` with ``question`` and, for
            a question about one video only, ``video`` (its path, or the end of it, such as the file name).

    Raises:
        ConfigError: no such file, not readable, or no question in it.
    """
    listed = [question] if isinstance(question, str) else question
    for text in listed:
        if not is_utf8(text):
            raise ConfigError(f"--question {text!r} is no UTF-8 text")
    found = [("", text.strip()) for text in listed]
    if file:
        found += _read_file(file)
    found = [(video, text) for video, text in found if text]
    if not found and (file or listed):
        raise ConfigError(f"there is no question in {file or 'the command'}")
    return found


def _read_file(uri: str) -> list[tuple[str, str]]:
    if not is_rows(uri):
        try:
            return [("", line.strip()) for line in storage.read_text(uri).split("\n")]
        except FileNotFoundError:
            raise ConfigError(f"no such questions file: {uri}") from None
        except UnicodeDecodeError as error:
            raise ConfigError(f"{uri} is no UTF-8 text: {error}") from None
    rows = read_rows(uri)
    check_columns(uri, rows)
    return [_read_row(uri, number, row) for number, row in enumerate(rows, start=1)]


def _read_row(uri: str, number: int, row: Any) -> tuple[str, str]:
    try:
        line = Line.read(row)
        if not isinstance(row, str) and "question" not in row:
            raise ValueError("it has no question")
    except ValueError as error:  # a question may be for all videos: better corrected now than asked wrongly
        raise ConfigError(f"{uri}, row {number}: {error}; every row needs a question, and may name its video") from None
    if line.begin_s is not None or line.end_s is not None:
        raise ConfigError(f"{uri}, row {number}: only a manifest (--videos FILE) says which part of a video to look at")
    return line.video, line.question
