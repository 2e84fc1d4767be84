"""Scores a model on a data set, beside its baselines."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from jobs.common import finish, need_dataset, need_folder, need_model, resolve, say, show_plan
from jobs.errors import OK, SOME_FAILED
from pipelines.core import models, storage
from pipelines.evaluation import benchmark, benchmark_suite
from pipelines.evaluation.benchmark import BenchmarkConfig
from pipelines.evaluation.benchmark_suite import BenchmarksConfig
from pipelines.evaluation.evaluate import EvaluateConfig
from pipelines.evaluation.evaluate import run as evaluate
from pipelines.media.manifest import read_records
from spacevllm.config import ConfigError
from spacevllm.data.instance import TASKS

UNTRAINED = "tiny"


def run(model: str, data: str, out: str, overrides: list[str], dry_run: bool) -> int:
    """Predicts what is missing, scores everything, prints the scores; returns the exit status."""
    config = resolve(EvaluateConfig, "", overrides, model=model, data=data, out=out)
    need_model(model)
    need_dataset(data)
    if dry_run:
        return show_plan("evaluate", config, f"{read_records(data, config.split, ['id']).num_rows} questions")
    summary = evaluate(config)
    say("\n".join([*score_lines(summary), *several_lines(summary), *presence_line(summary)]))
    finish(f"scores: {storage.join(out, 'summary.json')} ({summary['ok']} answered, {summary['failed']} failed)")
    return 0


def run_benchmark(options: Mapping[str, Any], name: str, split: str, overrides: list[str], dry_run: bool) -> int:
    """One benchmark by its name, or ``all``; returns the exit status."""
    if split and name == "all":
        raise ConfigError("--split is for one --benchmark")
    if name == "all":
        return _run_all(options, overrides, dry_run)
    return _run_one({**options, "benchmark": name, "split": split}, overrides, dry_run)


def _run_one(options: Mapping[str, Any], overrides: list[str], dry_run: bool) -> int:
    """One benchmark; options are fields of ``BenchmarkConfig``. Prints its table; returns the exit status."""
    config = resolve(BenchmarkConfig, "", overrides, **{**options, "model": _model(options, dry_run)})
    need_folder("--data-root", config.data_root)
    if dry_run:
        return show_plan("evaluate", config, _planned(config.benchmark, config))
    summary = benchmark.run(config)
    say(storage.read_text(storage.join(config.out, "table.md")).strip())
    finish(f"scores: {storage.join(config.out, 'summary.json')} ({summary['ok']} answered, {summary['failed']} failed)")
    return OK


def _run_all(options: Mapping[str, Any], overrides: list[str], dry_run: bool) -> int:
    """Every benchmark that is there; options are fields of ``BenchmarksConfig``. Prints one table.

    Returns:
        3 where files of a benchmark are there and it could not be scored all the same.
    """
    config = resolve(BenchmarksConfig, "", overrides, **{**options, "model": _model(options, dry_run)})
    need_folder("--data-root", config.data_root)
    if dry_run:
        return show_plan("evaluate", config, "; ".join(_planned(name, config) for name in config.benchmarks))
    summary = benchmark_suite.run(config)
    for reason in summary["missing"].values():
        say(f"spacevllm: {reason}", file=sys.stderr)
    if not summary["benchmarks"]:
        hint = "`spacevllm benchmark-fixtures --out DIR` writes small stand-ins to try"
        raise ConfigError(f"--data-root {config.data_root}: no benchmark in it can be scored; {hint}")
    say(storage.read_text(storage.join(config.out, "overview.md")).strip())
    finish(f"scores: {storage.join(config.out, 'table.md')} ({len(summary['benchmarks'])} benchmarks)")
    there = [name for name in summary["missing"] if storage.is_folder(storage.join(config.data_root, name))]
    return SOME_FAILED if there else OK


def _model(options: Mapping[str, Any], dry_run: bool) -> str:
    """The model's folder. ``tiny``, unless a folder has that name: an untrained one, made beside the results."""
    name, out = options["model"], options["out"]
    if name != UNTRAINED or storage.exists(name):
        need_model(name)
        return models.pinned(name)  # one model for all benchmarks, whatever an alias names meanwhile
    if not storage.is_local(out):
        raise ConfigError(f"--model {name}: it is made in a local folder, and --out {out} is none")
    folder = storage.join(out, "untrained", name)
    if not dry_run and not storage.exists(storage.join(folder, "config.json")):
        from spacevllm.untrained import save_untrained

        save_untrained(folder)
    return folder


def _planned(name: str, config: benchmark.BenchmarkOptions) -> str:
    split = config.split if isinstance(config, BenchmarkConfig) else ""
    try:
        queries = benchmark.load_queries(name, config.data_root, config.limit, split)
    except ConfigError as error:
        if isinstance(config, BenchmarkConfig):
            raise
        return f"{name}: not there ({error})"
    return f"{name}: {len(queries.asked)} of {queries.counts['in_file']} queries"


def score_lines(summary: Mapping[str, Any]) -> Iterator[str]:
    """A line for the model's scores in each task and protocol, and one below for each baseline."""
    for task in TASKS:
        scores = summary.get(task, {})
        protocols = {"dense": scores["dense"]} if "dense" in scores else {"": scores}
        for protocol, values in protocols.items():
            if values:
                title = f"{task} {protocol}".strip()
                yield f"{title:<28}{_numbers(values)}  ({values['n_queries']} questions)"
        for name, values in scores.get("baselines", {}).items():
            yield f"  {name:<26}{_numbers(values)}"


def several_lines(summary: Mapping[str, Any]) -> Iterator[str]:
    """A line for each task that has questions with several right tubes."""
    for task, found in summary.get("several", {}).items():
        yield f"{f'{task} with several':<28}{_numbers(found)}  ({found['n_queries']} questions)"


def presence_line(summary: Mapping[str, Any]) -> Iterator[str]:
    """A line about questions whose answer is that it is not there; none without such questions."""
    if found := summary.get("presence"):
        yield f"{'presence':<28}{_numbers(found)}  ({found['n_present']} there, {found['n_absent']} not)"


def _numbers(scores: Mapping[str, Any]) -> str:
    shown = {name: value for name, value in scores.items() if isinstance(value, float)}
    return "  ".join(f"{name} {value:.3f}" for name, value in shown.items())
