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
from spacevllm.model.backbones.base import Pixels, join_pixels
from spacevllm.model.batch import Batch, Media, Targets, Tokens
from spacevllm.model.processing import Question, SpaceVLLMProcessor
from spacevllm.model.prompt import Prefix, Segment
from spacevllm.span import Span
from spacevllm.tube import interpolate_boxes
from spacevllm.words.instructions import answer_text

IGNORE = -100


@dataclass(frozen=True)
class ClipSample:
    """One video or image, sampled, and the questions asked of it; or a question about neither.

    Attributes:
        frames: (T, H, W, 3) uint8, resized to the layout's ``frame_size``; T == 1 for an image, 0 for text.
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


@dataclass
class QuestionTargets:
    """What is right for one question; fields as in ``Targets``, of its own T frames of P cells.

    pointer_index: (2,), -1 without a span. pointer_target: (2, T, P). task: index into ``TASKS``.
    """

    boxes: np.ndarray
    cell_shares: np.ndarray
    box_known: np.ndarray
    in_span: np.ndarray
    pointer_index: np.ndarray
    pointer_target: np.ndarray
    task: int

    @classmethod
    def of(cls, row: _Row, k: int, start: int) -> QuestionTargets:
        """Of the k-th question of a row; start: position of its first token."""
        sample, segment, instance = row.sample, row.segments[k], row.sample.instances[k]
        boxes, known, in_span = frame_targets(instance, sample.indices, sample.times_s)
        shares = cell_shares(boxes, row.prefix.grid)  # (T, P)
        index, target = np.full(2, -1), np.zeros((2, *shares.shape), np.float32)
        for end, (position, frame) in enumerate(_pointers(instance, segment, sample.times_s)):
            index[end] = start + position
            boxed = known[frame] and shares[frame].any()
            target[end, frame] = shares[frame] if boxed else 1 / shares.shape[1]  # no box: the whole frame
        return cls(boxes, shares, known, in_span, index, target, TASKS.index(instance.task))

    @staticmethod
    def stack(questions: Sequence[QuestionTargets], frames: int, cells: int) -> Targets:
        """All questions of a batch, padded to so many frames and cells."""

        def padded(name: str, shape: tuple[int, ...], fill: float = 0) -> Tensor:
            return _stack([getattr(question, name) for question in questions], shape, fill)

        return Targets(
            boxes=padded("boxes", (frames, 4), 0.5),
            cell_shares=padded("cell_shares", (frames, cells)),
            box_known=padded("box_known", (frames,)),
            in_span=padded("in_span", (frames,)),
            pointer_index=padded("pointer_index", (2,)),
            pointer_target=padded("pointer_target", (2, frames, cells)).flatten(2),
            tasks=torch.tensor([question.task for question in questions]),
        )


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
        frames, cells = np.max([(1, 1), *(row.visual.shape for row in rows)], axis=0).tolist()  # text alone: padding
        targets = [QuestionTargets.of(row, k, prefix + k * segment) for row in rows for k in range(len(row.segments))]
        return Batch(
            self._tokens(rows, prefix, segment),
            Media(
                pixels=join_pixels([self._pixels(row.sample) for row in rows]),
                visual_index=_stack([row.visual for row in rows], (frames, cells), -1),
                query_index=_stack([row.queries for row in rows], (frames,), -1),
            ),
            QuestionTargets.stack(targets, frames, cells),
        )

    def _tokens(self, rows: list[_Row], prefix: int, segment: int) -> Tokens:
        packed = [self._pack(row, prefix, segment) for row in rows]
        length = max(len(t["input_ids"]) for t in packed)
        fill = {"input_ids": 0, "kinds": 0, "segments": -1, "labels": IGNORE, "label_weights": 0.0}
        questions = [(r, k) for r, row in enumerate(rows) for k in range(len(row.segments))]
        captions = [_caption_positions(rows[r], rows[r].segments[k], prefix + k * segment) for r, k in questions]
        positions = [self._positions(row, prefix, segment) for row in rows]
        return Tokens(
            **{name: _stack([t[name] for t in packed], (length,), value) for name, value in fill.items()},
            position_ids=_stack(positions, (self.processor.layout.axes, length), 0).transpose(0, 1),
            query_ids=torch.tensor([q for row in rows for q in row.prefix.query_ids], dtype=torch.long),
            question_row=torch.tensor([r for r, _ in questions]),
            caption_index=_stack(captions, (max(map(len, captions)),), -1),
            prefix_length=prefix,
            segment_length=segment,
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
                return self.processor.image_prefix(self.processor.grid(sample.frames, True), with_queries, first)
            case "video":
                times_s, grid = sample.times_s.tolist(), self.processor.grid(sample.frames)
                return self.processor.video_prefix(times_s, sample.duration_s, grid, with_queries, first)

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
            "labels": np.full(total, IGNORE),
            "label_weights": np.ones(total, np.float32),
        }
        out["input_ids"][:used], out["kinds"][:used], out["segments"][:used] = row.prefix.ids, row.prefix.kinds, 0
        for k, question in enumerate(row.segments):
            here = prefix + k * segment + np.arange(len(question.ids))
            answer = here[question.answer_start :]
            out["input_ids"][here], out["segments"][here] = question.ids, k + 1
            out["labels"][answer] = question.ids[question.answer_start :]
            out["label_weights"][here[question.time_tokens]] = self.time_weight
        return out

    def _positions(self, row: _Row, prefix: int, segment: int) -> np.ndarray:
        """(A, L): every question starts where the prefix ends."""
        layout = self.processor.layout
        out = np.zeros((layout.axes, prefix + segment * len(row.segments)), np.int64)
        out[:, : len(row.prefix.ids)] = layout.positions(row.prefix)
        for k, question in enumerate(row.segments):
            start = prefix + k * segment
            out[:, start : start + len(question.ids)] = layout.next_position(row.prefix) + np.arange(len(question.ids))
        return out

    def _pixels(self, sample: ClipSample) -> Pixels:
        return self.processor.pixels(sample.frames, sample.media_type == "image")


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


def cell_shares(boxes: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """How a box lies on the grid of a frame's visual tokens.

    Args:
        boxes: (..., 4) cxcywh in [0, 1]. grid: rows and columns.

    Returns:
        (..., rows * columns) float32, the share of the box's area in each cell, row by row; all 0 for a box without
        area.
    """
    row_edges, column_edges = (np.linspace(0, 1, count + 1) for count in grid)

    def overlap(centre: np.ndarray, size: np.ndarray, edges: np.ndarray) -> np.ndarray:
        low, high = (centre - size / 2)[..., None], (centre + size / 2)[..., None]
        return np.clip(np.minimum(high, edges[1:]) - np.maximum(low, edges[:-1]), 0, None)

    columns = overlap(boxes[..., 0], boxes[..., 2], column_edges)
    rows = overlap(boxes[..., 1], boxes[..., 3], row_edges)
    area = (rows[..., :, None] * columns[..., None, :]).reshape(*boxes.shape[:-1], grid[0] * grid[1])
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
