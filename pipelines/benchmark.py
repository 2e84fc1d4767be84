"""A model on a published benchmark: its own annotation file and media below one folder → scores and a table.

    DATA_ROOT/<benchmark>/<annotations>    as published, see ``BENCHMARKS[name].files``
    DATA_ROOT/<benchmark>/media/...        videos or images

The same way through the model as every evaluation: ``evaluate.predicted``.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import Field

from pipelines import storage
from pipelines.evaluate import DataRead, PredictConfig, predicted, questions, same_keys
from pipelines.manifest import media_rows
from pipelines.predict import LoadPredictor, load_predictor, row_to_answer
from pipelines.stage import Summary, write_summary
from spacevllm.config import ConfigError
from spacevllm.data.instance import Instance, instance_id
from spacevllm.data.sources.base import Dropped, SourceFiles
from spacevllm.evaluation.baselines import known_tracks
from spacevllm.evaluation.benchmarks import BENCHMARKS, read_queries, score_benchmark
from spacevllm.evaluation.protocols import PROTOCOLS
from spacevllm.evaluation.published import PUBLISHED
from spacevllm.evaluation.scoring import baseline_scores


class BenchmarkConfig(PredictConfig):
    """``evaluate --benchmark``: as ``evaluate``, and OUT/table.md.

    Attributes:
        benchmark: a name of ``BENCHMARKS``. data_root: the folder that holds a folder of that name.
        limit: so many queries, the first of the file; 0: all.
    """

    benchmark: str
    data_root: str
    limit: int = Field(default=0, ge=0)


def run(config: BenchmarkConfig, load: LoadPredictor = load_predictor) -> Summary:
    """Predicts what is missing, then scores everything.

    Returns:
        The summary that is also OUT/summary.json: counts as in ``ground``, ``dropped`` annotations by reason,
        ``scores`` (``score_benchmark``; all protocols) and ``baselines``.

    Raises:
        ConfigError: unknown benchmark; annotations or all media missing: where to get them.
    """
    instances, dropped = load_queries(config.benchmark, config.data_root, config.limit)
    media = media_rows({i.media: storage.absolute(i.media) for i in instances})
    if not any(media["version"].to_pylist()):
        where = BENCHMARKS[config.benchmark].where
        raise ConfigError(f"{instances[0].media}: no such file, nor any other of {config.benchmark}'s; get {where}")
    data = DataRead(instance_id(*(i.id for i in instances)), config.benchmark)
    with predicted(config, questions(media, instances), len(instances), data, load) as (stage, predictions, counts):
        found = {row["id"]: row for row in predictions.to_pylist()}
        answers = {name: row_to_answer(row) for name, row in found.items()}
        known = [_with_media(instance, found.get(instance.id, {})) for instance in instances]
        scores, rows = score_benchmark(config.benchmark, known, answers, list(PROTOCOLS), config.seed)
        beside = _baselines(known, config.seed)
        storage.write_table(storage.join(config.out, "queries.parquet"), pa.Table.from_pylist(same_keys(rows)))
        table = "\n".join(table_lines(config.benchmark, counts["model_id"], scores, beside)) + "\n"
        storage.write_text(storage.join(config.out, "table.md"), table)
        stage.log_artifact(storage.join(config.out, "table.md"))
        about = {"benchmark": config.benchmark, "dropped": dropped, "scores": scores, "baselines": beside}
        return write_summary(stage, config.out, {"stage": "evaluate", **counts, **about})


def load_queries(name: str, data_root: str, limit: int = 0) -> tuple[list[Instance], dict[str, int]]:
    """The benchmark's queries, media as absolute paths, and how many were dropped for which reason.

    Raises:
        ConfigError: no such benchmark, files missing, no query in them.
    """
    if name not in BENCHMARKS:
        raise ConfigError(f"--benchmark {name}: no such benchmark; known: {', '.join(BENCHMARKS)}")
    benchmark, folder = BENCHMARKS[name], Path(storage.absolute(data_root)) / name
    paths = {kind: folder / path for kind, path in benchmark.files.items()}
    for kind, path in paths.items():
        if not path.exists() and kind != "boxes":  # VidSTG without boxes is scored by its spans
            raise ConfigError(f"{path}: no such file: {name} needs it; get {benchmark.where}")
    there: dict[str, Any] = {kind: path for kind, path in paths.items() if path.exists()}
    files = SourceFiles(**there, split=benchmark.split, media_root=str(folder / "media"))
    instances: list[Instance] = []
    dropped = Counter[str]()
    for found in read_queries(name, files):
        if isinstance(found, Dropped):
            dropped[found.reason] += 1
        elif not limit or len(instances) < limit:
            instances.append(found)
    if not instances:
        raise ConfigError(f"{paths['annotations']}: no query of {name} can be read ({dict(dropped)})")
    return instances, dict(dropped)


def table_lines(
    name: str, model: str, scores: Mapping[str, Any], beside: Mapping[str, Mapping[str, Any]]
) -> Iterator[str]:
    """Markdown: for each protocol and each group a table in percent: the model, baselines, published scores."""
    for protocol in beside:
        whole = scores.get(protocol, scores)
        apart = [key for key, value in whole.items() if isinstance(value, dict) and "n_queries" in value]
        for group in ["", *apart]:
            ours = whole[group] if group else whole
            columns = [key for key, value in ours.items() if isinstance(value, float)]
            yield f"\n## {' · '.join(part for part in (name, protocol, group) if part)}\n"
            yield f"| | {' | '.join(columns)} | queries |"
            yield "|---" * (len(columns) + 2) + "|"
            yield _line(f"**{model}**", {key: 100 * ours[key] for key in columns}, columns, ours["n_queries"])
            for title, values in beside[protocol].items():
                if seen := values.get(group) if group else values:
                    yield _line(title, {k: 100 * v for k, v in seen.items() if k in columns}, columns, "")
            for title, values in PUBLISHED.get(name, {}).get(group, {}).items():
                yield _line(title, values, columns, "")


def _line(title: str, values: Mapping[str, float], columns: Sequence[str], count: object) -> str:
    numbers = [f"{values[key]:.1f}" if key in values else "" for key in columns]
    return f"| {title} | {' | '.join(numbers)} | {count} |"


def _baselines(instances: Sequence[Instance], seed: int) -> dict[str, dict[str, Summary]]:
    """By protocol; benchmarks of one way to score have the protocol ``""``."""
    task, tracks = instances[0].task, known_tracks(instances)
    if task != "stvg":
        return {"": baseline_scores(task, instances, tracks, seed)}
    return {protocol: baseline_scores(task, instances, tracks, seed, protocol=protocol) for protocol in PROTOCOLS}


def _with_media(instance: Instance, row: Mapping[str, Any]) -> Instance:
    """What the annotations do not say of the media, the decoder does."""
    if instance.num_frames or not row.get("num_frames"):
        return instance
    return dataclasses.replace(instance, num_frames=row["num_frames"], duration_s=row["duration_s"])
