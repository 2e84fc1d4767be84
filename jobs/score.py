"""Scores a predictions file of any model against a benchmark's own annotation file. No model, no GPU, no torch."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

from jobs.common import resolve, say, show_plan
from pipelines.core import scratch, storage
from spacevllm.config import Config, ConfigError
from spacevllm.data.instance import Instance
from spacevllm.data.sources.base import Dropped, SourceFiles
from spacevllm.evaluation.annotations.tempcompass import judging
from spacevllm.evaluation.benchmarks import BENCHMARKS, query_id, read_queries, score_benchmark
from spacevllm.evaluation.caption_judge import Judge, judge_captions
from spacevllm.evaluation.predictions import Problems, read_predictions
from spacevllm.evaluation.protocols import PROTOCOLS
from spacevllm.evaluation.scoring import Answer
from spacevllm.evaluation.summary import Row, Summary


class ScoreConfig(Config):
    """``score``: what is read, and how it is scored.

    Attributes:
        benchmark: a name of ``BENCHMARKS``. protocol: of spatio-temporal benchmarks.
        annotations: the benchmark's file (a folder where it has several). predictions: JSON lines.
        boxes, instances, durations: further annotation files of some benchmarks. split: where the files hold several.
        per_query: file for one line a query and protocol.
        judge, judge_model: address (up to /v1) and name of the model that judges tempcompass's captions.
        seed: of the confidence intervals.
    """

    benchmark: str
    annotations: str
    predictions: str
    protocol: Literal["dense", "tubedetr", "stcat", "all"] = "dense"
    boxes: str = ""
    instances: str = ""
    durations: str = ""
    split: str = ""
    per_query: str = ""
    judge: str = ""
    judge_model: str = ""
    seed: int = 0


def run(options: Mapping[str, Any], as_json: bool, overrides: list[str], dry_run: bool) -> int:
    """Prints the scores; what was wrong with single lines goes to standard error."""
    config = resolve(ScoreConfig, "", overrides, **options)
    problems = Problems()
    instances = _load_instances(config, problems)
    answers = _load_answers(config, instances, problems)
    if dry_run:
        return show_plan("score", config, f"{len(instances)} queries, {len(answers)} with a line")
    if config.judge:
        instances, answers = _judged(config, instances, answers)
    protocols = list(PROTOCOLS) if config.protocol == "all" else [config.protocol]
    scores, rows = score_benchmark(config.benchmark, instances, answers, protocols, config.seed)
    if config.per_query:
        storage.write_text(config.per_query, "".join(_per_query(instances, rows)))
    _warn(problems)
    if instances[0].task != BENCHMARKS[config.benchmark].task:
        say("spacevllm: there are no boxes, so spans alone are scored: give --boxes", file=sys.stderr)
    result = {"benchmark": config.benchmark, "task": instances[0].task, "protocol": config.protocol, **scores}
    if as_json:
        say(json.dumps(result | {"problems": problems.to_dict()}, ensure_ascii=False))
    else:
        say("\n".join(_lines(config.benchmark, result)))
    return 0


def _load_instances(config: ScoreConfig, problems: Problems) -> list[Instance]:
    """The benchmark's queries; those that cannot be read are problems.

    Raises:
        ConfigError: unknown benchmark, missing files, no query at all.
    """
    benchmark = BENCHMARKS.get(config.benchmark)
    if benchmark is None:
        near = difflib.get_close_matches(config.benchmark, BENCHMARKS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(BENCHMARKS)}"
        raise ConfigError(f"--benchmark {config.benchmark}: no such benchmark; {hint}")
    if config.split and config.split not in benchmark.published:
        raise ConfigError(f"--split {config.split}: {config.benchmark} has {', '.join(benchmark.published) or 'none'}")
    instances: list[Instance] = []
    with ExitStack() as stack:
        further = {name: getattr(config, name) for name in ("boxes", "instances", "durations")}
        for name, uri in further.items():
            if uri and name not in (*benchmark.needs, *benchmark.takes):
                raise ConfigError(f"--{name}: {config.benchmark} has no such file")
            if name in benchmark.needs and not uri:
                raise ConfigError(f"--{name} is missing: {config.benchmark} needs it; get it from {benchmark.where}")
        paths: dict[str, Any] = {name: _local(f"--{name}", uri, stack) for name, uri in further.items() if uri}
        files = SourceFiles(_local("--annotations", config.annotations, stack), config.split)._replace(**paths)
        try:
            for found in read_queries(config.benchmark, files):
                if isinstance(found, Dropped):
                    problems.add(f"{found.file}, {found.key}", "unusable_annotation", found.reason)
                else:
                    instances.append(found)
        except ConfigError as error:
            raise ConfigError(f"{error} ({_expected(config.benchmark)})") from None
    if not instances:
        reasons = problems.to_dict().get("unusable_annotation", {}).get("first", "it holds none")
        what = f"no query of {config.benchmark} can be read ({reasons})"
        raise ConfigError(f"--annotations {config.annotations}: {what}; {_expected(config.benchmark)}")
    return instances


def _expected(name: str) -> str:
    """What its published files are called."""
    benchmark = BENCHMARKS[name]
    files = benchmark.files["annotations"].format(split=benchmark.split)
    return f"{name} is scored against {files}, see docs/score-your-predictions.md"


def _local(option: str, uri: str, stack: ExitStack) -> Path:
    if not storage.exists(uri):
        raise ConfigError(f"{option} {uri}: no such file")
    return Path(storage.resolve(uri)[1] if storage.is_local(uri) else stack.enter_context(scratch.local_copy(uri)))


def _load_answers(config: ScoreConfig, instances: Sequence[Instance], problems: Problems) -> dict[str, Answer | None]:
    """Raises ConfigError where no line of the file is a prediction."""
    if not storage.exists(config.predictions) or storage.is_folder(config.predictions):
        raise ConfigError(f"--predictions {config.predictions}: no such file")
    by_id = {instance.id: instance for instance in instances} | {query_id(i): i for i in instances}
    with storage.open_read(config.predictions) as lines:
        answers = read_predictions(lines, by_id, problems)
    found = {kind: told for kind, told in problems.to_dict().items() if kind != "unusable_annotation"}
    if not answers and found:
        first = next(iter(found.values()))["first"]
        hint = f"a line is a JSON object with an id like {query_id(instances[0])!r}"
        raise ConfigError(f"--predictions {config.predictions}: no line can be used ({first}); {hint}")
    if not answers:
        say(f"spacevllm: --predictions {config.predictions} is empty: all queries count as missing", file=sys.stderr)
    return answers


def _judged(
    config: ScoreConfig, instances: list[Instance], answers: dict[str, Answer | None]
) -> tuple[list[Instance], dict[str, Answer | None]]:
    if config.benchmark != "tempcompass" or not config.judge_model:
        raise ConfigError("--judge is for tempcompass and needs --judge-model")
    with ExitStack() as stack:
        questions = judging(_local("--annotations", config.annotations, stack), instances)
    return judge_captions(instances, answers, questions, Judge(config.judge, config.judge_model))


def _per_query(instances: Sequence[Instance], rows: Sequence[Row]) -> Iterator[str]:
    names = {instance.id: query_id(instance) for instance in instances}
    for row in rows:
        yield json.dumps(row | {"id": names[row["id"]]}, ensure_ascii=False) + "\n"


def _warn(problems: Problems) -> None:
    for kind, found in problems.to_dict().items():
        times = f"{found['count']} times, first" if found["count"] > 1 else "once"
        say(f"spacevllm: {kind} {times}: {' '.join(found['first'].split())}", file=sys.stderr)


def _lines(name: str, scores: Summary) -> Iterator[str]:
    """A line for each table of scores in it."""
    numbers = "  ".join(f"{key} {value:.4f}" for key, value in scores.items() if isinstance(value, float))
    if numbers:
        counts = f"{scores['n_queries']} queries, {scores['n_missing']} missing, {scores['n_unparsable']} unparsable"
        yield f"{name:<28}{numbers}  ({counts})"
    for task, several in scores.get("several", {}).items():
        numbers = "  ".join(f"{key} {value:.4f}" for key, value in several.items() if isinstance(value, float))
        yield f"{f'{task} with several':<28}{numbers}  ({several['n_queries']} queries)"
    for key, value in scores.items():
        if isinstance(value, dict) and "n_queries" in value:
            yield from _lines(f"{name} {key}", value)
