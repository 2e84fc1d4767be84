"""What runs on Ray's workers, one class a stage: a table of ``WORK`` rows in, the stage's rows out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.core import scratch, storage
from pipelines.dataset.synthesize.config import AnalyzerConfig, AnnotatorConfig
from pipelines.dataset.synthesize.rows import Row, caption_of, finish, judge, plain
from spacevllm.data.moving_shapes.oracle import TruthDetector, name_subject
from spacevllm.data.synthesis.analyzer import Chat, find_objects
from spacevllm.data.synthesis.annotator import Annotator, GroundingDino, annotated_count, rough_frames
from spacevllm.data.synthesis.chat import EndpointChat, LocalChat
from spacevllm.data.synthesis.filter import FilterOptions, to_instance
from spacevllm.data.synthesis.linking import link
from spacevllm.data.synthesis.refiner import RefinerOptions, refine
from spacevllm.data.synthesis.sample import Clip, Detections, RoughTube, Track
from spacevllm.video.reader import SampledFrames
from spacevllm.video.sampling import uniform_indices


def open_chat(config: AnalyzerConfig) -> Chat:
    """Raises ConfigError: no key, no model."""
    match config.kind:
        case "endpoint":
            return EndpointChat(config.url, config.model, config.key_variable, config.timeout_s)
        case "local":
            return LocalChat(config.model, config.device, config.max_new_tokens)
        case "moving_shapes":
            return name_subject


def open_annotator(config: AnnotatorConfig) -> Annotator:
    """Raises ConfigError: no model, no world."""
    if config.kind == "moving_shapes":
        truth = TruthDetector.of_folder(storage.absolute(config.world), config.noise)
        return lambda media, indices, frames, phrase: truth.detect(media, indices, phrase)
    return GroundingDino(config.model, config.device, config.threshold)


class Analyzer:
    """Captions → their things. Requests to an endpoint run side by side, those of several blocks too: one answer that
    is late holds up its own block alone. A local model takes captions in turn."""

    def __init__(self, config: AnalyzerConfig) -> None:
        self.config, self.chat = config, open_chat(config)
        self.pool = ThreadPoolExecutor(config.concurrency if config.kind == "endpoint" else 1)

    def __call__(self, table: pa.Table) -> pa.Table:
        rows = self.pool.map(self._analyze, [table.slice(i, 1) for i in range(table.num_rows)])
        return pa.concat_tables(rows)

    def _analyze(self, row: pa.Table) -> pa.Table:
        return judge(row, "analyzer", lambda row: {"objects": find_objects(row["text"], self.chat, self.config)})


class AnnotatorWorker:
    """Subjects → boxes. Frames come from a killable child and go through the detector batch by batch."""

    def __init__(self, config: AnnotatorConfig) -> None:
        self.config, self.annotator = config, open_annotator(config)
        self.sampler = config.open_sampler()

    def __call__(self, table: pa.Table) -> pa.Table:
        return judge(table, "annotator", self._annotate)

    def _annotate(self, row: Row) -> Row:
        with scratch.local_copy(row["media"]) as path:
            info = self.sampler.sample(path, 1).info
            clip = Clip(info.fps, info.num_frames, info.width, info.height, info.duration_s)
            begin, end = rough_frames(caption_of(row), clip)
            indices = begin + uniform_indices(end - begin, annotated_count(begin, end, clip.fps, self.config.rate))
            frames, times, found = [], [], []
            for batch in self._batches(path, indices):
                found += self.annotator(row["media"], batch.indices, batch.frames, row["subject"])
                frames += batch.indices.tolist()
                times += batch.times_s.tolist()
        return {
            "fps_num": clip.fps.numerator,
            "fps_den": clip.fps.denominator,
            "num_frames": clip.num_frames,
            "width": clip.width,
            "height": clip.height,
            "duration_s": clip.duration_s,
            "rough_begin_frame": begin,
            "rough_end_frame": end,
            "frames": frames,
            "times_s": times,
            "boxes": [plain(boxes) for boxes, _ in found],
            "scores": [scores.tolist() for _, scores in found],
        }

    def _batches(self, path: str, indices: np.ndarray) -> Iterator[SampledFrames]:
        for start in range(0, len(indices), self.config.batch_frames):
            batch = indices[start : start + self.config.batch_frames]
            yield self.sampler.sample(path, len(batch), segment=(int(batch[0]), int(batch[-1]) + 1))


class Refiner:
    """Boxes → one track with tight borders."""

    def __init__(self, continuity: float, options: RefinerOptions) -> None:
        self.continuity, self.options = continuity, options

    def __call__(self, table: pa.Table) -> pa.Table:
        return finish([row for batch in with_part(table) for row in self._rows(batch)], "refiner")

    def _rows(self, table: pa.Table) -> list[Row]:
        return judge(table, "refiner", self._refine).to_pylist()

    def _refine(self, row: Row) -> Row:
        boxes = tuple(np.array(frame, np.float64).reshape(-1, 4) for frame in row["boxes"])
        scores = tuple(np.array(frame, np.float64) for frame in row["scores"])
        detections = Detections(np.array(row["frames"]), np.array(row["times_s"]), boxes, scores)
        interval = (row["rough_begin_frame"], row["rough_end_frame"], row["begin_s"], _end_s(row))
        tube = refine(detections, link(detections, self.continuity), interval, self.options)
        return {
            "begin_frame": tube.begin_frame,
            "end_frame": tube.end_frame,
            "tube_begin_s": tube.begin_s,
            "tube_end_s": tube.end_s,
            "frames": tube.frames.tolist(),
            "boxes": plain(tube.track.boxes),
            "scores": tube.track.scores.tolist(),
            "counts": tube.track.counts.tolist(),
        }


class Filter:
    """Tubes → finished records, as JSON lines."""

    def __init__(self, options: FilterOptions) -> None:
        self.options = options

    def __call__(self, table: pa.Table) -> pa.Table:
        tables = [judge(batch, "filter", self._filter) for batch in with_part(table)]
        return pa.concat_tables(tables)

    def _filter(self, row: Row) -> Row:
        count = len(row["frames"])
        track = Track(np.arange(count), np.array(row["boxes"]), np.array(row["scores"]), np.array(row["counts"]))
        borders = (row["begin_frame"], row["end_frame"], row["tube_begin_s"], row["tube_end_s"])
        tube = RoughTube(*borders, np.array(row["frames"]), track)
        fps = Fraction(row["fps_num"], row["fps_den"])
        clip = Clip(fps, row["num_frames"], row["width"], row["height"], row["duration_s"])
        return {"record": json.dumps(to_instance(caption_of(row), clip, tube, self.options).to_row())}


def with_part(table: pa.Table) -> Iterator[pa.Table]:
    """The rows of the stage before that the work rows name, with the fingerprints of the new ones."""
    fingerprints = dict(zip(table["id"].to_pylist(), table["fingerprint"].to_pylist(), strict=True))
    for uri in dict.fromkeys(table["part"].to_pylist()):
        before = storage.read_table(uri)
        wanted = [name in fingerprints for name in before["id"].to_pylist()]
        rows: Any = before.filter(pa.array(wanted, pa.bool_()))
        fresh = pa.array([fingerprints[name] for name in rows["id"].to_pylist()], pa.string())
        yield rows.set_column(rows.schema.get_field_index("fingerprint"), "fingerprint", fresh)


def _end_s(row: Row) -> float:
    """Of the rough interval, cut to the video."""
    return float(min(row["end_s"], row["duration_s"]))
