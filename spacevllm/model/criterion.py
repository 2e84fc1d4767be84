"""What the model is trained on: LM cross-entropy and the spatial loss of the paper, and the terms it does not have.

The paper: cross-entropy + L1 + GIoU on frames inside the true span. Our own terms have weight 0 there and are what a
model trained *from scratch* needs (see docs/decisions.md): ``attention`` pulls the decoder's second attention to the
cells the box covers; ``pointer`` makes one head of the last layer look at the first and last frame when it writes
the two times (or when it answers with a box); ``box_frames: visible`` supervises boxes outside the span too. An
``align`` stage before all that gives a random tower what SigLIP's pre-training gives the real one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from spacevllm.boxes import cxcywh_to_xyxy, pairwise_giou
from spacevllm.config import Config

if TYPE_CHECKING:
    from spacevllm.model.batch import Batch
    from spacevllm.model.modeling import AlignOutput, GroundingOutput


class CriterionConfig(Config):
    """Loss weights. The defaults are the paper's recipe (L1 5, GIoU 2: ours, it names none)."""

    lm: float = 1.0
    l1: float = 5.0
    giou: float = 2.0
    attention: float = 0.0
    pointer: float = 0.0
    time_weight: float = 1.0
    box_frames: Literal["span", "visible"] = "span"


class Criterion:
    def __init__(self, config: CriterionConfig) -> None:
        self.config = config

    def __call__(self, output: GroundingOutput, batch: Batch) -> dict[str, Tensor]:
        """Every term, unweighted, and their weighted sum ``loss``: scalars.

        A batch without boxes or spans still touches the decoder with weight 0: every rank must, in every step, or
        ZeRO-2 and ZeRO-3 hang.
        """
        terms = {"lm": self._language(output), **self._space(output, batch)}
        if self.config.pointer and output.pointer_logits is not None:
            terms["pointer"] = self._pointer(output.pointer_logits, batch)
        terms["loss"] = sum((getattr(self.config, name) * term for name, term in terms.items()), torch.zeros(()))
        return terms

    def alignment(self, output: AlignOutput, batch: Batch) -> dict[str, Tensor]:
        """The loss of an ``align`` stage: of all visual tokens, a caption fits those its object covers best, and what
        they say together is its box.

        Returns:
            ``alignment``: divergence from the boxes' shares of the cells, in nats; ``l1``, ``giou``; their sum ``loss``
            with the weights of the boxes' terms.
        """
        where = batch.box_known & batch.in_span  # (Q, T)
        wanted = batch.cell_shares * where.unsqueeze(-1)  # (Q, T, P)
        asked = wanted.sum((1, 2)) > 0
        terms = {"alignment": soft_cross_entropy(output.logits[asked], wanted.flatten(1)[asked])}
        terms |= box_terms(output.boxes[where], batch.boxes[where])
        terms["loss"] = terms["alignment"] + self.config.l1 * terms["l1"] + self.config.giou * terms["giou"]
        return terms

    def _language(self, output: GroundingOutput) -> Tensor:
        each = F.cross_entropy(output.logits, output.labels, reduction="none")  # (N,)
        return (each * output.label_weights).sum() / output.label_weights.sum().clamp(min=1e-6)

    def _space(self, output: GroundingOutput, batch: Batch) -> dict[str, Tensor]:
        where = batch.box_known & output.space_valid  # (Q, T)
        if self.config.box_frames == "span":
            where = where & batch.in_span
        if not where.any():
            untouched = 0.0 * output.space.boxes.sum()
            return {"l1": untouched, "giou": untouched, "attention": untouched}
        boxes, truth = output.space.boxes[where], batch.boxes[where]  # (N, 4)
        logits = output.space.attention_logits[where]  # (N, P)
        return {**box_terms(boxes, truth), "attention": soft_cross_entropy(logits, batch.cell_shares[where])}

    def _pointer(self, logits: Tensor, batch: Batch) -> Tensor:
        timed = batch.pointer_index[:, 0] >= 0  # (Q,)
        if not timed.any():
            return 0.0 * logits.nan_to_num(neginf=0.0).sum()
        return soft_cross_entropy(logits[timed].flatten(0, 1), batch.pointer_target[timed].flatten(0, 1))


def box_terms(boxes: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """Means of the L1 distance (sum over four numbers) and of 1 - GIoU; both (N, 4) cxcywh in [0, 1], N may be 0."""
    giou = pairwise_giou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(truth))  # (N,)
    count = max(len(boxes), 1)
    return {"l1": (boxes - truth).abs().sum() / count, "giou": (1 - giou).sum() / count}


def soft_cross_entropy(logits: Tensor, wanted: Tensor) -> Tensor:
    """Mean over rows of the divergence of softmax(logits) from ``wanted``, in nats; 0 where they agree.

    Args:
        logits: (N, P), -inf allowed where ``wanted`` is 0. wanted: (N, P) float >= 0, scaled to sum 1 here. N may be 0.
    """
    wanted = wanted / wanted.sum(-1, keepdim=True).clamp(min=1e-9)
    log_p = logits.float().log_softmax(-1).masked_fill(wanted == 0, 0.0)
    gap = wanted * (wanted.clamp(min=1e-9).log() - log_p)  # (N, P)
    return gap.sum() / max(len(logits), 1)
