"""Is it there? One logit a frame, whether what is described goes on in it. Our addition: the paper has none.

It reads what the box is read from: the query's state after the space decoder, and the caption's mean state. The words
alone do not tell: the decoder's softmax always finds a best place, be it ever so bad (docs/decisions.md).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spacevllm.model.space_decoder import layer_norm


class PresenceHead(nn.Module):
    """An MLP with one hidden layer of ``mlp_size``; ``SpaceVLLMConfig.presence_head`` adds it."""

    def __init__(self, hidden_size: int, mlp_size: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(2 * hidden_size, mlp_size), nn.ReLU(), nn.Linear(mlp_size, 1))

    def forward(self, states: Tensor, caption: Tensor, caption_mask: Tensor) -> Tensor:
        """Logits (Q, T) float.

        Args:
            states: (Q, T, D) query states that boxes were read from, see ``SpaceOutput``.
            caption: (Q, M, D) states of the caption's tokens. caption_mask: (Q, M) bool, True where one is real.
        """
        real = caption_mask.unsqueeze(-1)
        mean = (caption * real).sum(1) / real.sum(1).clamp(min=1)  # (Q, D)
        caption_mean = layer_norm(mean).unsqueeze(1).expand(-1, states.shape[1], -1)  # (Q, T, D)
        width = next(self.parameters()).dtype  # of a frozen decoder's states it need not be
        return self.mlp(torch.cat([layer_norm(states), caption_mean], dim=-1).to(width)).squeeze(-1).float()


def video_logit(frames: Tensor, seen: Tensor) -> Tensor:
    """Whether it is there at all, (Q,) float: frames (Q, T) logits, a soft maximum over those that ``seen`` marks."""
    return frames.masked_fill(~seen, -1e4).logsumexp(-1)
