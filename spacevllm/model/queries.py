"""Interleaved spatio-temporal queries: one learned token after the visual tokens of every frame."""

from __future__ import annotations

from torch import Tensor, nn

from spacevllm.model.configuration import QUERY_TOKENS

IMAGE_QUERY = QUERY_TOKENS - 1  # <r_64>


class InterleavedQueries(nn.Module):
    """The learned embeddings of ``<r_0>`` … ``<r_64>`` (paper: Interleaved Spatio-Temporal Queries)."""

    def __init__(self, hidden_size: int, std: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(QUERY_TOKENS, hidden_size)
        nn.init.normal_(self.embedding.weight, std=std)

    def forward(self, query_ids: Tensor) -> Tensor:
        """(N,) int in [0, 65) → (N, D)."""
        return self.embedding(query_ids)
