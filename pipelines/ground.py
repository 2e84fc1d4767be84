"""Videos × questions → tubes. Each video is read once and each (video, question) answered once, run after run.

The way of a run: list the videos → pair them with questions → leave out what OUT/tubes has → answer (predict.py, which
evaluation uses too) → count every row.
"""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
from pydantic import model_validator

from pipelines import storage
from pipelines.cluster import ray_session
from pipelines.decode import DecodeOptions
from pipelines.manifest import list_videos
from pipelines.parts import Parts, count_rows
from pipelines.predict import (
    LoadPredictor,
    Model,
    PredictOptions,
    Question,
    answer,
    describe,
    load_predictor,
    make_work,
    wanted_ids,
    without,
)
from pipelines.progress import Progress
from pipelines.stage import Summary, open_stage, write_summary
from pipelines.tracking import TrackingConfig
from spacevllm.config import Config, ConfigError
from spacevllm.data.instance import instance_id


class GroundConfig(Config):
    """``ground``: OUT/tubes/*.parquet, one row a (video, question), columns as in ``predict.ANSWERS``.

    Attributes:
        model: folder of a trained model.
        videos: folder, glob, file or URL, or a list of them.
        questions: file: ``.txt``, one question a line; or ``.jsonl``, ``.json`` (a list) or ``.csv`` with ``question``
            and, for a question about one video only, ``video`` (its path, or the end of it, such as the file name).
        question: one question, or a list, asked of every video.
        out: where the tubes go. Running again adds what is missing; rows of other videos or questions stay.
        decode, predict: how videos are read and how the model runs.
        retry_failed: also do again what failed before (and what another limit in ``decode`` could save).
        ray: address of a running cluster; None: RAY_ADDRESS, else a local session.
    """

    model: str
    videos: str | tuple[str, ...]
    out: str
    questions: str | None = None
    question: str | tuple[str, ...] = ()
    decode: DecodeOptions = DecodeOptions()
    predict: PredictOptions = PredictOptions()
    retry_failed: bool = False
    ray: str | None = None
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _has_questions(self) -> GroundConfig:
        if not self.questions and not self.question:
            raise ValueError("ground needs questions: a file (questions) or text (question)")
        return self


def run(config: GroundConfig, load: LoadPredictor = load_predictor) -> Summary:
    """Answers what is not there yet; a second run decodes nothing.

    Returns:
        The summary that is also OUT/summary.json: ``in`` = ``ok`` + ``failed`` counts the (video, question) pairs of
        this call, ``errors`` the failed ones by reason, ``new`` and ``decoded`` what this call added and read.

    Raises:
        ConfigError: no videos, or no readable questions. StorageBusy: another job writes to the same output.
    """
    pairs = pair_questions(list_videos(config.videos), read_questions(config))
    with storage.exclusive(config.out):
        model = describe(config.model, load)
        work = make_work(pairs, model)
        parts, wanted = Parts(storage.join(config.out, "tubes")), wanted_ids(work)
        missing = without(work, parts.tidy(wanted, config.retry_failed))
        tracking = config.tracking if missing.num_rows else TrackingConfig(enabled=False)  # nothing done: no run
        with open_stage("ground", config, config.out, tracking) as stage:
            started = time.monotonic()
            new = len(wanted_ids(missing))
            if new:
                with ray_session(config.ray), Progress("ground", new, "answers", stage) as progress:
                    answer(missing, model, parts, config.decode, config.predict, progress, load)
            counts = count_rows(parts.collect(wanted, ["id", "status", "error"]), len(wanted))
            work_done = {"new": new, "decoded": missing.num_rows, "seconds": round(time.monotonic() - started, 3)}
            summary = {"stage": "ground", **counts, **work_done, "videos": work.num_rows, **_describe(model)}
            return write_summary(stage, config.out, summary)


def _describe(model: Model) -> dict[str, str]:
    return {"model_id": model.id, "model_digest": model.digest}


def pair_questions(
    manifest: pa.Table, questions: Sequence[tuple[str, str]]
) -> Iterator[tuple[dict[str, str], list[Question]]]:
    """Each manifest row with its questions; a video without any is left out.

    Args:
        questions: (video, question); an empty video means every video.

    Raises:
        ConfigError: a question names a video that is not there, or more than one.
    """
    rows = manifest.to_pylist()
    everywhere = [text for video, text in questions if not video]
    own: dict[str, list[str]] = {row["id"]: [] for row in rows}
    for video, text in questions:
        if video:
            own[_find_video(rows, video)["id"]].append(text)
    for row in rows:
        texts = dict.fromkeys([*everywhere, *own[row["id"]]])  # each once, in order
        if texts:
            yield row, [Question(instance_id(row["id"], text), "stvg", text) for text in texts]


def read_questions(config: GroundConfig) -> list[tuple[str, str]]:
    """(video or ``""``, question) of the file and of ``question``.

    Raises:
        ConfigError: no such file, not readable, or no question in it.
    """
    listed = [config.question] if isinstance(config.question, str) else config.question
    found = [("", text.strip()) for text in listed]
    if config.questions:
        found += _read_file(config.questions)
    found = [(video, text) for video, text in found if text]
    if not found:
        raise ConfigError(f"there is no question in {config.questions or 'the command'}")
    return found


def _read_file(uri: str) -> list[tuple[str, str]]:
    try:
        text = storage.read_text(uri)
    except FileNotFoundError:
        raise ConfigError(f"no such questions file: {uri}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{uri} is no UTF-8 text: {error}") from None
    suffix = uri.rpartition(".")[2].lower()
    if suffix not in ("jsonl", "json", "csv"):
        return [("", line.strip()) for line in text.splitlines()]
    try:
        rows = _csv(text) if suffix == "csv" else json.loads(text) if suffix == "json" else _jsonl(text)
        return [(str(row.get("video") or ""), str(row["question"]).strip()) for row in rows]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{uri}: every row needs a question (and may name its video): {error!r}") from None


def _jsonl(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def _csv(text: str) -> list[Any]:
    return list(csv.DictReader(io.StringIO(text)))


def _find_video(rows: Sequence[dict[str, str]], name: str) -> dict[str, str]:
    """The row whose uri is ``name`` or ends with it."""
    found = [row for row in rows if row["uri"] == storage.absolute(name)]
    found = found or [row for row in rows if row["uri"].endswith("/" + name.removeprefix("./"))]
    if len(found) != 1:
        raise ConfigError(f"a question names the video {name!r}: {len(found) or 'none'} of the videos are called so")
    return found[0]
