"""The benchmarks by name: who reads their files, what is asked, how it is scored, what to hold the counts against."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from spacevllm.data import sources
from spacevllm.data.instance import Instance, Task
from spacevllm.data.sources.base import Dropped, SourceFiles
from spacevllm.evaluation.annotations import egoschema, generic_stvg, mvbench, tempcompass, video_mme
from spacevllm.evaluation.baselines import known_tracks
from spacevllm.evaluation.scoring import Answers, baseline_scores, score
from spacevllm.evaluation.several import summarise_several
from spacevllm.evaluation.summary import Row, Summary, confidence, groups, means_and_counts


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Attributes:
        task: what is asked, and with it the metric: ``summary.py``.
        read: its annotation files, one record or one reason a query.
        apart: name of what its groups are (``Instance.sentence_type``), None: it has none.
        published: queries in each split. where: to get it.
        needs, takes: fields of ``SourceFiles`` beside ``annotations`` that it must or may have.
        files: what ``evaluate`` reads below DATA_ROOT/<name>: field of ``SourceFiles`` → path, in which ``{split}``
            stands for the split. split: the one that is reported. media: what its questions are about.
        mean_over_groups: its headline is the mean of the groups' means, however many questions each has.
    """

    task: Task
    read: Callable[[SourceFiles], Iterator[Instance | Dropped]]
    where: str
    published: Mapping[str, int] = field(default_factory=dict)
    apart: str | None = None
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    mean_over_groups: bool = False
    files: Mapping[str, str] = field(default_factory=dict)
    split: str = ""
    media: str = "videos"


def _of_source(name: str, task: Task, apart: str | None = None, split: str = "", **files: str) -> Benchmark:
    source = sources.SOURCES[name]
    published, needs, takes = source.published, source.needs, source.takes
    return Benchmark(task, source.read, source.where, published, apart, needs, takes, files=files, split=split)


def _quiz(reader: Any, annotations: str, apart: str | None = None, mean_over_groups: bool = False) -> Benchmark:
    about = (reader.read, reader.WHERE, reader.PUBLISHED, apart)
    return Benchmark("qa", *about, mean_over_groups=mean_over_groups, files={"annotations": annotations})


def _refcoco(name: str, refs: str, split: str) -> Benchmark:
    of = _of_source(name, "rec", split=split, annotations=refs, instances="instances.json")
    return dataclasses.replace(of, media="images")


BENCHMARKS: dict[str, Benchmark] = {
    "hcstvg_v1": _of_source("hcstvg_v1", "stvg", split="test", annotations="{split}.json"),
    "hcstvg_v2": _of_source("hcstvg_v2", "stvg", split="val", annotations="{split}_v2.json"),
    "vidstg": _of_source(
        "vidstg", "stvg", "sentence type", "test", annotations="{split}_annotations.json", boxes="vidor"
    ),
    "charades_sta": _of_source("charades_sta", "vtg", split="test", annotations="charades_sta_{split}.txt"),
    "refcoco": _refcoco("refcoco", "refs(unc).p", "testA"),
    "refcoco+": _refcoco("refcoco+", "refs(unc).p", "testA"),
    "refcocog": _refcoco("refcocog", "refs(umd).p", "test"),
    "mvbench": _quiz(mvbench, "json", "task", mean_over_groups=True),
    "video_mme": _quiz(video_mme, "test-00000-of-00001.parquet", "duration"),
    "tempcompass": _quiz(tempcompass, "questions", "task"),
    "egoschema": _quiz(egoschema, "questions.json"),
    "generic_stvg": Benchmark(
        "stvg",
        generic_stvg.read,
        "your own: docs/score-your-predictions.md",
        files={"annotations": "queries.jsonl"},
    ),
}


def read_queries(name: str, files: SourceFiles) -> Iterator[Instance | Dropped]:
    """Every query of a benchmark once: an id that occurs again is dropped."""
    seen: set[str] = set()
    for found in BENCHMARKS[name].read(files):
        if isinstance(found, Instance) and found.id in seen:
            yield Dropped(files.annotations.name, query_id(found), "an id that occurs before")
            continue
        if isinstance(found, Instance):
            seen.add(found.id)
        yield found


def query_id(instance: Instance) -> str:
    """The query's name inside its annotation file: ``Instance.id`` without data set and split."""
    return instance.id.removeprefix(f"{instance.source}/").removeprefix(f"{instance.split}/")


def score_benchmark(
    name: str, instances: Sequence[Instance], answers: Answers, protocols: Sequence[str], seed: int = 0
) -> tuple[Summary, list[Row]]:
    """Every number of one benchmark.

    Args:
        instances: its queries, of one task. answers: by ``Instance.id``, as ``scoring.score`` takes them.
        protocols: of spatio-temporal benchmarks; others have one way to score and ignore it.
        seed: of the confidence intervals.

    Returns:
        Means, counts and confidence intervals, the same again for each group that the benchmark reports apart; with
        several protocols one such table under the name of each, beside the counts. Where questions have several right
        tubes, ``several``, too. And the rows of ``score``.
    """
    benchmark = BENCHMARKS[name]
    several = summarise_several(instances, answers)
    beside = {"several": several} if several else {}
    if instances[0].task != "stvg":
        rows = score(instances, answers)
        return _table(benchmark, rows, seed) | beside, rows
    of = {protocol: score(instances, answers, protocol) for protocol in protocols}
    tables = {protocol: _table(benchmark, rows, seed) for protocol, rows in of.items()}
    first = tables[protocols[0]]
    counts = {key: value for key, value in first.items() if key.startswith("n_")}
    return (first if len(tables) == 1 else counts | tables) | beside, [row for rows in of.values() for row in rows]


def benchmark_baselines(
    name: str, instances: Sequence[Instance], protocols: Sequence[str], seed: int = 0
) -> dict[str, dict[str, Summary]]:
    """Protocol → baseline → its means and those of the groups; benchmarks of one way to score have the protocol ``""``.

    Args:
        instances: what the model was asked, so that both stand on the same queries.
    """
    task, tracks, table = instances[0].task, known_tracks(instances), partial(_means, BENCHMARKS[name])
    if task != "stvg":
        return {"": baseline_scores(task, instances, tracks, seed, table=table)}
    return {p: baseline_scores(task, instances, tracks, seed, protocol=p, table=table) for p in protocols}


def _means(benchmark: Benchmark, rows: Sequence[Row]) -> Summary:
    apart = groups(rows) if benchmark.apart else {}
    return means_and_counts(rows, _by(benchmark)) | {name: means_and_counts(group) for name, group in apart.items()}


def _table(benchmark: Benchmark, rows: Sequence[Row], seed: int) -> Summary:
    apart = groups(rows) if benchmark.apart else {}
    means = _means(benchmark, rows) | {"confidence": confidence(rows, seed, _by(benchmark))}
    for name, group in apart.items():
        means[name] |= {"confidence": confidence(group, seed)}
    return means


def _by(benchmark: Benchmark) -> str | None:
    return "sentence_type" if benchmark.mean_over_groups else None
