"""The four stages, each as: which rows are wanted, what they depend on, and who makes them.

A row's fingerprint is a hash of what it was made from: the stage's configuration, and of the stage before only what it
hands on. So another prompt that names the same subject does not look for it again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from pipelines.core import storage
from pipelines.core.landing import landed, writing, written
from pipelines.core.parts import Parts
from pipelines.dataset.synthesize.config import SynthesizeConfig
from pipelines.dataset.synthesize.rows import WORK, Row
from pipelines.dataset.synthesize.workers import Analyzer, AnnotatorWorker, Filter, Refiner
from pipelines.media.reading import ReadOptions
from spacevllm.data.instance import instance_id
from spacevllm.data.synthesis.sample import Caption


def caption_work(captions: Iterator[Caption], config: SynthesizeConfig) -> pa.Table:
    """``WORK`` rows of the analyzer."""
    same = config.analyzer.model_dump_json(include={"kind", "url", "model", "max_new_tokens"})
    rows = [vars(caption) | {"fingerprint": instance_id(same, caption.text)} for caption in captions]
    return pa.Table.from_pylist(rows, schema=WORK)


def annotator_work(stages: str, work: pa.Table, config: SynthesizeConfig) -> pa.Table:
    """``WORK`` rows of the annotator: the captions that name something, each with its main subject."""
    same = config.annotator.model_dump_json(exclude={"device", "num_actors", "num_gpus", *ReadOptions.model_fields})
    subjects = {row["id"]: row["objects"][0] for row, _ in _ok_rows(stages, "analyzer", work, ["objects"])}
    versions: dict[str, str] = {}
    rows = []
    for row in work.to_pylist():
        if row["id"] in subjects:
            version = versions.setdefault(row["media"], storage.version(row["media"]))
            made_of = (same, row["media"], version, row["begin_s"], row["end_s"], row["text"], subjects[row["id"]])
            rows.append(row | {"subject": subjects[row["id"]], "fingerprint": instance_id(*made_of)})
    return pa.Table.from_pylist(rows, schema=WORK)


def next_work(stages: str, stage: str, work: pa.Table, settings: object) -> pa.Table:
    """``WORK`` rows of the stage behind ``stage``: what is ok there, with the file that holds it."""
    kept = {row["id"]: (row["fingerprint"], uri) for row, uri in _ok_rows(stages, stage, work, [])}
    rows = [
        row | {"fingerprint": instance_id(settings, kept[row["id"]][0]), "part": kept[row["id"]][1]}
        for row in work.to_pylist()
        if row["id"] in kept
    ]
    return pa.Table.from_pylist(sorted(rows, key=lambda row: (row["part"], row["id"])), schema=WORK)


def run_worker(stage: str, work: pa.Table, config: SynthesizeConfig, parts: Parts) -> Iterator[tuple[int, int]]:
    """Makes the rows on Ray and writes them; yields (rows, rows that are not ok) as they land."""
    import ray
    from ray.data import ActorPoolStrategy

    cuts = range(0, work.num_rows, config.block_rows)
    blocks = ray.data.from_blocks([work.slice(start, config.block_rows).combine_chunks() for start in cuts])
    options: dict[str, Any] = {"batch_format": "pyarrow", "batch_size": None}
    if stage in ("analyzer", "annotator"):
        settings = config.analyzer if stage == "analyzer" else config.annotator
        room = int(ray.cluster_resources().get("CPU", 1))
        actors = max(1, min(settings.num_actors, len(cuts), room))
        rows = blocks.map_batches(
            writing(Analyzer if stage == "analyzer" else AnnotatorWorker, parts),
            fn_constructor_args=(settings,),
            compute=ActorPoolStrategy(min_size=actors, max_size=actors),
            num_cpus=1,
            num_gpus=settings.num_gpus,
            **options,
        )
        return landed(rows)
    function = Refiner(config.continuity, config.refiner) if stage == "refiner" else Filter(config.filter)
    return written(blocks.map_batches(function.__call__, num_cpus=1, **options), parts)


def _ok_rows(stages: str, stage: str, work: pa.Table, columns: list[str]) -> Iterator[tuple[Row, str]]:
    wanted = set(work["id"].to_pylist())
    for row, uri in Parts(storage.join(stages, stage)).rows(["id", "status", "fingerprint", *columns]):
        if row["id"] in wanted and row["status"] == "ok":
            yield row, uri
