"""Annotations (JSON lines, one ``Instance`` row each) → shuffled Uni-STG Parquet shards, in bounded memory.

Three passes on Ray, each a set of tasks that need no other: chunks of the files are checked and sorted, buckets of the
order are put together, shards are cut. Between the first two, many chunks are merged into few files. The order is that
of a hash of seed and id: the same lines and seed give the same bytes, however many workers there were, whatever the
order of the lines and the size of chunks and buckets.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import pyarrow as pa
from pydantic import Field

from pipelines.core import locks, storage
from pipelines.core.cluster import ray_session
from pipelines.core.progress import Progress
from pipelines.core.stage import Summary, open_stage, write_summary
from pipelines.core.tracking import Run, TrackingConfig
from pipelines.dataset.build_unistg.buckets import gather_removals, save_removals, sort_bucket
from pipelines.dataset.build_unistg.chunks import Recipe, check_chunk, cut, find_files
from pipelines.dataset.build_unistg.runs import FAN_IN, Merges, merge_in_steps, merge_runs
from pipelines.dataset.build_unistg.shards import write_dropped, write_manifest, write_shards
from spacevllm.config import Config
from spacevllm.data.instance import instance_id

MEBIBYTE = 2**20
Facts = list[dict[str, Any]]


class BuildUnistgConfig(Config):
    """``build-unistg``: OUT/unistg/<split>/*.parquet, OUT/manifest.parquet (its media), OUT/dataset.json.

    Attributes:
        data: folder with ``annotations/**/<split>.jsonl``, or several; ``media`` there is relative to its folder.
        out: the data set folder; the same folder is fine.
        seed: of the order. rows_per_shard: records in a file.
        leaks: what becomes of training records about what another split tests, see ``spacevllm.data.leakage``.
        workers: tasks at once; None: as many as Ray has CPUs.
        chunk_mb, bucket_mb: annotation text that one task of the first and of the second pass holds.
        ray: address of a running cluster; None: RAY_ADDRESS, else a local session.
    """

    data: str | tuple[str, ...]
    out: str
    seed: int = 0
    rows_per_shard: int = Field(default=4096, ge=1)
    leaks: Literal["remove", "keep"] = "remove"
    workers: int | None = Field(default=None, ge=1)
    chunk_mb: float = Field(default=8, gt=0)
    bucket_mb: float = Field(default=16, gt=0)
    ray: str | None = None
    tracking: TrackingConfig = TrackingConfig()


def run(config: BuildUnistgConfig) -> Summary:
    """Builds the shards, unless those that are there came from the same lines and the same configuration.

    Returns:
        The summary that is also OUT/summary.json: ``in`` = ``ok`` + ``failed`` lines, ``errors`` the dropped ones by
        reason (each of them in OUT/dropped.jsonl), ``digest`` of the lines, whatever their order.

    Raises:
        ConfigError: no annotations. StorageBusy: another job writes to the same output.
    """
    files = find_files(config.data)
    with locks.exclusive(config.out):
        started = time.monotonic()
        lines = read_through(files)
        done = _finished(config, lines.digest, _media_from(config, files))
        if done is not None:
            return done
        with open_stage("build_unistg", config, config.out, config.tracking) as stage, ray_session(config.ray):
            stage.set_dataset(lines.digest, config.data if isinstance(config.data, str) else config.out)
            summary = _Build(config, files, lines, stage).run()
            told = {"media_from": _media_from(config, files), "seconds": round(time.monotonic() - started, 3)}
            return write_summary(stage, config.out, summary | told)


class Lines(NamedTuple):
    """``number`` of lines that are not blank; ``digest`` depends on them and not on their order."""

    number: int
    digest: str


def read_through(files: Iterable[str]) -> Lines:
    """Reads every file once: the sum of the lines' SHA-256, modulo 2^256."""
    count = total = 0
    for uri in files:
        for line in storage.read_lines(uri):
            if line.strip():
                count += 1
                total += int.from_bytes(hashlib.sha256(line).digest(), "big")
    return Lines(count, f"{total % 2**256:064x}")


class _Build:
    def __init__(self, config: BuildUnistgConfig, files: Mapping[str, str], lines: Lines, stage: Run) -> None:
        self.config, self.lines, self.stage = config, lines, stage
        self.chunks = cut(files, max(1, int(config.chunk_mb * MEBIBYTE)), config.out)
        self.splits = sorted({chunk.split for chunk in self.chunks} or {"train"})
        total = sum(chunk.end - chunk.begin for chunk in self.chunks)
        num_buckets = max(1, -(-total // max(1, int(config.bucket_mb * MEBIBYTE))))
        versions = [(uri, storage.version(uri)) for uri in files]
        key = instance_id("runs", FAN_IN, versions, lines.digest, config.seed, config.chunk_mb, num_buckets)
        self.recipe = Recipe(storage.join(config.out, ".build", key), config.seed, num_buckets)

    def run(self) -> Summary:
        facts = self._check()
        save_removals(self.recipe, gather_removals(facts, self.config.leaks == "remove"))
        buckets = self._sort(self._merge())
        shards = self._write([bucket["rows"] for bucket in buckets])
        lines = [chunk["lines"] for chunk in facts]
        reasons = write_dropped(self.config.out, self.chunks, lines, len(buckets), self.recipe)
        media = write_manifest(self.config.out, len(buckets), self.recipe)
        told_of = {"digest": self.lines.digest, **_order(self.config)}
        record = told_of | {"media": sum(media.values()), "shards": shards}
        storage.write_json(storage.join(self.config.out, "dataset.json"), record)
        storage.remove_folder(storage.join(self.config.out, ".build"))
        return self._summary(buckets, reasons, shards)

    def _check(self) -> Facts:
        def check(number: int) -> dict[str, Any]:
            return check_chunk(chunks[number], recipe)

        chunks, recipe = self.chunks, self.recipe
        with Progress("unistg", self.lines.number, "records", self.stage) as progress:
            done = []
            for facts in self._tasks(check, len(chunks)):
                done.append(facts)
                progress.advance(facts["records"] + facts["dropped"], facts["dropped"])
        return _in_order(done, len(chunks))

    def _merge(self) -> list[str]:
        """Names of the runs in which all records are, few enough to be read by every bucket."""

        def do(merges: Merges) -> None:
            def merge(number: int) -> dict[str, Any]:
                runs, merged = merges[number]
                merge_runs([storage.join(spill, run) for run in runs], storage.join(spill, merged), num_buckets)
                return {}

            list(self._tasks(merge, len(merges)))

        spill, _, num_buckets = self.recipe
        return merge_in_steps([f"chunk-{chunk.number:06d}.arrow" for chunk in self.chunks], "run", do)

    def _sort(self, runs: list[str]) -> Facts:
        def sort(number: int) -> dict[str, Any]:
            return sort_bucket(number, runs, splits, recipe)

        splits, recipe = self.splits, self.recipe
        return _in_order(list(self._tasks(sort, recipe.num_buckets)), recipe.num_buckets)

    def _write(self, counts: list[list[int]]) -> dict[str, int]:
        def write(number: int) -> dict[str, Any]:
            return write_shards(number, counts, splits, rows, out, recipe)

        splits, rows, out, recipe = self.splits, self.config.rows_per_shard, self.config.out, self.recipe
        record = storage.join(out, "dataset.json")
        for old in [*storage.find(record), *storage.find(storage.join(out, "unistg"))]:
            storage.remove(old)  # the record first: without it nothing counts as built
        shards: dict[str, int] = {}
        for bucket in self._tasks(write, recipe.num_buckets):
            shards |= bucket["shards"]
        return dict(sorted(shards.items()))

    def _tasks(self, work: Callable[[int], dict[str, Any]], count: int) -> Iterator[dict[str, Any]]:
        """``work(number)`` for every number on Ray, results as they come."""
        import ray
        from ray.data import TaskPoolStrategy

        def do(table: pa.Table) -> pa.Table:
            facts = [json.dumps(work(number)) for number in table["number"].to_pylist()]
            pa.default_memory_pool().release_unused()  # else what a worker holds grows from bucket to bucket
            return pa.table({"facts": facts})

        blocks = ray.data.from_arrow([pa.table({"number": [number]}) for number in range(count)])
        pool = TaskPoolStrategy(size=self.config.workers) if self.config.workers else None
        rows: Any = blocks.map_batches(do, batch_format="pyarrow", batch_size=None, compute=pool)
        for table in rows.iter_batches(batch_format="pyarrow", batch_size=None, prefetch_batches=0):
            yield from map(json.loads, table["facts"].to_pylist())

    def _summary(self, buckets: Facts, reasons: Counter[str], shards: dict[str, int]) -> Summary:
        tasks: Counter[str] = Counter()
        for bucket in buckets:
            for task, _, _, count in bucket["kinds"]:
                tasks[task] += count
        ok = sum(sum(bucket["rows"]) for bucket in buckets)
        if ok + reasons.total() != self.lines.number:
            raise RuntimeError(f"{self.lines.number} lines went in, {ok} + {reasons.total()} came out")
        return {
            "stage": "build_unistg",
            "in": self.lines.number,
            "ok": ok,
            "failed": reasons.total(),
            "errors": dict(reasons.most_common()),
            "shards": len(shards),
            "tasks": dict(sorted(tasks.items())),
            "digest": self.lines.digest,
        }


def _finished(config: BuildUnistgConfig, digest: str, media_from: list[str]) -> Summary | None:
    record, summary = (storage.join(config.out, name) for name in ("dataset.json", "summary.json"))
    if not (storage.exists(record) and storage.exists(summary)):
        return None
    built = storage.read_json(record)
    same = {key: built.get(key) for key in ("digest", *_order(config))} == {"digest": digest, **_order(config)}
    there = same and all(storage.exists(storage.join(config.out, name)) for name in built["shards"])
    told = dict(storage.read_json(summary)) if there else {}
    return told if told.get("media_from") == media_from else None


def _order(config: BuildUnistgConfig) -> dict[str, Any]:
    return {"seed": config.seed, "rows_per_shard": config.rows_per_shard, "leaks": config.leaks}


def _media_from(config: BuildUnistgConfig, files: Mapping[str, str]) -> list[str]:
    """Folders that relative media were made absolute with: those of the annotations, but for OUT itself."""
    return sorted(set(files.values()) - {storage.absolute(config.out)})


def _in_order(facts: Facts, count: int) -> Facts:
    ordered = sorted(facts, key=lambda fact: fact["number"])
    if [fact["number"] for fact in ordered] != list(range(count)):
        raise RuntimeError(f"{count} parts expected, {len(ordered)} done: run the same command again")
    return ordered
