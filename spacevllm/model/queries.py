"""Interleaved spatio-temporal queries: one learned token after the visual tokens of every frame."""

from __future__ import annotations

from torch import Tensor, nn


class InterleavedQueries(nn.Module):
    """The learned embeddings of ``<r_0>`` … ``<r_64>`` (paper: Interleaved Spatio-Temporal Queries)."""

    def __init__(self, count: int, hidden_size: int, std: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(count, hidden_size)
        nn.init.normal_(self.embedding.weight, std=std)

    def forward(self, query_ids: Tensor) -> Tensor:
        """(N,) int in [0, count) → (N, D)."""
        return self.embedding(query_ids)
