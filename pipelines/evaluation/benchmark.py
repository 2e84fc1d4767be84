"""A model on a published benchmark: its own annotation file and media below one folder → scores and a table.

    DATA_ROOT/<benchmark>/<annotations>    as published, see ``BENCHMARKS[name].files``
    DATA_ROOT/<benchmark>/media/...        videos or images

The same way through the model as every evaluation: ``evaluate.predicted``. A query whose media is not there is not
asked and not scored, but counted and named; one whose media cannot be read is scored 0.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from pydantic import Field

from pipelines.archive.predict import LoadPredictor, load_predictor
from pipelines.core import storage
from pipelines.core.looks import looks
from pipelines.core.stage import Summary, write_summary
from pipelines.core.tracking import Run
from pipelines.evaluation.evaluate import DataRead, PredictConfig, predicted, questions, read_answers, same_keys
from pipelines.evaluation.worst import write_worst
from pipelines.media.manifest import media_rows
from spacevllm.config import ConfigError
from spacevllm.data.instance import Instance, instance_id
from spacevllm.data.sources.base import Dropped, SourceFiles
from spacevllm.evaluation import fixtures
from spacevllm.evaluation.annotations.tempcompass import judging
from spacevllm.evaluation.benchmarks import BENCHMARKS, benchmark_baselines, query_id, read_queries, score_benchmark
from spacevllm.evaluation.caption_judge import Judge, judge_captions
from spacevllm.evaluation.prediction import other_copy
from spacevllm.evaluation.protocols import PROTOCOLS
from spacevllm.evaluation.scoring import Answers
from spacevllm.evaluation.tables import benchmark_lines

NO_MEDIA, BEYOND_LIMIT = "its media is not there", "beyond --limit"


class BenchmarkOptions(PredictConfig):
    """What one benchmark and all of them share.

    Attributes:
        data_root: the folder that holds a folder for each benchmark.
        limit: so many queries, the first of the file whose media is there; 0: all.
        judge, judge_model: address (up to /v1) and name of the model that judges tempcompass's captions.
        worst: queries drawn in worst.html; 0: no such page.
    """

    data_root: str
    limit: int = Field(default=0, ge=0)
    judge: str = ""
    judge_model: str = ""
    worst: int = Field(default=24, ge=0)


class BenchmarkConfig(BenchmarkOptions):
    """``evaluate --benchmark``: as ``evaluate``, and OUT/table.md, OUT/worst.html, OUT/left_out.jsonl.

    Attributes:
        benchmark: a name of ``BENCHMARKS``.
        split: which of its files; ``""``: the one that papers report.
    """

    benchmark: str
    split: str = ""


class Queries(NamedTuple):
    """What a benchmark's files hold. ``left_out``: id, media and reason of what is not asked; ``counts`` of all."""

    asked: list[Instance]
    left_out: list[dict[str, str]]
    counts: dict[str, int]


def run(config: BenchmarkConfig, load: LoadPredictor = load_predictor) -> Summary:
    """Predicts what is missing, then scores everything.

    Returns:
        The summary that is also OUT/summary.json: counts as in ``ground`` of what was asked, ``in_file`` and what was
        not asked (``without_media``, ``beyond_limit``, ``dropped``), ``stand_in``: the files are this project's own,
        ``other_copies``: how many media are not as annotated (``evaluation.prediction.other_copy``), and the first,
        ``scores`` (``score_benchmark``; all protocols) and ``baselines``.

    Raises:
        ConfigError: unknown benchmark; annotations or all media missing: where to get them.
        ConnectionError: the judge does not answer; what the model and the judge said is kept.
    """
    queries = load_queries(config.benchmark, config.data_root, config.limit, config.split)
    media = media_rows({i.media: i.media for i in queries.asked})
    data = DataRead(instance_id(*(i.id for i in queries.asked)), config.benchmark)
    asked = questions(media, queries.asked)
    with predicted(config, asked, len(queries.asked), data, load) as (stage, predictions, counts):
        found = {row["id"]: row for row in predictions.to_pylist()}
        known = [_with_media(instance, found.get(instance.id, {})) for instance in queries.asked]
        copies = sorted({i.media for i in queries.asked if _is_other_copy(i, found.get(i.id))})
        known, answers = _judged(config, known, read_answers(known, found.values()))
        scores, rows = score_benchmark(config.benchmark, known, answers, list(PROTOCOLS), config.seed)
        split = config.split or BENCHMARKS[config.benchmark].split or "test"
        about: dict[str, Any] = {"benchmark": config.benchmark, "split": split}
        mark = storage.join(config.data_root, config.benchmark, fixtures.MARK)
        about |= {"stand_in": storage.exists(mark), "task": known[0].task, **queries.counts, "scores": scores}
        about["other_copies"] = {"media": len(copies), "first": copies[:5]}
        about["baselines"] = benchmark_baselines(config.benchmark, known, list(PROTOCOLS), config.seed)
        _write(stage, config.out, {**counts, **about}, rows, queries.left_out)
        if config.worst:
            page = storage.join(config.out, "worst.html")
            write_worst(page, known, answers, rows, found, config.worst, config.decode)
            stage.log_artifact(page)
        return write_summary(stage, config.out, {"stage": "evaluate", **counts, **about})


def load_queries(name: str, data_root: str, limit: int = 0, split: str = "") -> Queries:
    """The benchmark's queries; media as absolute paths.

    Raises:
        ConfigError: no such benchmark or split, files or all media missing, no query in them.
    """
    files = _files(name, data_root, split)
    instances: list[Instance] = []
    left_out: list[dict[str, str]] = []
    for found in read_queries(name, files):
        if isinstance(found, Dropped):
            left_out.append({"id": found.key, "media": "", "reason": found.reason})
        else:
            instances.append(found)
    dropped = len(left_out)
    if not instances:
        first = left_out[0]["reason"] if left_out else "it holds none"
        raise ConfigError(f"{files.annotations}: no query of {name} can be read ({first})")
    there = {media for media, seen in looks(i.media for i in instances).items() if seen.version}
    if not there:
        first = instances[0].media
        raise ConfigError(f"{first}: no such file, nor any other of {name}'s; {how_to_get(name, data_root)}")
    present = [i for i in instances if i.media in there]
    asked = present[: limit or None]
    left_out += [_not_asked(i, NO_MEDIA) for i in instances if i.media not in there]
    left_out += [_not_asked(i, BEYOND_LIMIT) for i in present[len(asked) :]]
    counts = {"in_file": len(instances) + dropped, "dropped": dropped}
    counts |= {"without_media": len(instances) - len(present), "beyond_limit": len(present) - len(asked)}
    return Queries(asked, left_out, counts)


def how_to_get(name: str, data_root: str) -> str:
    """Where a benchmark's files are to be had, and where they go."""
    benchmark, folder = BENCHMARKS[name], Path(storage.absolute(data_root)) / name
    needed = [path for kind, path in benchmark.files.items() if kind not in benchmark.takes]
    files = " and ".join(needed).format(split=benchmark.split)
    return f"get {benchmark.where}; put {files} into {folder} and the {benchmark.media} into {folder / 'media'}"


def _files(name: str, data_root: str, split: str) -> SourceFiles:
    if name not in BENCHMARKS:
        raise ConfigError(f"--benchmark {name}: no such benchmark; known: {', '.join(BENCHMARKS)}, all")
    benchmark, folder = BENCHMARKS[name], Path(storage.absolute(data_root)) / name
    if split and split not in benchmark.published:
        raise ConfigError(f"--split {split}: {name} has {', '.join(benchmark.published) or 'no splits'}")
    split = split or benchmark.split
    paths = {kind: folder / path.format(split=split) for kind, path in benchmark.files.items()}
    for kind, path in paths.items():
        if not path.exists() and kind not in benchmark.takes:  # VidSTG without boxes is scored by its spans
            raise ConfigError(f"{path}: no such file; {how_to_get(name, data_root)}")
    there: dict[str, Any] = {kind: path for kind, path in paths.items() if path.exists()}
    return SourceFiles(**there, split=split, media_root=str(folder / "media"))


def _not_asked(instance: Instance, reason: str) -> dict[str, str]:
    return {"id": query_id(instance), "media": instance.media, "reason": reason}


def _is_other_copy(instance: Instance, row: Mapping[str, Any] | None) -> bool:
    return bool(row and row["num_frames"] and other_copy(instance, row["num_frames"], row["width"], row["height"]))


def _with_media(instance: Instance, row: Mapping[str, Any]) -> Instance:
    """What the annotations do not say of the media, the decoder does."""
    if instance.num_frames or not row.get("num_frames"):
        return instance
    return dataclasses.replace(instance, num_frames=row["num_frames"], duration_s=row["duration_s"])


def _judged(config: BenchmarkConfig, known: list[Instance], answers: Answers) -> tuple[list[Instance], Answers]:
    if not config.judge or config.benchmark != "tempcompass":
        return known, answers
    if not config.judge_model:
        raise ConfigError("judge is set, judge_model is not: say which model of the judge's server to ask")
    asked = judging(_files(config.benchmark, config.data_root, config.split).annotations, known)
    path = storage.join(config.out, "verdicts.json")
    verdicts: dict[str, str] = storage.read_json(path) if storage.exists(path) else {}
    try:
        return judge_captions(known, dict(answers), asked, Judge(config.judge, config.judge_model), verdicts)
    finally:
        storage.write_json(path, verdicts)


def _write(
    stage: Run, out: str, about: Mapping[str, Any], rows: list[dict[str, object]], left_out: Sequence[Mapping[str, str]]
) -> None:
    storage.write_table(storage.join(out, "queries.parquet"), pa.Table.from_pylist(same_keys(rows)))
    texts = {
        "table.md": "\n".join(benchmark_lines(about)) + "\n",
        "left_out.jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in left_out),
    }
    for name, text in texts.items():
        storage.write_text(storage.join(out, name), text)
        stage.log_artifact(storage.join(out, name))
