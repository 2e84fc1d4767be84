"""Query-Guided Space Decoder: dual cross-attention from last-layer LLM states to one box a frame.

    V' = V + softmax(LN(V) LN(T)^T / sqrt(d)) T      the frame's visual tokens read the caption
    q' = q + softmax(LN(q) LN(V')^T / sqrt(d)) V'    the frame's query reads the enhanced frame
    b  = sigmoid(MLP(q'))                            (cx, cy, w, h) in [0, 1]

Under the causal mask the query stands before the caption and never sees it: the first attention is what tells the
decoder *which* object is meant. LayerNorm because Qwen2's last states have very large outlier channels. Weights and
layers: spec "parameter-free" (secondary reading of the paper); ``learned`` adds projections.
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn


class SpaceOutput(NamedTuple):
    """boxes: (Q, T, 4) cxcywh in [0, 1]. attention_logits: (Q, T, P), the second attention's, for its supervision.
    states: (Q, T, D), the query states the boxes were read from. presence_logits: (Q, T), of the presence head; None
    for a model without one."""

    boxes: Tensor
    attention_logits: Tensor
    states: Tensor
    presence_logits: Tensor | None = None


def layer_norm(x: Tensor) -> Tensor:
    """Over the last dimension, without weights."""
    return F.layer_norm(x, x.shape[-1:])


class CrossAttention(nn.Module):
    """Residual single-head attention; without parameters unless ``learned``."""

    def __init__(self, hidden_size: int, learned: bool) -> None:
        super().__init__()

        def project() -> nn.Module:
            return nn.Linear(hidden_size, hidden_size, bias=False) if learned else nn.Identity()

        self.query, self.key, self.value = project(), project(), project()

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """x reads memory.

        Args:
            x: (..., N, D). memory: (..., M, D). mask: (..., M) bool, True where memory is real.

        Returns:
            x + attended memory (..., N, D), and the logits (..., N, M), -inf where masked.
        """
        query, key = self.query(layer_norm(x)), self.key(layer_norm(memory))
        logits = query @ key.transpose(-1, -2) * x.shape[-1] ** -0.5  # (..., N, M)
        logits = logits.masked_fill(~mask.unsqueeze(-2), float("-inf"))
        return x + logits.softmax(-1) @ self.value(memory), logits


class QueryGuidedSpaceDecoder(nn.Module):
    """Arguments are those of ``SpaceVLLMConfig``: ``attention``: ``decoder_attention``, ``dual``:
    ``decoder_cross_attention``."""

    def __init__(self, hidden_size: int, mlp_size: int, attention: str, layers: int, dual: bool = True) -> None:
        super().__init__()
        learned = attention == "learned"
        self.read_caption = nn.ModuleList(CrossAttention(hidden_size, learned) for _ in range(layers if dual else 0))
        self.read_frame = nn.ModuleList(CrossAttention(hidden_size, learned) for _ in range(layers))
        self.box_head = nn.Sequential(
            nn.Linear(hidden_size, mlp_size),
            nn.ReLU(),
            nn.Linear(mlp_size, mlp_size),
            nn.ReLU(),
            nn.Linear(mlp_size, 4),
        )

    def forward(
        self, visual: Tensor, query: Tensor, caption: Tensor, visual_mask: Tensor, caption_mask: Tensor
    ) -> SpaceOutput:
        """One box for every question and frame, all in parallel.

        Args:
            visual: (Q, T, P, D) last-layer states of each frame's visual tokens, without newline tokens.
            query: (Q, T, D) states of ``<r_i>``.
            caption: (Q, M, D) states of the caption's tokens only, not of the whole instruction.
            visual_mask: (Q, T, P) bool; caption_mask: (Q, M) bool: True where a token is real. A frame or caption
                without any real token gives NaN: the caller leaves such rows out.
        """
        for layer, read_frame in enumerate(self.read_frame):
            if self.read_caption:  # dual
                visual, _ = self.read_caption[layer](visual, caption[:, None], caption_mask[:, None])  # (Q, T, P, D)
            query, logits = read_frame(query[:, :, None], visual, visual_mask)  # (Q, T, 1, D), (Q, T, 1, P)
            query = query[:, :, 0]  # (Q, T, D)
        return SpaceOutput(self.read_box(query), logits[:, :, 0], query)

    def read_box(self, states: Tensor) -> Tensor:
        """(..., D) → (..., 4) cxcywh in [0, 1]."""
        return self.box_head(layer_norm(states)).float().sigmoid()
