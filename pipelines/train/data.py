"""Decoded clips and their questions → Ray data sets → batches.

DATA/unistg/train ──group by media──┐
decode ─▶ frames (Delta table) ─────┴─▶ one row a clip: frames + its questions ─▶ ClipSample ─▶ Batch

A record about no media is a row of its own, without frames.
"""

from __future__ import annotations

import json
import math
import random
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.core import storage
from pipelines.core.results import Results
from pipelines.core.stage import Summary
from pipelines.core.tracking import store_uri
from pipelines.media.decode import FRAMES, DecodeConfig
from pipelines.media.decode import run as decode
from pipelines.train.config import TrainJobConfig
from pipelines.train.phases import Source
from spacevllm.config import ConfigError
from spacevllm.data.instance import Instance
from spacevllm.frame_size import FrameSize
from spacevllm.model.collate import ClipSample

KEY = ["media", "begin_s", "end_s"]  # of a clip: what is shown of which file
FRAME_COLUMNS = ["status", "frames", "shape", "indices", "times_s", "duration_s", "shown_begin_s", "shown_end_s"]
COLUMNS = [*KEY, *FRAME_COLUMNS]
SHUFFLE_ROWS, SHUFFLE_BYTES = 512, 2**31  # clips held back to mix the order: 98 kB each at the tiny size, 28 MB at 7B
Clip = tuple[str, float | None, float | None]  # its ``KEY``
TEXT_BYTES, TEXT_ROWS = 2**12, 1024  # of a record without media; in a block


def read_instances(data: str, split: str) -> list[Instance]:
    """All records of one split, in a fixed order."""
    folder = storage.join(data, "unistg", split)
    files = sorted(uri for uri in storage.find(folder) if uri.endswith(".parquet"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no Parquet shards")
    return [Instance.from_row(row) for uri in files for row in storage.read_table(uri).to_pylist()]


def decode_clips(config: TrainJobConfig, num_frames: int, size: FrameSize) -> tuple[str, Summary]:
    """Sampled frames of every training video and image; what is there already is not decoded again."""
    out = config.decoded or storage.join(config.data, "decoded", f"{num_frames}x{size}")
    job = DecodeConfig(
        videos=config.data,
        out=out,
        splits=("train",),
        num_frames=num_frames,
        size=size,
        decode=config.decode,
        ray=config.ray,
        tracking=config.tracking.model_copy(update={"store": store_uri(config.tracking, config.out)}),
    )
    return out, decode(job)


def clip_dataset(decoded: str, instances: Sequence[Instance], source: Source, keep: bool) -> Any:
    """A Ray data set with one row a clip: ``media``, ``FRAME_COLUMNS`` and ``questions``, JSON of its instances.

    Clips that could not be decoded or have no question of this kind are left out; ``decode`` has counted them.

    Args:
        keep: read everything now and hold it in Ray's object store: an epoch starts at once and takes no cores from
            training. Otherwise every epoch streams from storage.
    """
    import ray
    from ray.data import TaskPoolStrategy

    if source.media == "text":
        return ray.data.from_arrow(list(text_tables(instances, source)))
    known = group_questions(instances, source)
    files = Results(storage.join(decoded, "frames")).uris()
    if keep:
        return ray.data.from_arrow([attach_questions(storage.read_table(uri, COLUMNS), known) for uri in files])
    shared = ray.put(known)
    return ray.data.read_parquet(files, columns=COLUMNS).map_batches(
        lambda table: attach_questions(table, ray.get(shared)),
        batch_format="pyarrow",
        batch_size=None,
        num_cpus=0.5,
        compute=TaskPoolStrategy(size=1),  # it only filters; the training workers want the cores
    )


def text_tables(instances: Sequence[Instance], source: Source) -> Iterator[pa.Table]:
    """The same rows for records without media, one each; ``media`` is the record's id."""
    selected = [instance for instance in instances if wanted(instance, source)]
    nothing = {"status": "ok", "frames": b"", "shape": [0, 0, 0, 3], "indices": [], "times_s": [], "duration_s": 0.0}
    decoded = [FRAMES.field(name) for name in FRAME_COLUMNS]
    schema = pa.schema([("media", pa.string()), *decoded, ("questions", pa.large_string())])
    for start in range(0, len(selected), TEXT_ROWS):
        some = selected[start : start + TEXT_ROWS]
        rows = [nothing | {"media": i.id, "questions": json.dumps([i.to_row()])} for i in some]
        yield pa.Table.from_pylist(rows, schema=schema)


def group_questions(instances: Sequence[Instance], source: Source) -> dict[Clip, str]:
    """JSON of all of the source's instances about each image, and each part of a video."""
    questions: dict[Clip, list[dict[str, Any]]] = defaultdict(list)
    for instance in instances:
        if wanted(instance, source):
            questions[clip_of(instance)].append(instance.to_row())
    return {clip: json.dumps(rows) for clip, rows in questions.items()}


def need_records(config: TrainJobConfig, instances: Sequence[Instance]) -> None:
    """Raises:
    ConfigError: a source that some phase reads is empty.
    """
    used = config.schedule.used_sources
    empty = [name for name, source in used.items() if not any(wanted(instance, source) for instance in instances)]
    if empty:
        names = ", ".join(f"{name} ({used[name].selection})" for name in empty)
        raise ConfigError(f"{config.data}: nothing in split train for sources: {names}; leave them out of phases")


def wanted(instance: Instance, source: Source) -> bool:
    """Whether the source asks it."""
    return instance.media_type == source.media and (not source.tasks or instance.task in source.tasks)


def clip_of(instance: Instance) -> Clip:
    """The clip that it is asked about; a record without media is one of its own."""
    return (instance.media or instance.id, *instance.shown_s)


def attach_questions(table: pa.Table, questions: dict[Clip, str]) -> pa.Table:
    """The usable clips of ``table``, which has ``COLUMNS``: ``media``, ``FRAME_COLUMNS`` and ``questions``."""
    clips = zip(*(table[name].to_pylist() for name in KEY), strict=True)
    column = pa.array([questions.get(clip) for clip in clips], pa.large_string())
    usable = pa.compute.and_(pa.compute.equal(table["status"], "ok"), pa.compute.is_valid(column))
    return table.select(["media", *FRAME_COLUMNS]).append_column("questions", column).filter(usable)


def clip_samples(batch: Mapping[str, Any], source: Source, seed: str) -> list[ClipSample]:
    """A batch of rows as samples, each with at most ``source.questions`` questions.

    All clips of a batch give questions of about the same length (a window, drawn by ``seed``, of its questions from
    short to long): they are padded to the longest, and one multiple choice in a batch would cost all the others.
    """
    samples = []
    where = random.Random(f"{seed}/{batch['media'][0]}").random()
    for i in range(len(batch["media"])):
        instances = [Instance.from_row(row) for row in json.loads(batch["questions"][i])]
        instances.sort(key=lambda i: len(i.question) + sum(map(len, i.options)))
        start = int(where * (max(0, len(instances) - source.questions) + 1))
        frames = np.frombuffer(batch["frames"][i], np.uint8).reshape(tuple(batch["shape"][i]))  # (T, S, S, 3)
        begin_s, end_s = shown(batch, i)
        samples.append(
            ClipSample(
                frames=frames,
                indices=np.asarray(batch["indices"][i]),
                times_s=np.asarray(batch["times_s"][i]) - begin_s,
                duration_s=end_s - begin_s,
                media_type=instances[0].media_type,
                instances=[instance.seen_from(begin_s) for instance in instances[start : start + source.questions]],
            )
        )
    return samples


def shown(batch: Mapping[str, Any], row: int) -> tuple[float, float]:
    """Seconds of the video that the clip shows. A prompt's times count from their begin, as the predictor's do."""
    begin_s, end_s = (batch[name][row] for name in ("shown_begin_s", "shown_end_s"))
    whole = begin_s is None or math.isnan(begin_s)  # a null, as NumPy has it
    return (0.0, float(batch["duration_s"][row])) if whole else (float(begin_s), float(end_s))


class ClipStream:
    """Endless clips of one worker: epoch after epoch, each in its own order.

    Attributes:
        cursor: (epoch, clips of it that were taken). A stream that starts there goes on as this one would have; it
            reads the epoch's earlier clips once more, as Ray cannot start in the middle, but none of earlier epochs.
    """

    def __init__(
        self, shard: Any, source: Source, size: int, seed: int, cursor: tuple[int, int], clip_bytes: int
    ) -> None:
        """shard: this worker's part of a Ray data set. size: clips read at once. clip_bytes: of one clip's frames."""
        self.shard, self.source, self.size, self.seed = shard, source, size, seed
        self.cursor = cursor
        self.held_back = max(1, min(SHUFFLE_ROWS, SHUFFLE_BYTES // clip_bytes))
        self._batches = self._read()

    def take(self, clips: int) -> list[ClipSample]:
        """The next ones; a multiple of ``size``."""
        first, epoch = next(self._batches), self.cursor[0]
        batches = [first, *(next(self._batches) for _ in range(clips // self.size - 1))]
        columns = {name: [value for batch in batches for value in batch[name]] for name in batches[0]}
        return clip_samples(columns, self.source, f"{self.seed}/{epoch}")

    def close(self) -> None:
        """A shard serves one stream at a time."""
        self._batches.close()

    def _read(self) -> Generator[dict[str, np.ndarray], None, None]:
        epoch, skip = self.cursor
        while True:
            taken = 0
            for batch in self._epoch(epoch):
                taken += self.size
                if taken > skip:
                    self.cursor = epoch, taken
                    yield batch
            if not taken:
                few = f"fewer clips of {self.source.selection} for each worker than the {self.size} it needs at once"
                raise ValueError(f"{few}: lower batch_size or workers.num_workers, or add data")
            epoch, skip = epoch + 1, 0

    def _epoch(self, epoch: int) -> Iterable[dict[str, np.ndarray]]:
        return self.shard.iter_batches(
            batch_size=self.size,
            drop_last=True,
            prefetch_batches=2,
            local_shuffle_buffer_size=self.held_back,
            local_shuffle_seed=self.seed + epoch,
        )
