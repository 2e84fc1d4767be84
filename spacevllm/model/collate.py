"""Clips with their questions → one packed ``Batch``; the video's tokens stand once, its questions behind them.

A question about no video and no image is a clip without frames: its row has neither visual tokens nor queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from spacevllm.data.instance import TASKS, Instance, MediaType
from spacevllm.model.batch import Batch
from spacevllm.model.processing import Prefix, Question, Segment, SpaceVLLMProcessor
from spacevllm.span import Span
from spacevllm.tube import interpolate_boxes
from spacevllm.words.instructions import answer_text

IGNORE = -100


@dataclass(frozen=True)
class ClipSample:
    """One video or image, sampled, and the questions asked of it; or a question about neither.

    Attributes:
        frames: (T, S, S, 3) uint8, resized to the tower's square; T == 1 for an image, 0 for text.
        indices: (T,) int, frame numbers in the video. times_s: (T,) float.
        duration_s: of the video. media_type: of all of it. instances: the questions, all of this media.
    """

    frames: np.ndarray
    indices: np.ndarray
    times_s: np.ndarray
    duration_s: float
    media_type: MediaType
    instances: Sequence[Instance]


@dataclass
class _Row:
    prefix: Prefix
    visual: np.ndarray  # (T, P)
    queries: np.ndarray  # (T,)
    segments: list[Segment]
    sample: ClipSample


class Collator:
    """Packs samples into a batch.

    Args:
        processor: prompts and pixels.
        time_weight: LM weight of the tokens that write the two times; 1 in the paper's recipe.
    """

    def __init__(self, processor: SpaceVLLMProcessor, time_weight: float = 1.0) -> None:
        self.processor = processor
        self.time_weight = time_weight

    def __call__(self, samples: Sequence[ClipSample]) -> Batch:
        """Padded to the longest row. A sample is one row, or more where its questions cannot share a prefix: text tasks
        without queries beside tasks with them, and every question with ``prompt_order: caption_first``."""
        rows = [row for sample in samples for row in self._rows(sample)]
        prefix = max(len(row.prefix.ids) for row in rows)
        segment = max(len(s.ids) for row in rows for s in row.segments)
        tokens = [self._pack(row, prefix, segment) for row in rows]
        length = max(len(t["input_ids"]) for t in tokens)
        fill = {"input_ids": 0, "kinds": 0, "segments": -1, "position_ids": 0, "labels": IGNORE, "label_weights": 0.0}
        packed = {name: _stack([t[name] for t in tokens], (length,), value) for name, value in fill.items()}
        questions = [(r, k) for r, row in enumerate(rows) for k in range(len(row.segments))]
        frames, cells = np.max([(1, 1), *(row.visual.shape for row in rows)], axis=0).tolist()  # text alone: padding
        return Batch(
            **packed,
            video_pixels=self._pixels([row for row in rows if row.sample.media_type == "video"]),
            image_pixels=self._pixels([row for row in rows if row.sample.media_type == "image"]),
            query_ids=torch.tensor([q for row in rows for q in row.prefix.query_ids], dtype=torch.long),
            visual_index=_stack([row.visual for row in rows], (frames, cells), -1),
            query_index=_stack([row.queries for row in rows], (frames,), -1),
            question_row=torch.tensor([r for r, _ in questions]),
            prefix_length=prefix,
            segment_length=segment,
            **self._targets(rows, questions, (frames, cells), (prefix, segment)),
        )

    def _rows(self, sample: ClipSample) -> list[_Row]:
        config = self.processor.config
        if config.prompt_order == "caption_first":
            return [self._row(sample, [i], config.has_queries(i.task)) for i in sample.instances]
        groups = [(q, [i for i in sample.instances if config.has_queries(i.task) == q]) for q in (True, False)]
        return [self._row(sample, group, with_queries) for with_queries, group in groups if group]

    def _row(self, sample: ClipSample, instances: Sequence[Instance], with_queries: bool) -> _Row:
        questions = [Question(i.task, i.question, i.options, i.id) for i in instances]
        prefix = self._prefix(sample, with_queries, questions[0])
        forms = [self.processor.wording(q).span for q in questions]
        answers = [answer_text(i, self._written_boxes(i, sample), f) for i, f in zip(instances, forms, strict=True)]
        segments = [self.processor.segment(q, a) for q, a in zip(questions, answers, strict=True)]
        group = replace(sample, instances=list(instances))
        return _Row(prefix, prefix.visual_index(len(sample.frames)), prefix.query_index(), segments, group)

    def _prefix(self, sample: ClipSample, with_queries: bool, first: Question) -> Prefix:
        match sample.media_type:
            case "text":
                return self.processor.text_prefix(first)
            case "image":
                return self.processor.image_prefix(with_queries, first)
            case "video":
                times_s = sample.times_s.tolist()
                return self.processor.video_prefix(times_s, sample.duration_s, with_queries, first)

    def _written_boxes(self, instance: Instance, sample: ClipSample) -> np.ndarray | None:
        """(K, 4) xyxy in [0, 1] on the sampled frames of the span, for the baseline that writes boxes as text."""
        if self.processor.config.space_head == "queries" or not instance.boxes:
            return None
        *_, in_span = frame_targets(instance, sample.indices, sample.times_s)
        boxes = interpolate_boxes(np.asarray(instance.box_frames), np.asarray(instance.boxes), sample.indices[in_span])
        return boxes / np.array([instance.width, instance.height] * 2, np.float32)

    def _pack(self, row: _Row, prefix: int, segment: int) -> dict[str, np.ndarray]:
        total, used = prefix + segment * len(row.segments), len(row.prefix.ids)
        out: dict[str, np.ndarray] = {
            "input_ids": np.zeros(total, np.int64),
            "kinds": np.zeros(total, np.int64),
            "segments": np.full(total, -1),
            "position_ids": np.zeros(total, np.int64),
            "labels": np.full(total, IGNORE),
            "label_weights": np.ones(total, np.float32),
        }
        out["input_ids"][:used], out["kinds"][:used], out["segments"][:used] = row.prefix.ids, row.prefix.kinds, 0
        out["position_ids"][:used] = np.arange(used)
        for k, asked in enumerate(row.segments):
            here = prefix + k * segment + np.arange(len(asked.ids))
            answer = here[asked.answer_start :]
            out["input_ids"][here], out["segments"][here] = asked.ids, k + 1
            out["position_ids"][here] = used + np.arange(len(asked.ids))
            out["labels"][answer] = asked.ids[asked.answer_start :]
            out["label_weights"][here[asked.time_tokens]] = self.time_weight
        return out

    def _pixels(self, rows: list[_Row]) -> Tensor:
        side, channels = self.processor.config.image_size, self.processor.config.vision.num_channels
        if not rows:
            return torch.zeros(0, channels, side, side)
        return torch.cat([self.processor.pixel_values(row.sample.frames) for row in rows])

    def _targets(
        self,
        rows: list[_Row],
        questions: list[tuple[int, int]],
        shape: tuple[int, int],
        lengths: tuple[int, int],
    ) -> dict[str, Tensor]:
        (frames, cells), (prefix, length) = shape, lengths
        count = len(questions)
        captions, boxes = [], np.full((count, frames, 4), 0.5, np.float32)
        known, in_span = np.zeros((count, frames), bool), np.zeros((count, frames), bool)
        pointer = np.full((count, 2), -1)
        target = np.zeros((count, 2, frames, cells), np.float32)
        shares = np.zeros((count, frames, cells), np.float32)
        for q, (r, k) in enumerate(questions):
            row, segment, instance = rows[r], rows[r].segments[k], rows[r].sample.instances[k]
            start = prefix + k * length
            captions.append(_caption_positions(row, segment, start))
            t = len(row.sample.frames)
            boxes[q, :t], known[q, :t], in_span[q, :t] = frame_targets(instance, row.sample.indices, row.sample.times_s)
            shares[q, :t, : row.visual.shape[1]] = cell_shares(boxes[q, :t], row.visual.shape[1])
            for end, (position, frame) in enumerate(_pointers(instance, segment, row.sample.times_s)):
                pointer[q, end] = start + position
                known_share = known[q, frame] and shares[q, frame].any()
                target[q, end, frame] = shares[q, frame] if known_share else 1 / cells  # no box: the whole frame
        longest = max(len(c) for c in captions)
        return {
            "caption_index": _stack(captions, (longest,), -1),
            "boxes": torch.from_numpy(boxes),
            "box_known": torch.from_numpy(known),
            "cell_shares": torch.from_numpy(shares),
            "in_span": torch.from_numpy(in_span),
            "pointer_index": torch.from_numpy(pointer),
            "pointer_target": torch.from_numpy(target.reshape(count, 2, -1)),
            "tasks": torch.tensor([TASKS.index(rows[r].sample.instances[k].task) for r, k in questions]),
        }


def _caption_positions(row: _Row, segment: Segment, start: int) -> np.ndarray:
    if segment.caption is not None:
        return start + np.arange(*segment.caption)
    assert row.prefix.caption is not None  # it stands in one of the two
    return np.arange(*row.prefix.caption)


def frame_targets(
    instance: Instance, indices: np.ndarray, times_s: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth on the sampled frames; a span's are those from the one nearest to its begin to the one nearest its end. Of
    several things it is the first, in all of its spans.

    Returns:
        boxes (T, 4) cxcywh in [0, 1], known (T,) bool, in_span (T,) bool.
    """
    boxes, frames = np.full((len(indices), 4), 0.5, np.float32), np.asarray(instance.box_frames, np.int64)
    known = np.isin(indices, frames)
    for tube in instance.tubes:
        if len(frames) and tube.track == 0 and tube.begin_frame is not None and tube.end_frame is not None:
            # sparse annotation: in the span, boxes are linear between annotated frames, as evaluation reads them
            first, stop = max(tube.begin_frame, frames[0]), min(tube.end_frame, frames[-1] + 1)
            known |= (indices >= first) & (indices < stop)
    if known.any():
        corners = interpolate_boxes(frames, np.asarray(instance.boxes), indices[known])  # (N, 4)
        corners /= np.array([instance.width, instance.height] * 2, np.float32)
        corners.clip(0, 1, out=corners)  # annotators draw somewhat over the border
        low, high = corners[:, :2], corners[:, 2:]
        boxes[known] = np.concatenate([(low + high) / 2, high - low], axis=1)
    if instance.begin_s is None:
        return boxes, known, np.full(len(indices), instance.media_type == "image")
    in_span, positions = np.zeros(len(indices), bool), np.arange(len(indices))
    for span in instance.spans:
        first, last = _border_frames(span, times_s)
        in_span |= (positions >= first) & (positions <= last)
    return boxes, known, in_span


def cell_shares(boxes: np.ndarray, cells: int) -> np.ndarray:
    """How a box lies on the square grid of a frame's visual tokens.

    Args:
        boxes: (..., 4) cxcywh in [0, 1]. cells: of the frame, a square number.

    Returns:
        (..., cells) float32, the share of the box's area in each cell, row by row; all 0 for a box without area.
    """
    edges = np.linspace(0, 1, round(cells**0.5) + 1)

    def overlap(centre: np.ndarray, size: np.ndarray) -> np.ndarray:
        low, high = (centre - size / 2)[..., None], (centre + size / 2)[..., None]
        return np.clip(np.minimum(high, edges[1:]) - np.maximum(low, edges[:-1]), 0, None)

    columns, rows = overlap(boxes[..., 0], boxes[..., 2]), overlap(boxes[..., 1], boxes[..., 3])
    area = (rows[..., :, None] * columns[..., None, :]).reshape(*boxes.shape[:-1], cells)
    return (area / np.maximum(area.sum(-1, keepdims=True), 1e-9)).astype(np.float32)


def _pointers(instance: Instance, segment: Segment, times_s: np.ndarray) -> list[tuple[int, int]]:
    """(position in the segment, frame): what the model should look at when it writes begin and end, or a box."""
    if instance.task == "rec":
        return [(segment.answer_start - 1, 0)] * 2
    if len(segment.numbers) < 2:
        return []
    return [(n - 1, f) for n, f in zip(segment.numbers, _border_frames(instance.spans[0], times_s), strict=True)]


def _border_frames(span: Span, times_s: np.ndarray) -> tuple[int, int]:
    """Index of the sampled frame nearest to the span's begin and to its end."""
    return int(np.abs(times_s - span.begin_s).argmin()), int(np.abs(times_s - span.end_s).argmin())


def _stack(arrays: Sequence[np.ndarray], shape: tuple[int, ...], fill: float) -> Tensor:
    out = np.full((len(arrays), *shape), fill, dtype=arrays[0].dtype)
    for i, array in enumerate(arrays):
        out[i][tuple(slice(n) for n in array.shape)] = array
    return torch.from_numpy(out)
