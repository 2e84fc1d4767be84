"""A model on one split of a Uni-STG data set → a prediction for every record, and the table of scores.

The same way through the model as ``ground``: questions about one media together, one decode each. Every record counts;
what could not be read or answered scores 0.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from pipelines.archive.answers import row_to_answer
from pipelines.archive.predict import LoadPredictor, PredictOptions, answer, describe, load_predictor
from pipelines.archive.work import Question, generation_of, make_work, wanted_ids, without
from pipelines.core import locks, storage
from pipelines.core.cluster import ray_session
from pipelines.core.failures import Retry, again
from pipelines.core.progress import Progress
from pipelines.core.results import Results, count_rows
from pipelines.core.stage import Summary, open_stage, write_summary
from pipelines.core.tracking import Run, TrackingConfig
from pipelines.media.decode import DecodeOptions
from pipelines.media.manifest import data_set_media, read_records
from spacevllm.config import Config
from spacevllm.data.instance import Instance, Part
from spacevllm.evaluation.presence import presence_rows, summarise_presence
from spacevllm.evaluation.scoring import evaluate


class PredictConfig(Config):
    """What every evaluation does before it scores.

    Attributes:
        model: folder of a trained model.
        out: where the scores go. Running again predicts only what is missing or was made by another model.
        seed: of the random baselines (and of confidence intervals).
        decode, predict: how videos are read and how the model runs.
        retry_failed: which failed rows are done again, see ``failures``: transient, all or none.
        ray: address of a running cluster; None: RAY_ADDRESS, else a local session.
    """

    model: str
    out: str
    seed: int = 0
    decode: DecodeOptions = DecodeOptions()
    predict: PredictOptions = PredictOptions()
    retry_failed: Retry = "transient"
    ray: str | None = None
    tracking: TrackingConfig = TrackingConfig()


class EvaluateConfig(PredictConfig):
    """``evaluate``: OUT/predictions (a Delta table, ``answers.ANSWERS``), OUT/queries.parquet, summary.json.

    Attributes:
        data: Uni-STG data set folder. split: which records.
    """

    data: str
    split: str = "test"


def run(config: EvaluateConfig, load: LoadPredictor = load_predictor) -> Summary:
    """Predicts what is missing, then scores everything.

    Returns:
        The summary that is also OUT/summary.json: counts as in ``ground``, and for each task that occurs the scores of
        the model and of the baselines, fractions in [0, 1] (``spacevllm.evaluation.scoring.evaluate``); with questions
        about what does not occur, ``presence``: how well confidences tell them apart. Questions about no video and no
        image are ``text_not_asked``.

    Raises:
        ConfigError: no data set. StorageBusy: another job writes to the same output.
    """
    records = [Instance.from_row(row) for row in read_records(config.data, config.split).to_pylist()]
    instances = [instance for instance in records if instance.media_type != "text"]
    media = data_set_media(config.data, [config.split])
    data = DataRead(data_set_digest(config.data), f"{config.data} {config.split}")
    with predicted(config, questions(media, instances), len(instances), data, load) as (stage, predictions, counts):
        answers = read_answers(instances, predictions.to_pylist())
        scores, rows = _score(instances, answers, config.seed)
        storage.write_table(storage.join(config.out, "queries.parquet"), pa.Table.from_pylist(same_keys(rows)))
        left_out = {"text_not_asked": n} if (n := len(records) - len(instances)) else {}
        told = {"stage": "evaluate", **counts, **left_out, "split": config.split, **scores}
        return write_summary(stage, config.out, told)


class DataRead(NamedTuple):
    """Which data a run read, for its record."""

    digest: str
    name: str


@contextmanager
def predicted(
    config: PredictConfig,
    asked: Iterable[tuple[Mapping[str, str], list[Question]]],
    num_queries: int,
    data: DataRead,
    load: LoadPredictor,
) -> Iterator[tuple[Run, pa.Table, Summary]]:
    """Answers what is missing in OUT/predictions; gives the open stage, every prediction, and what was done.

    Args:
        asked: media as rows of ``manifest.SCHEMA``, each with the questions about it.
    """
    with locks.exclusive(config.out):
        model = describe(config.model, load)
        work = make_work(asked, model)
        results, wanted = Results(storage.join(config.out, "predictions"), generation_of(model)), wanted_ids(work)
        done, replacing = results.done(wanted, again(config.retry_failed))
        missing = without(work, done)
        tracking = config.tracking if missing.num_rows else TrackingConfig(enabled=False)  # nothing done: no run
        with open_stage("evaluate", config, config.out, tracking) as stage:
            stage.set_dataset(data.digest, data.name)
            started = time.monotonic()
            new = len(wanted_ids(missing))
            told: Summary = {}
            if new:
                with ray_session(config.ray), Progress("evaluate", new, "answers", stage) as progress:
                    told = answer(missing, model, results, replacing, config.decode, config.predict, progress, load)
            predictions = results.collect(wanted)
            counts = count_rows(predictions, num_queries)
            work_done = {"new": new, "decoded": missing.num_rows, "seconds": round(time.monotonic() - started, 3)}
            about = {"model_id": model.id, "model_digest": model.digest}
            yield stage, predictions, {**counts, **work_done, **told, **about}


def _score(
    instances: Sequence[Instance], answers: Mapping[str, Any], seed: int
) -> tuple[dict[str, Any], list[dict[str, object]]]:
    """Scores and one row a query. What is asked and not there has no place in the means: ``presence`` tells of it."""
    there = [instance for instance in instances if instance.present]
    scores, rows = evaluate(there, {i.id: answers[i.id] for i in there}, seed)
    if len(there) == len(instances):
        return scores, rows
    presence = presence_rows(instances, answers)
    known = {row["id"]: row for row in presence}
    rows = [row | known.get(row["id"], {}) for row in rows]
    absent = [i for i in instances if not i.present]
    rows += [{"id": i.id, "task": i.task, "media": i.media, "status": "absent"} | known[i.id] for i in absent]
    return scores | {"presence": summarise_presence(presence)}, rows


def read_answers(instances: Iterable[Instance], rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """By id, as scoring takes them. An image's box is carried over to the size that was annotated, as a tube's are."""
    known = {instance.id: instance for instance in instances}
    answers: dict[str, Any] = {}
    for row in rows:
        answer, truth = row_to_answer(row), known[row["id"]]
        if isinstance(answer, np.ndarray) and truth.width and row["width"]:
            answer = answer * np.array([truth.width / row["width"], truth.height / row["height"]] * 2)
        answers[row["id"]] = answer
    return answers


def data_set_digest(folder: str) -> str:
    """What ``dataset.json`` says about the data set's content; ``""`` for one that was not built here."""
    record = storage.join(folder, "dataset.json")
    return str(storage.read_json(record)["digest"]) if storage.exists(record) else ""


def questions(media: pa.Table, instances: Iterable[Instance]) -> Iterator[tuple[dict[str, Any], list[Question]]]:
    """Every row of ``media``, once for each part of it that questions are about, with these."""
    asked: dict[str, dict[Part, list[Question]]] = {}
    for instance in instances:
        question = Question(instance.id, instance.task, instance.question, tuple(instance.options))
        asked.setdefault(instance.media, {}).setdefault(instance.shown_s, []).append(question)
    for row in media.to_pylist():
        for (begin_s, end_s), about in asked[row["media"]].items():
            yield row | {"begin_s": begin_s, "end_s": end_s}, about


def same_keys(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Tasks have scores of their own: the columns are the union."""
    keys = dict.fromkeys(key for row in rows for key in row)
    return [{key: row.get(key) for key in keys} for row in rows]
