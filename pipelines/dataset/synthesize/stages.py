"""The four stages, each as: which rows are wanted, what they depend on, and who makes them.

A row's fingerprint is a hash of what it was made from: the stage's configuration, and of the stage before only what it
hands on. So another prompt that names the same subject does not look for it again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.core import looks, storage
from pipelines.core.cluster import pool
from pipelines.core.landing import landed, writing, written
from pipelines.core.results import Results
from pipelines.dataset.synthesize.config import SynthesizeConfig
from pipelines.dataset.synthesize.rows import WORK, Row
from pipelines.dataset.synthesize.workers import Analyzer, AnnotatorWorker, Filter, Refiner
from pipelines.media.reading import ReadOptions
from spacevllm.data.instance import instance_id
from spacevllm.data.synthesis.sample import Caption

ROWS_AT_ONCE = 4096  # as Python objects


def caption_work(captions: Iterable[Caption], config: SynthesizeConfig) -> pa.Table:
    """``WORK`` rows of the analyzer."""
    same = config.analyzer.model_dump_json(include={"kind", "url", "model", "max_new_tokens"})
    return _table(vars(caption) | {"fingerprint": instance_id(same, caption.text)} for caption in captions)


def annotator_work(stages: str, work: pa.Table, config: SynthesizeConfig) -> pa.Table:
    """``WORK`` rows of the annotator: the captions that name something, each with its main subject."""
    same = config.annotator.model_dump_json(exclude={"device", "num_actors", "num_gpus", *ReadOptions.model_fields})
    subjects = {row["id"]: row["objects"][0] for row, _ in _ok_rows(stages, "analyzer", work, ["objects"])}
    work = work.filter(pc.is_in(work["id"], pa.array(list(subjects), pa.string())))
    versions = looks.versions(work["media"].to_pylist())

    def finish(row: Row) -> Row:
        version, subject = versions[row["media"]], subjects[row["id"]]
        made_of = (same, row["media"], version, row["begin_s"], row["end_s"], row["text"], subject)
        return row | {"subject": subject, "fingerprint": "" if version is None else instance_id(*made_of)}

    return _table(map(finish, _rows(work)))


def next_work(stages: str, stage: str, work: pa.Table, settings: object) -> pa.Table:
    """``WORK`` rows of the stage behind ``stage``: what is ok there, with the file that holds it."""
    kept = {row["id"]: (row["fingerprint"], uri) for row, uri in _ok_rows(stages, stage, work, [])}

    def finish(row: Row) -> Row:
        fingerprint, uri = kept[row["id"]]
        return row | {"fingerprint": instance_id(settings, fingerprint), "part": uri}

    rows = _table(finish(row) for row in _rows(work) if row["id"] in kept)
    return rows.sort_by([("part", "ascending"), ("id", "ascending")])


def run_worker(
    stage: str, work: pa.Table, config: SynthesizeConfig, results: Results, replacing: set[str]
) -> Iterator[tuple[int, int]]:
    """Makes the rows on Ray and writes them; yields (rows, rows that are not ok) as they land."""
    import ray

    cuts = range(0, work.num_rows, config.block_rows)
    blocks = ray.data.from_blocks([work.slice(start, config.block_rows).combine_chunks() for start in cuts])
    options: dict[str, Any] = {"batch_format": "pyarrow", "batch_size": None}
    if stage in ("analyzer", "annotator"):
        settings = config.analyzer if stage == "analyzer" else config.annotator
        room = int(ray.cluster_resources().get("CPU", 1))
        actors = max(1, min(settings.num_actors, len(cuts), room))
        at_once = _blocks_at_once(config) if stage == "analyzer" else 1
        rows = blocks.map_batches(
            writing(Analyzer if stage == "analyzer" else AnnotatorWorker, results),
            fn_constructor_args=(settings,),
            compute=pool(actors, max_concurrent_calls_per_actor=at_once, enable_true_multi_threading=at_once > 1),
            num_cpus=1,
            num_gpus=settings.num_gpus,
            **options,
        )
        return landed(rows, results, replacing)
    function = Refiner(config.continuity, config.refiner) if stage == "refiner" else Filter(config.filter)
    return written(blocks.map_batches(function.__call__, num_cpus=1, **options), results, replacing)


def _blocks_at_once(config: SynthesizeConfig) -> int:
    """In one analyzer: enough that it has ``concurrency`` requests to make while some blocks wait for a late answer."""
    if config.analyzer.kind != "endpoint":
        return 1
    return 2 - (-2 * config.analyzer.concurrency // config.block_rows)


def _rows(work: pa.Table) -> Iterator[Row]:
    for batch in work.to_batches(max_chunksize=ROWS_AT_ONCE):
        yield from batch.to_pylist()


def _table(rows: Iterable[Row]) -> pa.Table:
    """``WORK`` rows, some at a time: as Python objects they take many times their size."""
    rest, tables = iter(rows), [WORK.empty_table()]
    while some := list(islice(rest, ROWS_AT_ONCE)):
        tables.append(pa.Table.from_pylist(some, schema=WORK))
    return pa.concat_tables(tables).combine_chunks()


def _ok_rows(stages: str, stage: str, work: pa.Table, columns: list[str]) -> Iterator[tuple[Row, str]]:
    wanted = set(work["id"].to_pylist())
    for row, uri in Results(storage.join(stages, stage)).rows(["id", "status", "fingerprint", *columns]):
        if row["id"] in wanted and row["status"] == "ok":
            yield row, uri
