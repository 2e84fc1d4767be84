"""Annotations (JSON lines, one ``Instance`` row each) → shuffled Uni-STG Parquet shards.

Records are validated by Ray Data in parallel, sorted by a hash of seed and id, and cut into shards: the same lines and
seed give the same bytes, however many workers there were and whatever the order of the lines.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from pipelines import storage
from pipelines.cluster import ray_session
from pipelines.progress import Progress
from pipelines.stage import Summary, open_stage, write_summary
from pipelines.tracking import TrackingConfig
from spacevllm.config import Config, ConfigError
from spacevllm.data.instance import SCHEMA, Instance, instance_id

LINES_PER_BLOCK = 2048
LINES = pa.schema([("split", pa.string()), ("number", pa.int64()), ("line", pa.string())])
CHECKED = pa.schema([*SCHEMA, ("number", pa.int64()), ("dropped", pa.string())])


class BuildUnistgConfig(Config):
    """``build-unistg``: OUT/unistg/<split>/*.parquet, OUT/manifest.parquet (its media), OUT/dataset.json.

    Attributes:
        data: folder with ``annotations/<split>.jsonl``; ``media`` there is relative to this folder.
        out: the data set folder; the same folder is fine.
        seed: of the order. rows_per_shard: records in a file.
        ray: address of a running cluster; None: RAY_ADDRESS, else a local session.
    """

    data: str
    out: str
    seed: int = 0
    rows_per_shard: int = Field(default=4096, ge=1)
    ray: str | None = None
    tracking: TrackingConfig = TrackingConfig()


def run(config: BuildUnistgConfig) -> Summary:
    """Builds the shards, unless those that are there came from the same lines and the same configuration.

    Returns:
        The summary that is also OUT/summary.json: ``in`` = ``ok`` + ``failed`` lines, ``errors`` the dropped ones by
        reason (each of them in OUT/dropped.jsonl), ``digest`` the SHA-256 of the sorted annotation lines.

    Raises:
        ConfigError: no annotations. StorageBusy: another job writes to the same output.
    """
    lines = read_lines(config.data)
    digest = hashlib.sha256("\n".join(sorted(lines["line"].to_pylist())).encode()).hexdigest()
    with storage.exclusive(config.out):
        done = _finished(config, digest)
        if done is not None:
            return done
        with open_stage("build_unistg", config, config.out, config.tracking) as stage:
            stage.set_dataset(digest, config.data)
            started = time.monotonic()
            checked = _check(config, lines, stage)
            good, dropped = _split_duplicates(checked)
            shards = _write(config, good, dropped, digest)
            reasons = Counter(row["reason"] for row in dropped)
            summary = {
                "stage": "build_unistg",
                "in": lines.num_rows,
                "ok": good.num_rows,
                "failed": len(dropped),
                "errors": dict(reasons.most_common()),
                "shards": len(shards),
                "tasks": dict(sorted(Counter(good["task"].to_pylist()).items())),
                "digest": digest,
                "seconds": round(time.monotonic() - started, 3),
            }
            return write_summary(stage, config.out, summary)


def read_lines(folder: str) -> pa.Table:
    """Every annotation line as (split, line number from 1, text).

    Raises:
        ConfigError: there is no ``annotations/*.jsonl``.
    """
    files = [uri for uri in storage.find(storage.join(folder, "annotations")) if uri.endswith(".jsonl")]
    if not files:
        raise ConfigError(f"{folder} has no annotations/*.jsonl")
    rows = []
    for uri in files:
        split = uri.rpartition("/")[2].removesuffix(".jsonl")
        numbered = enumerate(storage.read_text(uri).splitlines(), start=1)
        rows += [{"split": split, "number": number, "line": line} for number, line in numbered if line.strip()]
    return pa.Table.from_pylist(rows, schema=LINES)


def check_lines(table: pa.Table, media_root: str = "") -> pa.Table:
    """Rows of ``LINES`` → rows of ``CHECKED``: ``dropped`` is null, or says why the record cannot be used.

    Args:
        media_root: put before relative media; ``""`` leaves them as they are.
    """
    rows = [_check_line(row, media_root) for row in table.to_pylist()]
    try:
        return pa.Table.from_pylist(rows, schema=CHECKED)
    except (pa.ArrowInvalid, pa.ArrowTypeError):  # a value of the wrong type somewhere: find it row by row
        return pa.Table.from_pylist([_check_types(row) for row in rows], schema=CHECKED)


def _check(config: BuildUnistgConfig, lines: pa.Table, stage: Any) -> pa.Table:
    import ray

    same = storage.absolute(config.data) == storage.absolute(config.out)
    root = "" if same else storage.absolute(config.data)
    blocks = [lines.slice(i, LINES_PER_BLOCK).combine_chunks() for i in range(0, lines.num_rows, LINES_PER_BLOCK)]
    tables = []
    with ray_session(config.ray), Progress("unistg", lines.num_rows, "records", stage) as progress:
        options: dict[str, Any] = {"batch_format": "pyarrow", "batch_size": None}
        rows = ray.data.from_arrow(blocks).map_batches(check_lines, fn_kwargs={"media_root": root}, **options)
        table: Any
        for table in rows.iter_batches(**options, prefetch_batches=0):
            tables.append(table)
            progress.advance(table.num_rows, table.num_rows - table["dropped"].null_count)
    return pa.concat_tables(tables).sort_by([("split", "ascending"), ("number", "ascending")])


def _check_line(row: dict[str, Any], media_root: str) -> dict[str, Any]:
    place = {"split": row["split"], "number": row["number"]}
    try:
        instance = Instance.from_row(json.loads(row["line"]))
    except json.JSONDecodeError:
        return place | {"dropped": "the line is no JSON"}
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        return place | {"dropped": " ".join(str(error).split())}
    if instance.split != row["split"]:
        return place | {"dropped": f"split {instance.split!r} in a file of split {row['split']!r}"}
    media = storage.join(media_root, instance.media) if media_root else instance.media
    return instance.to_row() | place | {"media": media}


def _check_types(row: dict[str, Any]) -> dict[str, Any]:
    try:
        pa.Table.from_pylist([row], schema=CHECKED)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        return {"split": row["split"], "number": row["number"], "dropped": f"wrong type: {error}"}
    return row


def _split_duplicates(checked: pa.Table) -> tuple[pa.Table, list[dict[str, Any]]]:
    """Records to keep, the first of each id, and {split, line, reason} of all others."""
    keep, dropped, seen = [], [], set()
    for row in checked.select(["id", "split", "number", "dropped"]).to_pylist():
        reason = row["dropped"] or ("an id that occurs before" if row["id"] in seen else None)
        keep.append(reason is None)
        if reason is None:
            seen.add(row["id"])
        else:
            dropped.append({"split": row["split"], "line": row["number"], "reason": reason})
    return checked.filter(pa.array(keep, pa.bool_())), dropped


def _write(config: BuildUnistgConfig, good: pa.Table, dropped: list[dict[str, Any]], digest: str) -> list[str]:
    """Shards, manifest and, last, dataset.json: without it nothing counts as built. Returns the shards' names."""
    record = storage.join(config.out, "dataset.json")
    for old in [*storage.find(record), *storage.find(storage.join(config.out, "unistg"))]:
        storage.remove(old)
    rows: dict[str, int] = {}
    for name, table in _shards(config, good):
        storage.write_table(storage.join(config.out, name), table)
        rows[name] = table.num_rows
    media = good.select(["split", "media", "media_type"]).group_by(["split", "media", "media_type"]).aggregate([])
    ids = pa.array([instance_id(name) for name in media["media"].to_pylist()], pa.string())
    media = media.add_column(0, "id", ids).sort_by([("split", "ascending"), ("media", "ascending")])
    storage.write_table(storage.join(config.out, "manifest.parquet"), media)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in dropped)
    storage.write_text(storage.join(config.out, "dropped.jsonl"), lines)
    storage.write_json(record, {"digest": digest, **_order(config), "media": media.num_rows, "shards": rows})
    return list(rows)


def _shards(config: BuildUnistgConfig, good: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    order = pa.array([instance_id(config.seed, name) for name in good["id"].to_pylist()], pa.string())
    shuffled = good.append_column("order", order).sort_by("order")
    for split in sorted(set(good["split"].to_pylist())):
        rows = shuffled.filter(pc.equal(shuffled["split"], split)).select(SCHEMA.names)
        for number, start in enumerate(range(0, rows.num_rows, config.rows_per_shard)):
            yield f"unistg/{split}/{number:05d}.parquet", rows.slice(start, config.rows_per_shard)


def _finished(config: BuildUnistgConfig, digest: str) -> Summary | None:
    record, summary = (storage.join(config.out, name) for name in ("dataset.json", "summary.json"))
    if not (storage.exists(record) and storage.exists(summary)):
        return None
    built = storage.read_json(record)
    same = {key: built.get(key) for key in ("digest", *_order(config))} == {"digest": digest, **_order(config)}
    there = same and all(storage.exists(storage.join(config.out, name)) for name in built["shards"])
    return dict(storage.read_json(summary)) if there else None


def _order(config: BuildUnistgConfig) -> dict[str, int]:
    return {"seed": config.seed, "rows_per_shard": config.rows_per_shard}
