"""Scores a model on a data set, beside its baselines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from jobs.common import finish, need_dataset, need_folder, need_model, resolve, show_plan
from pipelines import storage
from pipelines.benchmark import BenchmarkConfig, load_queries
from pipelines.benchmark import run as evaluate_benchmark
from pipelines.evaluate import EvaluateConfig
from pipelines.evaluate import run as evaluate
from pipelines.manifest import read_records
from spacevllm.config import ConfigError
from spacevllm.data.instance import TASKS
from spacevllm.evaluation.benchmarks import BENCHMARKS


def run(model: str, data: str, out: str, overrides: list[str], dry_run: bool) -> int:
    """Predicts what is missing, scores everything, prints the scores; returns the exit status."""
    config = resolve(EvaluateConfig, "", overrides, model=model, data=data, out=out)
    need_model(model)
    need_dataset(data)
    if dry_run:
        return show_plan("evaluate", config, f"{read_records(data, config.split, ['id']).num_rows} questions")
    summary = evaluate(config)
    print("\n".join([*score_lines(summary), *presence_line(summary)]))
    finish(f"scores: {storage.join(out, 'summary.json')} ({summary['ok']} answered, {summary['failed']} failed)")
    return 0


def run_benchmarks(
    model: str, name: str, data_root: str, limit: int, out: str, overrides: list[str], dry_run: bool
) -> int:
    """One benchmark into OUT, or with ``all`` each that has a folder below ``data_root`` into OUT/<name>."""
    need_folder("--data-root", data_root)
    need_model(model)
    every = [known for known in BENCHMARKS if storage.is_folder(storage.join(data_root, known))]
    if name == "all" and not every:
        raise ConfigError(f"--data-root {data_root}: holds no folder named {', '.join(BENCHMARKS)}")
    for one in every if name == "all" else [name]:
        target = storage.join(out, one) if name == "all" else out
        options = {"model": model, "benchmark": one, "data_root": data_root, "limit": limit, "out": target}
        config = resolve(BenchmarkConfig, "", overrides, **options)
        if dry_run:
            show_plan("evaluate", config, f"{one}: {len(load_queries(one, data_root, limit)[0])} queries")
            continue
        summary = evaluate_benchmark(config)
        print(storage.read_text(storage.join(target, "table.md")).strip())
        finish(f"scores: {storage.join(target, 'summary.json')} ({summary['ok']} answered, {summary['failed']} failed)")
    return 0


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


def presence_line(summary: Mapping[str, Any]) -> Iterator[str]:
    """A line about questions whose answer is that it is not there; none without such questions."""
    if found := summary.get("presence"):
        yield f"{'presence':<28}{_numbers(found)}  ({found['n_present']} there, {found['n_absent']} not)"


def _numbers(scores: Mapping[str, Any]) -> str:
    shown = {name: value for name, value in scores.items() if isinstance(value, float)}
    return "  ".join(f"{name} {value:.3f}" for name, value in shown.items())
