"""What the model is trained on: LM cross-entropy and the spatial loss of the paper, and the terms it does not have.

The paper: cross-entropy + L1 + GIoU on frames inside the true span. Our own terms have weight 0 there and are what a
model trained *from scratch* needs (see docs/decisions.md): ``attention`` pulls the decoder's second attention to the
cells the box covers; ``pointer`` makes one head of the last layer look at the first and last frame when it writes
the two times (or when it answers with a box); ``presence`` teaches the presence head, frame by frame and for the
whole video, from questions about what is there and about what is not; ``box_frames: visible`` supervises boxes
outside the span too. An ``align`` stage before all that gives a random tower what SigLIP's pre-training gives the
real one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from spacevllm.boxes import cxcywh_to_xyxy, pairwise_giou
from spacevllm.config import Config
from spacevllm.data.instance import TASKS
from spacevllm.model.outputs import AlignOutput, GroundingOutput
from spacevllm.model.presence_head import video_logit

if TYPE_CHECKING:
    from spacevllm.model.batch import Batch


class CriterionConfig(Config):
    """Loss weights. The defaults are the paper's recipe (L1 5, GIoU 2: ours, it names none)."""

    lm: float = 1.0
    l1: float = 5.0
    giou: float = 2.0
    attention: float = 0.0
    pointer: float = 0.0
    presence: float = 0.0
    time_weight: float = 1.0
    box_frames: Literal["span", "visible"] = "span"


class Criterion:
    """Every term is a sum over what it looks at (answer tokens, boxes, written times) by a count of the same things.

    Kept apart, because a step may be cut into micro-batches and ranks: the sums of all parts divided by the counts of
    all parts are the loss of one large batch, whatever the parts hold.
    """

    def __init__(self, config: CriterionConfig) -> None:
        self.config = config

    def __call__(self, output: GroundingOutput | AlignOutput, batch: Batch) -> dict[str, Tensor]:
        """Every term, unweighted, and their weighted sum ``loss``, of this batch alone: scalars."""
        sums, counts = self.sums(output, batch), self.counts(batch, align=isinstance(output, AlignOutput))
        return {name: mean(sums[name], counts[name]) for name in sums} | {"loss": self.loss(sums, counts)}

    def loss(self, sums: Mapping[str, Tensor], counts: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum of all terms, a scalar; sums of a part with the counts of the whole give its share."""
        terms = (self.weight(name) * mean(sums[name], counts[name]) for name in sums)
        return sum(terms, torch.zeros(()))

    def weight(self, term: str) -> float:
        return float(getattr(self.config, term, 1.0))  # ``alignment`` is alone

    def counts(self, batch: Batch, align: bool = False) -> dict[str, Tensor]:
        """How much each term looks at: (len(TASKS),) float by task. Known before the forward pass."""
        if align:
            boxes = by_task((batch.targets.box_known & batch.targets.in_span).sum(1).float(), batch.targets.tasks)
            captions = by_task(_covered(batch).any((1, 2)).float(), batch.targets.tasks)
            return {"alignment": captions, "l1": boxes, "giou": boxes}
        learned = batch.tokens.labels[:, 1:] >= 0  # (B, L - 1)
        boxes = by_task(self._supervised(batch).sum(1).float(), batch.targets.tasks)
        counts = {"lm": by_task(batch.tokens.label_weights[:, 1:][learned], _token_tasks(batch, learned))}
        counts |= {"l1": boxes, "giou": boxes, "attention": boxes}
        if self.config.pointer:
            counts["pointer"] = 2 * by_task((batch.targets.pointer_index[:, 0] >= 0).float(), batch.targets.tasks)
        if self.config.presence:
            counts["presence"] = by_task(_timed(batch).float(), batch.targets.tasks)
        return counts

    def sums(self, output: GroundingOutput | AlignOutput, batch: Batch) -> dict[str, Tensor]:
        """Each term's sum: (len(TASKS),) float by task.

        A batch without boxes or spans still touches the decoder, with empty selections: every rank must, in every
        step, or ZeRO-2 and ZeRO-3 hang.
        """
        if isinstance(output, AlignOutput):
            return self._alignment(output, batch)
        sums = {"lm": self._language(output, batch), **self._space(output, batch)}
        if self.config.pointer and output.pointer_logits is not None:
            sums["pointer"] = self._pointer(output.pointer_logits, batch)
        if self.config.presence:
            sums["presence"] = self._presence(output, batch)
        return sums

    def _alignment(self, output: AlignOutput, batch: Batch) -> dict[str, Tensor]:
        """Of all visual tokens, a caption fits those its object covers best; what these say together is its box."""
        wanted = _covered(batch)  # (Q, T, P)
        covering = wanted.any((1, 2))
        fit = soft_cross_entropy(output.logits[covering], wanted.flatten(1)[covering])
        boxes = _box_terms(output.boxes, batch, batch.targets.box_known & batch.targets.in_span)
        return {"alignment": by_task(fit, batch.targets.tasks[covering]), **boxes}

    def _language(self, output: GroundingOutput, batch: Batch) -> Tensor:
        each = F.cross_entropy(output.logits, output.labels, reduction="none")  # (N,)
        return by_task(each * output.label_weights, _token_tasks(batch, batch.tokens.labels[:, 1:] >= 0))

    def _supervised(self, batch: Batch) -> Tensor:
        """(Q, T) bool: where a box is learned."""
        where = batch.targets.box_known & (batch.media.query_index[batch.tokens.question_row] >= 0)
        return where & batch.targets.in_span if self.config.box_frames == "span" else where

    def _space(self, output: GroundingOutput, batch: Batch) -> dict[str, Tensor]:
        where = self._supervised(batch)
        tasks = batch.targets.tasks.unsqueeze(1).expand(where.shape)[where]  # (N,)
        attention = soft_cross_entropy(output.space.attention_logits[where], batch.targets.cell_shares[where])
        return {**_box_terms(output.space.boxes, batch, where), "attention": by_task(attention, tasks)}

    def _pointer(self, logits: Tensor, batch: Batch) -> Tensor:
        """At the cells of the box or, where none is known, at the frame: where in it is then the model's choice."""
        targets, frames = batch.targets, batch.targets.boxes.shape[1]
        timed = targets.pointer_index[:, 0] >= 0  # (Q,)
        found, wanted = (x[timed].unflatten(-1, (frames, -1)) for x in (logits, targets.pointer_target))  # (N, 2, T, P)
        by_cell = soft_cross_entropy(found.flatten(2), wanted.flatten(2))  # (N, 2)
        # padding is -inf in every cell, and a logsumexp of nothing has no gradient
        by_frame = soft_cross_entropy(found.clamp(min=-1e4).logsumexp(-1), wanted.sum(-1))  # (N, 2)
        boxed = batch.targets.box_known[timed].any(1, keepdim=True)  # (N, 1)
        return by_task(torch.where(boxed, by_cell, by_frame).sum(-1), batch.targets.tasks[timed])

    def _presence(self, output: GroundingOutput, batch: Batch) -> Tensor:
        """Cross-entropy of the frames, in the mean, and of the video."""
        if output.space.presence_logits is None:
            raise ValueError("criterion.presence needs a presence head: set model.fields.presence_head=true")
        timed = _timed(batch)
        logits, seen = output.space.presence_logits[timed], output.space_valid[timed]  # (N, T)
        goes_on = batch.targets.in_span[timed] & seen
        frames = F.binary_cross_entropy_with_logits(logits, goes_on.float(), reduction="none") * seen
        video = F.binary_cross_entropy_with_logits(
            video_logit(logits, seen), goes_on.any(1).float(), reduction="none"
        )  # (N,)
        return by_task(frames.sum(1) / seen.sum(1).clamp(min=1) + video, batch.targets.tasks[timed])


def mean(sums: Tensor, counts: Tensor) -> Tensor:
    """Over all tasks, a scalar; 0 where nothing was counted."""
    return sums.sum() / counts.sum().clamp(min=1e-6)


def by_task(values: Tensor, tasks: Tensor) -> Tensor:
    """Sums of values (N,) for each task (N,): (len(TASKS),). N may be 0, and the graph is kept."""
    return values @ F.one_hot(tasks, len(TASKS)).to(values.dtype)


def _token_tasks(batch: Batch, learned: Tensor) -> Tensor:
    """(N,) task of every learned token: learned (B, L - 1), position t predicts the token at t + 1."""
    rows, _ = learned.nonzero(as_tuple=True)
    first = torch.searchsorted(batch.tokens.question_row, torch.arange(len(learned), device=rows.device))  # (B,)
    return batch.targets.tasks[first[rows] + batch.tokens.segments[:, 1:][learned] - 1]


def _timed(batch: Batch) -> Tensor:
    """(Q,) bool: questions that ask for a time, of a video with queries; a few of them about what is not there."""
    timed = torch.tensor([TASKS.index("stvg"), TASKS.index("vtg")], device=batch.targets.tasks.device)
    asks = torch.isin(batch.targets.tasks, timed)
    return asks & (batch.media.query_index[batch.tokens.question_row] >= 0).any(1)


def _covered(batch: Batch) -> Tensor:
    """(Q, T, P): the boxes' shares of the cells, on frames of the span."""
    return batch.targets.cell_shares * (batch.targets.box_known & batch.targets.in_span).unsqueeze(-1)


def _box_terms(boxes: Tensor, batch: Batch, where: Tensor) -> dict[str, Tensor]:
    """Sums by task of the L1 distance (over four numbers) and of 1 - GIoU; boxes (Q, T, 4), where (Q, T) bool."""
    tasks = batch.targets.tasks.unsqueeze(1).expand(where.shape)[where]  # (N,)
    found, truth = boxes[where], batch.targets.boxes[where]  # (N, 4)
    giou = pairwise_giou(cxcywh_to_xyxy(found), cxcywh_to_xyxy(truth))
    return {"l1": by_task((found - truth).abs().sum(-1), tasks), "giou": by_task(1 - giou, tasks)}


def soft_cross_entropy(logits: Tensor, wanted: Tensor) -> Tensor:
    """(...) divergence of softmax(logits) from ``wanted``, in nats; 0 where they agree.

    Args:
        logits: (..., P), -inf allowed where ``wanted`` is 0. wanted: (..., P) float >= 0, scaled to sum 1 here.
    """
    wanted = wanted / wanted.sum(-1, keepdim=True).clamp(min=1e-9)
    log_p = logits.float().log_softmax(-1).masked_fill(wanted == 0, 0.0)
    return (wanted * (wanted.clamp(min=1e-9).log() - log_p)).sum(-1)
