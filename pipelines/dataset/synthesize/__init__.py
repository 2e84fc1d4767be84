"""Captions with rough intervals → spatio-temporal records, in four stages on Ray Data.

Every stage's rows lie in the table OUT/stages/<stage>, rejected ones included, with status, reason and caption: a stage
is replayed from there when only its own settings change, and two runs are compared by ``compare``.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence, Set
from sys import intern

import pyarrow as pa

from pipelines.core import locks, storage
from pipelines.core.cluster import ray_session
from pipelines.core.progress import Progress
from pipelines.core.results import KEY, Results, key_rows, wanted_rows
from pipelines.core.stage import Summary, open_stage, write_summary
from pipelines.core.tracking import Run
from pipelines.dataset.synthesize.config import AnalyzerConfig, AnnotatorConfig, SynthesisOptions, SynthesizeConfig
from pipelines.dataset.synthesize.stages import annotator_work, caption_work, next_work, run_worker
from pipelines.dataset.synthesize.workers import open_chat
from spacevllm.config import ConfigError
from spacevllm.data.instance import Instance
from spacevllm.data.synthesis.funnel import FunnelStage, funnel, funnel_table, outcomes_that_differ, removed
from spacevllm.data.synthesis.sample import STAGES, Caption
from spacevllm.drawing.funnel import draw_funnel

__all__ = [
    "AnalyzerConfig",
    "AnnotatorConfig",
    "SynthesisOptions",
    "SynthesizeConfig",
    "check_models",
    "compare",
    "read_captions",
    "read_funnel",
    "run",
]


def run(config: SynthesizeConfig) -> Summary:
    """Makes what is missing of every stage, then OUT/annotations/<split>.jsonl of what is left behind the filter.

    Returns:
        The summary that is also OUT/summary.json: ``in`` = ``ok`` + ``failed`` captions, ``errors`` the others by
        reason, ``removed`` their share, ``unreadable`` annotation lines that are no record.

    Raises:
        ConfigError: no captions, or a model that is not there. StorageBusy: another job writes to the same output.
    """
    check_models(config)
    captions, unreadable = read_captions(config.data, config.splits)
    with locks.exclusive(config.out), open_stage("synthesize", config, config.out, config.tracking) as stage:
        started = time.monotonic()
        work = caption_work(captions, config)
        del captions  # the table is a quarter of it
        with ray_session(config.ray):
            outcomes = _run_stages(config, work, stage)
        _write_records(config.out, outcomes.keys())
        stages = funnel(len(outcomes), ((name, reason) for name, reason in outcomes.values() if reason))
        _write_funnel(config.out, stages, stage)
        errors = Counter(reason for _, reason in outcomes.values() if reason)
        summary = {
            "stage": "synthesize",
            "in": len(outcomes),
            "ok": stages[-1].kept,
            "failed": len(outcomes) - stages[-1].kept,
            "errors": dict(errors.most_common()),
            "removed": round(removed(stages), 4),
            "unreadable": unreadable,
            "seconds": round(time.monotonic() - started, 3),
        }
        return write_summary(stage, config.out, summary)


def read_captions(folder: str, splits: Sequence[str] = ()) -> tuple[list[Caption], int]:
    """The ``vtg`` records of ``folder/annotations/**.jsonl`` by id, each id once; media relative to ``folder``.

    Args:
        splits: which; none: all.

    Returns:
        The captions, and how many lines are no record at all.

    Raises:
        ConfigError: there are none.
    """
    found: dict[str, Caption] = {}
    unreadable = 0
    for uri in storage.find(storage.join(folder, "annotations")):
        for line in storage.read_lines(uri) if uri.endswith(".jsonl") else []:
            try:
                instance = Instance.from_row(json.loads(line))
                if instance.task == "vtg" and (not splits or instance.split in splits):
                    found.setdefault(instance.id, _caption(instance, folder))
            except (ValueError, TypeError, AttributeError, KeyError):
                unreadable += 1
    if not found:
        raise ConfigError(f"{folder} has no captions: annotations/*.jsonl holds no record of task vtg")
    return [found[name] for name in sorted(found)], unreadable


def compare(old: str, new: str, stage: str) -> dict[str, tuple[str, str]]:
    """Samples that two output folders judged differently at ``stage``: id → (outcome there, outcome here).

    Raises:
        ConfigError: no stage of that name.
    """
    if stage not in STAGES:
        raise ConfigError(f"no stage is called {stage!r}: they are {', '.join(STAGES)}")
    return outcomes_that_differ(
        *(_outcomes(Results(storage.join(out, "stages", stage)).table(KEY)) for out in (old, new))
    )


def read_funnel(out: str) -> list[FunnelStage]:
    """As the last run wrote it; empty where nothing was synthesised."""
    uri = storage.join(out, "funnel.json")
    return [FunnelStage(**stage) for stage in storage.read_json(uri)] if storage.exists(uri) else []


def check_models(config: SynthesisOptions) -> None:
    """Here, so that a wrong name is the user's error and not a worker's death. Raises ConfigError."""
    if config.analyzer.kind != "local":
        open_chat(config.analyzer)
    names = {"analyzer": config.analyzer.model if config.analyzer.kind == "local" else ""}
    names["annotator"] = config.annotator.model if config.annotator.kind == "grounding_dino" else ""
    for section, name in names.items():
        if name.startswith((".", "/")) and not storage.exists(storage.join(name, "config.json")):
            raise ConfigError(f"{section}.model {name}: no model there (no config.json)")
    world = config.annotator.world if config.annotator.kind == "moving_shapes" else ""
    if world and not storage.exists(storage.join(world, "moving_shapes.yaml")):
        raise ConfigError(f"annotator.world {world}: holds no moving_shapes.yaml; `spacevllm moving-shapes` writes one")


def _run_stages(config: SynthesizeConfig, work: pa.Table, stage: Run) -> dict[str, tuple[str, str]]:
    """Caption id → (the last stage that saw it, reason or ``""``)."""
    stages = storage.join(config.out, "stages")
    outcomes: dict[str, tuple[str, str]] = {}
    for name in STAGES:
        if name == "annotator":
            work = annotator_work(stages, work, config)
        elif name == "refiner":
            work = next_work(stages, "annotator", work, (config.continuity, config.refiner))
        elif name == "filter":
            work = next_work(stages, "refiner", work, config.filter)
        judged = _run_stage(name, work, config, Results(storage.join(stages, name)), stage)
        outcomes |= {sample: (name, reason) for sample, reason in judged.items()}
    return outcomes


def _run_stage(name: str, work: pa.Table, config: SynthesizeConfig, results: Results, stage: Run) -> dict[str, str]:
    wanted = wanted_rows(work)
    done, replacing = results.done(wanted, config.retry_failed)
    missing = work.filter(pa.array([sample not in done for sample in work["id"].to_pylist()], pa.bool_()))
    if missing.num_rows:
        with Progress(name, missing.num_rows, "samples", stage) as progress:
            for count, refused in run_worker(name, missing, config, results, replacing):
                progress.advance(count, refused)
    outcomes = _outcomes(results.collect(wanted, KEY))
    lost = [sample for sample in wanted if sample not in outcomes]
    if lost:
        raise RuntimeError(f"{name}: {len(lost)} of {len(wanted)} samples have no row: run the same command again")
    return outcomes


def _outcomes(table: pa.Table) -> dict[str, str]:
    """Sample id → reason why it went, ``""`` if it did not."""
    return {row.id: "" if row.status == "ok" else intern(row.error.partition(":")[0]) for row in key_rows(table)}


def _write_records(out: str, wanted: Set[str]) -> None:
    """OUT/annotations/<split>.jsonl, a line for each sample that passed every stage."""
    folder = storage.join(out, "annotations")
    for old in storage.find(folder):
        storage.remove(old)
    for split, rows in _records(out, wanted).items():
        with storage.open_write(storage.join(folder, f"{split}.jsonl")) as file:
            for uri, names in rows:
                table = storage.read_table(uri, ["id", "record"])
                lines = dict(zip(table["id"].to_pylist(), table["record"].to_pylist(), strict=True))
                file.write("".join(lines[name] + "\n" for name in names).encode())


def _records(out: str, wanted: Set[str]) -> dict[str, list[tuple[str, list[str]]]]:
    """Split → for each part file the samples there that passed the filter of those that passed the refiner now."""
    refined = {row["id"] for row, _ in Results(storage.join(out, "stages", "refiner")).rows(["id", "status"])
               if row["status"] == "ok"}  # fmt: skip
    found: dict[str, dict[str, list[str]]] = {}
    for row, uri in Results(storage.join(out, "stages", "filter")).rows(["id", "status", "split"]):
        if row["status"] == "ok" and row["id"] in refined and row["id"] in wanted:
            found.setdefault(row["split"], {}).setdefault(uri, []).append(row["id"])
    return {split: sorted(parts.items()) for split, parts in found.items()}


def _write_funnel(out: str, stages: list[FunnelStage], stage: Run) -> None:
    storage.write_text(storage.join(out, "funnel.txt"), funnel_table(stages) + "\n")
    storage.write_json(storage.join(out, "funnel.json"), [s._asdict() for s in stages])
    storage.write_text(storage.join(out, "funnel.svg"), draw_funnel(stages))
    for name in ("funnel.txt", "funnel.svg"):
        stage.log_artifact(storage.join(out, name))


def _caption(instance: Instance, folder: str) -> Caption:
    media = storage.join(storage.absolute(folder), instance.media)
    begin, end = instance.begin_s or 0.0, instance.end_s or 0.0
    return Caption(instance.id, instance.source, instance.split, media, instance.question, begin, end)
