"""Manifest → sampled frames. A video that cannot be read costs one row, which keeps its reason.

Reading happens in a killable child process per actor; what leaves the child is only the sampled frames, resized to the
square the model sees (8 frames of 64 x 64 are 98 kB; 64 of 384 x 384 are 28 MB).
"""

from __future__ import annotations

import math
import pickle
import time
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from pipelines.core import locks, scratch, storage
from pipelines.core.cluster import pool, ray_session
from pipelines.core.failures import Retry, again
from pipelines.core.landing import landed, writing
from pipelines.core.progress import Progress
from pipelines.core.results import KEY, Results, count_rows, made_from, wanted_rows
from pipelines.core.stage import Summary, open_stage, write_summary
from pipelines.core.tracking import TrackingConfig
from pipelines.media.manifest import data_set_clips, list_videos
from pipelines.media.reading import Plan, ReadOptions
from pipelines.media.stream import Chunks, blocks_of
from spacevllm.config import Config
from spacevllm.frame_size import FrameSize
from spacevllm.span import Span
from spacevllm.video.errors import VideoError
from spacevllm.video.probe import VideoInfo
from spacevllm.video.reader import SampledFrames

FRAMES = pa.schema(
    [
        ("status", pa.string()),
        ("error", pa.string()),
        ("frames", pa.large_binary()),
        ("shape", pa.list_(pa.int64())),
        ("indices", pa.list_(pa.int64())),
        ("times_s", pa.list_(pa.float64())),
        ("fps_num", pa.int64()),
        ("fps_den", pa.int64()),
        ("num_frames", pa.int64()),
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("duration_s", pa.float64()),
        ("frame_times_s", pa.list_(pa.float64())),
        ("shown_begin_s", pa.float64()),  # the part of the video that was sampled from
        ("shown_end_s", pa.float64()),
        ("decode_ms", pa.float64()),
    ]
)

FILM = pa.field("film", pa.large_binary())  # a pickled VideoInfo, by which ``films`` reads parts; null: no film
ASKED = ["uri", "begin_s", "end_s", "error"]  # of a manifest, what decoding needs


class DecodeOptions(ReadOptions):
    """How videos are read, within the limits of ``ReadOptions``.

    Attributes:
        backend: decoder library.
        num_actors: decoders that run side by side, one CPU each.
        block_rows: videos that travel together; what a killed run redoes at most, for each actor.
    """

    backend: Literal["pyav", "decord"] = "pyav"
    num_actors: int = Field(default=2, ge=1)
    block_rows: int = Field(default=8, ge=1)


class DecodeConfig(Config):
    """``decode``: OUT/frames, a Delta table with id, uri, media, fingerprint and the columns of ``FRAMES``.

    Attributes:
        videos: folder, glob, file or URL, or a list of them; or a Uni-STG data set folder: what its records
            are about.
        allow: folders and URLs below which a manifest among them may name videos; none: anywhere.
        splits: of the data set; all by default.
        num_frames, size: the sampling plan.
        retry_failed: which failed rows are read again, see ``failures``: transient, all or none.
        ray: address of a running cluster; None: RAY_ADDRESS, else a local session.
    """

    videos: str | tuple[str, ...]
    out: str
    allow: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()
    num_frames: int = Field(default=8, ge=1)
    size: FrameSize = 64
    decode: DecodeOptions = DecodeOptions(block_rows=32)
    retry_failed: Retry = "transient"
    ray: str | None = None
    tracking: TrackingConfig = TrackingConfig()


def run(config: DecodeConfig) -> Summary:
    """Reads what is not there yet; a second run reads nothing.

    Raises:
        ConfigError: no videos. StorageBusy: another job writes to the same output.
    """
    plan = Plan(config.num_frames, config.size)
    manifest = _manifest(config).drop_columns(["size"])
    work = manifest.append_column("fingerprint", _fingerprints(manifest, plan))
    results = Results(storage.join(config.out, "frames"))
    with locks.exclusive(config.out):
        wanted = wanted_rows(work)
        done, replacing = results.done(wanted, again(config.retry_failed))
        missing = work.filter(pa.array([name not in done for name in work["id"].to_pylist()], pa.bool_()))
        tracking = config.tracking if missing.num_rows else TrackingConfig(enabled=False)
        with open_stage("decode", config, config.out, tracking) as stage:
            started = time.monotonic()
            progress = Progress("decode", missing.num_rows, "videos", stage)
            if missing.num_rows:
                with ray_session(config.ray), progress:
                    rows = decoded(missing, plan, config.decode, worker=writing(Decoder, results))
                    for count, failed in landed(rows, results, replacing):
                        progress.advance(count, failed)
            counts = count_rows(results.collect(wanted, KEY), len(wanted))
            work_done = {"new": missing.num_rows, "seconds": time.monotonic() - started, **progress.speed}
            return write_summary(stage, config.out, {"stage": "decode", **counts, **work_done})


class Decoder:
    """A Ray Data actor: rows of a manifest in, the same rows with the columns of ``FRAMES`` out.

    Args:
        most_s: what is longer is a film, which is only measured; its row has no frames, and ``FILM``. None: all is
            decoded, and there is no such column.
    """

    def __init__(self, plan: Plan, options: DecodeOptions, most_s: float | None = None) -> None:
        self.plan, self.options, self.most_s = plan, options, most_s
        scratch.sweep()
        self.sampler = options.open_sampler()

    def __call__(self, table: pa.Table) -> pa.Table:
        rows = [
            {"status": "failed", "error": error} if error else self.decode(uri, _part(begin_s, end_s))
            for uri, begin_s, end_s, error in zip(*(table[name].to_pylist() for name in ASKED), strict=True)
        ]
        schema = FRAMES if self.most_s is None else FRAMES.append(FILM)
        frames = pa.Table.from_pylist(rows, schema=schema)
        table = table.drop_columns(["error"])
        for name in schema.names:
            table = table.append_column(name, frames[name])
        return table

    def decode(self, uri: str, part: Span | None = None) -> dict[str, Any]:
        """One row of ``FRAMES``; ``error`` is ``"<reason>: <message>"``."""
        started = time.perf_counter()
        try:
            with scratch.local_copy(uri) as path:
                row = frames_to_row(self._sample(path, part))
        except VideoError as error:
            row = {"status": "failed", "error": f"{error.reason}: {error}"}
        except OSError as error:  # the download, not the decoder
            row = {"status": "failed", "error": f"storage: {uri}: {error}"}
        except Exception as error:  # nobody's plan, but one video must not end an archive; the row keeps the reason
            row = {"status": "failed", "error": f"decode: {uri}: {type(error).__name__}: {error}"}
        return row | {"decode_ms": (time.perf_counter() - started) * 1000}

    def _sample(self, path: str, part: Span | None) -> SampledFrames:
        num_frames, size = self.plan
        most_s = math.inf if self.most_s is None else self.most_s
        return self.sampler.sample(path, num_frames, self.options.backend, part=part, size=size, most_s=most_s)


def _part(begin_s: float | None, end_s: float | None) -> Span | None:
    if begin_s is None and end_s is None:
        return None
    return Span(begin_s or 0.0, math.inf if end_s is None else end_s)


def frames_to_row(sampled: SampledFrames) -> dict[str, Any]:
    """Sampled frames as a row of ``FRAMES``."""
    info, frames = sampled.info, sampled.frames
    film = pickle.dumps(info) if not len(frames) else None
    return {
        "status": "ok",
        "error": "",
        "frames": frames.tobytes(),
        "shape": list(frames.shape),
        "indices": sampled.indices.tolist(),
        "times_s": sampled.times_s.tolist(),
        "fps_num": info.fps.numerator,
        "fps_den": info.fps.denominator,
        "num_frames": info.num_frames,
        "width": info.width,
        "height": info.height,
        "duration_s": info.duration_s,
        "frame_times_s": [] if film else info.times_s.tolist(),
        "film": film,
        "shown_begin_s": sampled.part and sampled.part.begin_s,
        "shown_end_s": sampled.part and sampled.part.end_s,
    }


def row_to_frames(row: Mapping[str, Any]) -> SampledFrames:
    """The inverse of ``frames_to_row``, but for the size of the frames and what the container said.

    ``frames`` is (T, H, W, 3) uint8 in the plan's size while ``info.width`` and ``info.height`` are the original's.
    Of a film ``info`` is whole, and T == 0.
    """
    info = replace(pickle.loads(row["film"]), path=row["media"]) if row.get("film") else _row_to_info(row)
    frames = np.frombuffer(row["frames"], np.uint8).reshape(row["shape"])  # (T, H, W, 3)
    part = None if row["shown_begin_s"] is None else Span(row["shown_begin_s"], row["shown_end_s"])
    return SampledFrames(info, np.array(row["indices"]), np.array(row["times_s"]), frames, part=part)


def _row_to_info(row: Mapping[str, Any]) -> VideoInfo:
    return VideoInfo(
        path=row["media"],
        width=row["width"],
        height=row["height"],
        fps=Fraction(row["fps_num"], row["fps_den"]),
        num_frames=row["num_frames"],
        duration_s=row["duration_s"],
        first_pts_s=0.0,
        rotation=0,
        mirrored=False,
        keyframes=(),
        independent_gops=True,
        times_s=np.array(row["frame_times_s"]),  # (N,)
        pts=np.zeros(0, np.int64),
        time_base=Fraction(1),
        codec="",
        container="",
    )


def decoded(
    work: pa.Table | Chunks,
    plan: Plan,
    options: DecodeOptions,
    reserved_cpus: float = 0,
    worker: type = Decoder,
    most_s: float | None = None,
) -> Any:
    """A Ray data set of ``work``'s rows with the columns of ``FRAMES``; decoders run ahead, bounded by Ray's budget.

    Args:
        reserved_cpus: what the stages behind need: decoders that took all CPUs would wait for them for ever.
        worker: ``Decoder``, or what it was made into. most_s: see there.
    """
    import ray

    reserved_cpus += 1 if isinstance(work, Chunks) else 0  # who reads and cuts it
    room = int(ray.cluster_resources().get("CPU", 0) - reserved_cpus)
    actors = max(1, min(options.num_actors, math.ceil(work.num_rows / options.block_rows), room))
    return blocks_of(work, options.block_rows).map_batches(
        worker,
        fn_constructor_args=(plan, options, most_s),
        batch_format="pyarrow",
        batch_size=None,
        compute=pool(actors),
        num_cpus=1,
    )


def _manifest(config: DecodeConfig) -> pa.Table:
    if isinstance(config.videos, str) and storage.is_folder(storage.join(config.videos, "unistg")):
        return data_set_clips(config.videos, config.splits)
    return list_videos(config.videos, config.allow)


def _fingerprints(manifest: pa.Table, plan: Plan) -> pa.Array:
    return pa.array([made_from(version, *plan) for version in manifest["version"].to_pylist()], pa.string())
