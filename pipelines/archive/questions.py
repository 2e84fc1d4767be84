"""What is asked of which video: questions from the command, a file and manifests, paired with their videos."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipelines.archive.predict import Question
from pipelines.core import storage
from pipelines.core.rows import is_rows, read_rows
from pipelines.media.manifest import Line, check_columns, is_utf8
from spacevllm.config import ConfigError
from spacevllm.data.instance import instance_id

Pairs = Iterator[tuple[Mapping[str, Any], list[Question]]]


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


def pair_questions(manifest: pa.Table, questions: Sequence[tuple[str, str]]) -> Pairs:
    """Each manifest row with its questions; a video without any is left out.

    Args:
        questions: (video, question); an empty video means every video.

    Raises:
        ConfigError: a question names a video that is not there, or more than one.
    """
    rows = manifest.to_pylist()
    by_name = defaultdict(list)
    for row in rows:
        by_name[storage.name(row["uri"])].append(row)
    everywhere = [text for video, text in questions if not video]
    own: dict[str, list[str]] = {row["id"]: row["questions"] for row in rows}
    for video, text in questions:
        if video:
            own[_find_video(by_name[storage.name(video)], video)["id"]].append(text)
    for row in rows:
        texts = dict.fromkeys([*everywhere, *own[row["id"]]])  # each once, in order
        if any(texts):
            texts.pop("", None)  # of a broken row that brought no question
        if texts:
            yield row, [Question(instance_id(row["id"], text), "stvg", text) for text in texts]


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


def _find_video(rows: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    """The row whose uri is ``name`` or ends with it, of those that share its last part."""
    found = [row for row in rows if row["uri"] == storage.absolute(name)]
    found = found or [row for row in rows if row["uri"].endswith("/" + name.removeprefix("./"))]
    if len(found) != 1:
        raise ConfigError(f"a question names the video {name!r}: {len(found) or 'none'} of the videos are called so")
    return found[0]
