"""What the model reads: packed rows of tokens, the pixels behind them, and where everything stands.

One row is one video (or image) followed by K questions about it. All K read the same prefix and none reads another
question: segment 0 is the prefix, segment k the k-th question with its answer, -1 padding. B rows of length L; Q
questions in all; up to T frames of P visual tokens a row, M caption tokens a question.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, TypeVar

import torch
from torch import Tensor

from spacevllm.model.attention import PrefixLayout
from spacevllm.model.backbones.base import Pixels

Moved = TypeVar("Moved", bound="_Movable")


class _Movable:
    def to(self: Moved, device: torch.device | str) -> Moved:
        """The same on another device."""
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        return type(self)(**{n: v.to(device) if hasattr(v, "to") else v for n, v in values.items()})


@dataclass
class Tokens(_Movable):
    """Attributes:
    input_ids: (B, L) int; only positions of ``Kind.TEXT`` are read.
    kinds: (B, L) int of ``Kind``. segments: (B, L) int.
    position_ids: (A, B, L) int, each question's as if it stood alone behind the prefix; A axes, see ``Layout``.
    labels: (B, L) int, the token at its own position, -100 where nothing is learned. label_weights: (B, L) float.
    query_ids: (N,) int in [0, num_queries), ids of the query positions in row order.
    question_row: (Q,) int, the row of each question. caption_index: (Q, M) int, positions of its caption, -1 padding.
    prefix_length, segment_length: L = prefix_length + K * segment_length; prefix and questions are padded on the right
        to these.
    """

    input_ids: Tensor
    kinds: Tensor
    segments: Tensor
    position_ids: Tensor
    labels: Tensor
    label_weights: Tensor
    query_ids: Tensor
    question_row: Tensor
    caption_index: Tensor
    prefix_length: int
    segment_length: int

    def attention_mask(self) -> Tensor:
        """(B, 1, L, L) bool, True where position i reads position j: causal, the prefix and its own question only."""
        length = self.segments.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=self.segments.device).tril()
        reader, read = self.segments[:, :, None], self.segments[:, None, :]  # (B, L, 1), (B, 1, L)
        mask = causal & ((read == 0) | (read == reader)) & (read >= 0)
        # a padding row reads itself: a softmax over nothing would be NaN
        return (mask | torch.eye(length, dtype=torch.bool, device=mask.device)).unsqueeze(1)

    def layout(self) -> PrefixLayout:
        """The same mask in the form that ``shared_prefix_attention`` computes."""
        cut, size = self.prefix_length, self.segment_length
        real = self.segments >= 0  # (B, L)
        question = real[:, cut:].reshape(len(real), -1, 1, size)  # (B, K, 1, S)
        prefix = real[:, None, None, :cut].expand(-1, question.shape[1], size, -1)  # (B, K, S, P)
        causal = torch.ones(size, size, dtype=torch.bool, device=real.device).tril()
        mask = torch.cat([prefix, question & causal], dim=-1)  # (B, K, S, P + S)
        return PrefixLayout(cut, size, mask.flatten(0, 1).unsqueeze(1))


@dataclass
class Media(_Movable):
    """Attributes:
    pixels: of all frames, in row order.
    visual_index: (B, T, P) int, positions of each frame's visual tokens, -1 where there is none.
    query_index: (B, T) int, position of ``<r_i>``, -1 where there is none.
    """

    pixels: Pixels
    visual_index: Tensor
    query_index: Tensor


@dataclass
class Targets(_Movable):
    """Attributes:
    boxes: (Q, T, 4) float cxcywh in [0, 1]. cell_shares: (Q, T, P) float, the share of each box in each visual token's
        cell. box_known: (Q, T) bool. in_span: (Q, T) bool; all true for an image.
    pointer_index: (Q, 2) int, the positions that write the first digit of begin and end, -1 without a span.
    pointer_target: (Q, 2, T * P) float, how they should share their attention among the visual tokens.
    tasks: (Q,) int, index into ``TASKS``.
    """

    boxes: Tensor
    cell_shares: Tensor
    box_known: Tensor
    in_span: Tensor
    pointer_index: Tensor
    pointer_target: Tensor
    tasks: Tensor


@dataclass
class Batch(_Movable):
    """tokens: what is read and written. media: what is seen. targets: what is right."""

    tokens: Tokens
    media: Media
    targets: Targets
