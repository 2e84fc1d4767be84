"""What one pass of the model gives. Named tuples, because ZeRO-3 looks for tensors in tuples and dicts only."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from spacevllm.model.space_decoder import SpaceOutput


class GroundingOutput(NamedTuple):
    """Attributes:
    logits: (N, V) float, one row for every position that has a label, in row order.
    labels, label_weights: (N,).
    space: boxes and attention of every question and frame; questions without queries hold zeros.
    space_valid: (Q, T) bool, where ``space`` is real.
    pointer_logits: (Q, 2, T * P) of the pointer head over the visual tokens, -inf where there is none; None
        unless asked for.
    """

    logits: Tensor
    labels: Tensor
    label_weights: Tensor
    space: SpaceOutput
    space_valid: Tensor
    pointer_logits: Tensor | None


class AlignOutput(NamedTuple):
    """Attributes:
    logits: (Q, T * P), the projected token against the mean embedding of the caption's words, both normalised.
    boxes: (Q, T, 4) cxcywh in [0, 1], read from the frame's tokens in the shares of their logits.
    """

    logits: Tensor
    boxes: Tensor
