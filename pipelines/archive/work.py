"""What is to be done, one row a media with its questions. Made of Python's own objects, for thousands of questions,
such as ``evaluate`` asks; ``ground`` has millions, see ``plan``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from pipelines.archive.predict import Model
from pipelines.core.results import Wanted, made_from
from spacevllm.config import ConfigError
from spacevllm.data.instance import instance_id
from spacevllm.windows import Windows

QUESTION = pa.struct(
    [(name, pa.string()) for name in ("id", "task", "question", "fingerprint")] + [("options", pa.list_(pa.string()))]
)
PART = [("begin_s", pa.float64()), ("end_s", pa.float64()), ("error", pa.string())]  # as in the manifest
WORK = pa.schema([("uri", pa.string()), ("media", pa.string()), *PART, ("questions", pa.list_(QUESTION))])


class Question(NamedTuple):
    """One row of the output to be. ``task``: stvg, vtg, rec or qa; ``options`` only for multiple choice."""

    id: str
    task: str
    question: str
    options: Sequence[str] = ()


def make_work(
    asked: Iterable[tuple[Mapping[str, Any], Sequence[Question]]], model: Model, windows: Windows = "off"
) -> pa.Table:
    """Rows of ``WORK`` from manifest rows, each with the questions about it."""
    rows = []
    for media, questions in asked:
        part = (media["begin_s"], media["end_s"])
        seen = (*seen_by(model, windows), *(() if part == (None, None) else part))
        marked = [q._asdict() | {"fingerprint": made_from(media["version"], *seen, *q[1:])} for q in questions]
        rows.append(
            {name: media[name] for name in ("uri", "media", "begin_s", "end_s", "error")} | {"questions": marked}
        )
    return pa.Table.from_pylist(rows, schema=WORK)


def seen_by(model: Model, windows: Windows = "off") -> tuple[object, ...]:
    """What an answer depends on, but for the video and the question."""
    return (model.digest, *model.plan, *(() if windows == "off" else (windows,)))


def wanted_ids(work: pa.Table) -> Wanted:
    """Every question's id → fingerprint; None: its video cannot be looked at now.

    Raises:
        ConfigError: two questions have one id, as the name of a file may make them; one of them would get no answer.
    """
    wanted: dict[str, str | None] = {}
    for row in work.to_pylist():
        for question in row["questions"]:
            if question["id"] in wanted:
                raise clash(row["uri"], question["question"])
            wanted[question["id"]] = question["fingerprint"] or None
    return wanted


def clash(uri: str, question: str) -> ConfigError:
    return ConfigError(f"{uri}: {question!r} has the id of another question; rename the file")


def generation_of(model: Model, windows: Windows = "off") -> str:
    """A name for what one model answers in one way: another model, calibration or plan has another."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", model.id)[:40].strip("-") or "model"
    return f"{name}-{instance_id(*seen_by(model, windows))[:8]}"


def without(work: pa.Table, done: set[str]) -> pa.Table:
    """The work that is left; media with nothing left to ask fall out."""
    rows = [
        row | {"questions": left}
        for row in work.to_pylist()
        if (left := [question for question in row["questions"] if question["id"] not in done])
    ]
    return pa.Table.from_pylist(rows, schema=WORK)
