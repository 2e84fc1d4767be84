"""Every video and image that a data set refers to: is it there, does it decode, is it what the annotations say?

What is wrong is a row with its reason, never a crash: files are read in killable processes, side by side.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from pipelines.core import locks, looks, scratch, storage
from pipelines.core.cluster import pool, ray_session
from pipelines.core.landing import landed, writing
from pipelines.core.progress import Progress
from pipelines.core.results import KEY, Results, count_rows, made_from, wanted_rows
from pipelines.core.stage import Summary, open_stage, write_summary
from pipelines.core.tracking import TrackingConfig
from pipelines.media.reading import ReadOptions
from spacevllm.config import ConfigError
from spacevllm.data.instance import instance_id
from spacevllm.data.media_check import Promise, Tolerance, differences, join, promise_of
from spacevllm.video.errors import VideoError
from spacevllm.video.probe import VideoInfo

FACTS = ["fps_num", "fps_den", "num_frames", "width", "height", "duration_s"]
COLUMNS = ["media", "media_type", "box_frames", "end_frame", "more", *FACTS]
_ANNOTATED = [(f"annotated_{name}", pa.float64()) for name in Promise._fields]
WORK = pa.schema([(name, pa.string()) for name in ("id", "fingerprint", "media", "uri")] + _ANNOTATED)
REPORT = pa.schema(
    [
        *WORK,
        ("status", pa.string()),
        ("error", pa.string()),
        ("fps", pa.float64()),
        ("num_frames", pa.int64()),
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("duration_s", pa.float64()),
        ("codec", pa.string()),
    ]
)


class CheckMediaConfig(ReadOptions):
    """``check-media``: OUT/media, a Delta table: a row of ``REPORT`` for each medium, and OUT/report.txt.

    Attributes:
        data: Uni-STG data set: the folder that holds unistg/.
        out: where the rows go. Running again reads only files that changed.
        decode_frames: uniform frames that are really decoded, first and last included.
        tolerance: how far a file may be from its annotations.
        timeout_s, memory_mb and the other limits: of one file, see ``ReadOptions``.
        num_actors: side by side. block_rows: files that travel together.
        retry_failed: also look again at what failed before.
        ray: address of a running cluster; None: RAY_ADDRESS, else a local session.
    """

    data: str
    out: str
    decode_frames: int = Field(default=4, ge=1)
    tolerance: Tolerance = Tolerance()
    num_actors: int = Field(default=2, ge=1)
    block_rows: int = Field(default=32, ge=1)
    retry_failed: bool = False
    ray: str | None = None
    tracking: TrackingConfig = TrackingConfig()


def run(config: CheckMediaConfig) -> Summary:
    """Looks at what was not looked at yet.

    Returns:
        The summary that is also OUT/summary.json: ``in`` = ``ok`` + ``failed`` media, ``errors`` by reason.

    Raises:
        ConfigError: no data set. StorageBusy: another job writes to the same output.
    """
    work = list_work(config)
    results = Results(storage.join(config.out, "media"))
    with locks.exclusive(config.out), open_stage("check_media", config, config.out, config.tracking) as stage:
        started = time.monotonic()
        wanted = wanted_rows(work)
        done, replacing = results.done(wanted, config.retry_failed)
        missing = work.filter(pa.array([name not in done for name in work["id"].to_pylist()], pa.bool_()))
        if missing.num_rows:
            with ray_session(config.ray), Progress("media", missing.num_rows, "files", stage) as progress:
                for count, failed in _stream(missing, config, results, replacing):
                    progress.advance(count, failed)
        rows = results.collect(wanted, [*KEY, "media"])
        counts = count_rows(rows, len(wanted))
        storage.write_text(storage.join(config.out, "report.txt"), report(counts, rows))
        seconds = round(time.monotonic() - started, 3)
        return write_summary(
            stage, config.out, {"stage": "check_media", **counts, "new": missing.num_rows, "seconds": seconds}
        )


def report(counts: dict[str, Any], rows: pa.Table, examples: int = 5) -> str:
    """Lines of text: how many files are as annotated, then each reason with its count and some files."""
    lines = [f"{counts['ok']} of {counts['in']} media are there, decode and are as annotated"]
    bad = [(row["error"].partition(":"), row["media"]) for row in rows.to_pylist() if row["status"] != "ok"]
    for reason, count in counts["errors"].items():
        lines.append(f"{count:>8}  {reason}")
        some = [(media, words) for (found, _, words), media in bad if found == reason][:examples]
        lines += [f"{'':>10}{media}:{words}" for media, words in some]
        lines += [f"{'':>10}… and {count - examples} more, see the table in media/"] if count > examples else []
    return "\n".join(lines) + "\n"


def list_work(config: CheckMediaConfig) -> pa.Table:
    """Rows of ``WORK``: each medium once, with all that its records promise. Shards are read one at a time.

    Raises:
        ConfigError: no data set.
    """
    shards = [uri for uri in storage.find(storage.join(config.data, "unistg")) if uri.endswith(".parquet")]
    if not shards:
        raise ConfigError(f"{config.data} is no data set: there are no Uni-STG shards in {config.data}/unistg")
    promises: dict[str, Promise] = {}
    for uri in shards:
        table = storage.read_table(uri, COLUMNS)
        for row in table.filter(pc.not_equal(table["media_type"], "text")).to_pylist():
            told = promise_of(row)
            promises[row["media"]] = join(promises[row["media"]], told) if row["media"] in promises else told
    uris = {media: storage.join(storage.absolute(config.data), media) for media in sorted(promises)}
    versions = looks.versions(uris.values())
    rows = [_work_row(media, uri, versions[uri], promises[media], config) for media, uri in uris.items()]
    return pa.Table.from_pylist(rows, schema=WORK)


class MediaChecker:
    """A Ray Data actor: rows of ``WORK`` in, rows of ``REPORT`` out."""

    def __init__(self, config: CheckMediaConfig) -> None:
        self.config = config
        self.sampler = config.open_sampler()

    def __call__(self, table: pa.Table) -> pa.Table:
        return pa.Table.from_pylist([row | self.check(row) for row in table.to_pylist()], schema=REPORT)

    def check(self, row: dict[str, Any]) -> dict[str, Any]:
        """Columns that ``REPORT`` has and ``WORK`` has not; ``error`` is ``"<reason>: <message>"``."""
        try:
            with scratch.local_copy(row["uri"]) as path:
                info = self.sampler.sample(path, self.config.decode_frames).info
        except VideoError as error:
            return {"status": "failed", "error": f"{error.reason}: {error}"}
        except OSError as error:  # the download, not the decoder
            return {"status": "failed", "error": f"storage: {row['uri']}: {error}"}
        except Exception as error:  # nobody's plan, but one file must not end the check; the row keeps the reason
            return {"status": "failed", "error": f"bug: {row['uri']}: {type(error).__name__}: {error}"}
        promise = Promise(*(row[f"annotated_{name}"] for name in Promise._fields))
        wrong = list(differences(_whole(promise), info, self.config.tolerance))
        reason = f"{wrong[0][0]}: " if wrong else ""
        told = reason + "; ".join(words for _, words in wrong)
        return {"status": "failed" if wrong else "ok", "error": told, **_found(info)}


def _stream(
    work: pa.Table, config: CheckMediaConfig, results: Results, replacing: set[str]
) -> Iterator[tuple[int, int]]:
    import ray

    cuts = range(0, work.num_rows, config.block_rows)
    room = int(ray.cluster_resources().get("CPU", 1))
    actors = max(1, min(config.num_actors, len(cuts), room))
    rows = ray.data.from_blocks([work.slice(start, config.block_rows).combine_chunks() for start in cuts]).map_batches(
        writing(MediaChecker, results),
        fn_constructor_args=(config,),
        batch_format="pyarrow",
        batch_size=None,
        compute=pool(actors),
        num_cpus=1,
    )
    return landed(rows, results, replacing)


def _work_row(media: str, uri: str, version: str | None, promise: Promise, config: CheckMediaConfig) -> dict[str, Any]:
    fingerprint = made_from(version, *promise, config.decode_frames, config.tolerance)
    told = {f"annotated_{name}": float(value) for name, value in promise._asdict().items()}
    return {"id": instance_id(media), "fingerprint": fingerprint, "media": media, "uri": uri} | told


def _whole(promise: Promise) -> Promise:
    """Parquet's columns are floats, all of one kind; counts are whole."""
    counts = {name: int(getattr(promise, name)) for name in ("num_frames", "width", "height", "last_frame")}
    return promise._replace(**counts)


def _found(info: VideoInfo) -> dict[str, Any]:
    return {
        "fps": float(info.fps),
        "num_frames": info.num_frames,
        "width": info.width,
        "height": info.height,
        "duration_s": info.duration_s,
        "codec": info.codec,
    }
