"""Scores a model on a data set, beside its baselines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from jobs.common import finish, need_dataset, need_model, resolve, show_plan
from pipelines import storage
from pipelines.evaluate import EvaluateConfig
from pipelines.evaluate import run as evaluate
from pipelines.manifest import read_records
from spacevllm.data.instance import TASKS


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
