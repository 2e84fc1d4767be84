"""Attention for rows of one prefix and K questions: the prefix reads itself once, each question reads prefix + itself.

The same result as a (L, L) block-diagonal mask at the cost of P² / 2 + K·S·(P + S) instead of (P + K·S)². Registered
under ``shared_prefix``; without a layout or a remembered prefix it is transformers' own ``sdpa``.

Behind a remembered prefix all K questions read its one copy as one long row of queries, without a mask; each reads its
own tokens apart, and the two are joined by their log-sum-exps, which is exact (Hydragen, arXiv 2402.05099).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

SHARED_PREFIX = "shared_prefix"
_LOGITS_AT_ONCE = 1 << 26  # bounds the memory where no fused kernel gives the log-sum-exp

KeyValue = tuple[Tensor, Tensor]
"""Keys and values of one layer, (1, Hk, P, d) each, rotated."""


@dataclass
class PrefixLayout:
    """How a row of length ``prefix + K * segment`` is cut.

    prefix, segment: lengths, both padded on the right. segment_mask: (B * K, 1, segment, prefix + segment) bool.
    """

    prefix: int
    segment: int
    segment_mask: Tensor


def shared_prefix_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    layout: PrefixLayout | None = None,
    remembered: Sequence[KeyValue] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """query (B, H, L, d), key and value (B, Hk, L, d) → (B, L, H, d).

    Args:
        attention_mask: (B, 1, L, N) bool; behind a remembered prefix (K, 1, S, N), over the questions' own N tokens.
        remembered: keys and values of the prefix, one entry a layer; key and value then hold what came after it.
    """
    if remembered is not None:
        assert attention_mask is not None
        prefix = remembered[cast(int, module.layer_idx)]
        return _behind_remembered(query, (key, value), prefix, attention_mask, scaling), None
    if layout is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    cut = layout.prefix
    out = _attend(query[:, :, :cut], key[:, :, :cut], value[:, :, :cut], None, scaling)  # (B, H, P, d)
    if query.shape[2] > cut:
        segment_query = _per_question(query[:, :, cut:], layout.segment)  # (B * K, H, S, d)
        keys, values = (_behind_prefix(x, layout) for x in (key, value))  # (B * K, Hk, P + S, d)
        answer = _attend(segment_query, keys, values, layout.segment_mask, scaling)
        batch, heads, _, width = out.shape
        answer = answer.view(batch, -1, heads, layout.segment, width).transpose(1, 2).flatten(2, 3)  # (B, H, K·S, d)
        out = torch.cat([out, answer], dim=2)
    return out.transpose(1, 2).contiguous(), None


def _behind_remembered(query: Tensor, tail: KeyValue, prefix: KeyValue, mask: Tensor, scaling: float | None) -> Tensor:
    """query (K, H, S, d), tail (K, Hk, N, d), prefix (1, Hk, P, d), mask (K, 1, S, N) → (K, S, H, d)."""
    count, heads, length, width = query.shape
    scale = scaling or width**-0.5
    grouped = query.view(count, tail[0].shape[1], -1, length, width)  # (K, Hk, G, S, d)
    row = grouped.permute(1, 2, 0, 3, 4).flatten(1, 3).unsqueeze(0)  # (1, Hk, G·K·S, d): G heads read the same keys
    prefix_out, prefix_lse = _attend_all(row, prefix, scale)
    unrow = (grouped.shape[1], grouped.shape[2], count, length, -1)  # (Hk, G, K, S, ·)
    # (K, Hk, G, S, ·)
    prefix_out, prefix_lse = (x.view(unrow).permute(2, 0, 1, 3, 4) for x in (prefix_out, prefix_lse))
    logits = (grouped @ tail[0].unsqueeze(2).transpose(-1, -2)).float() * scale  # (K, Hk, G, S, N)
    logits = logits.masked_fill(~mask.unsqueeze(2), float("-inf"))
    tail_out = logits.softmax(-1).to(query.dtype) @ tail[1].unsqueeze(2)  # (K, Hk, G, S, d)
    share = (prefix_lse - logits.logsumexp(-1, keepdim=True)).sigmoid()  # of the prefix in the whole softmax
    out = tail_out + share * (prefix_out.float() - tail_out.float())
    return out.to(query.dtype).view(count, heads, length, width).transpose(1, 2).contiguous()


def _attend_all(query: Tensor, memory: KeyValue, scale: float) -> tuple[Tensor, Tensor]:
    """Every query (1, Hk, N, d) reads all of memory (1, Hk, P, d): (1, Hk, N, d), and the logits' log-sum-exp as fp32
    (1, Hk, N, 1)."""
    key, value = memory
    if query.device.type == "cpu":
        out, weight = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, scale=scale)
        return out, weight.unsqueeze(-1)
    if query.device.type == "cuda" and query.dtype != torch.float32:
        out, weight = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, scale=scale)[:2]
        return out, weight.unsqueeze(-1)
    return attend_in_pieces(query, key, value, scale)


def attend_in_pieces(query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """``_attend_all`` in plain torch, for devices and types without a fused kernel."""
    pieces = []
    for part in query.split(max(1, _LOGITS_AT_ONCE // (key.shape[1] * key.shape[2])), dim=2):
        logits = (part @ key.transpose(-1, -2)).float() * scale  # (1, Hk, n, P)
        pieces.append((logits.softmax(-1).to(value.dtype) @ value, logits.logsumexp(-1, keepdim=True)))
    out, weight = (torch.cat(x, dim=2) for x in zip(*pieces, strict=True))
    return out, weight


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None) -> Tensor:
    """softmax(query key^T) value; without a mask causal."""
    grouped = query.shape[1] != key.shape[1]
    half = query.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu")
    if query.device.type != "cpu" or not half:
        return F.scaled_dot_product_attention(
            query, key, value, mask, is_causal=mask is None, scale=scaling, enable_gqa=grouped
        )
    # two matmuls: torch 2.13's fused CPU kernel takes 1.4 to 6 times as long in bf16
    key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
    if mask is None:
        mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool).tril()
    logits = (query @ key.transpose(-1, -2)) * (scaling or query.shape[-1] ** -0.5)
    return logits.masked_fill(~mask, float("-inf")).softmax(-1) @ value


def _per_question(x: Tensor, segment: int) -> Tensor:
    batch, heads, _, width = x.shape
    return x.view(batch, heads, -1, segment, width).transpose(1, 2).flatten(0, 1)


def _behind_prefix(x: Tensor, layout: PrefixLayout) -> Tensor:
    tail = _per_question(x[:, :, layout.prefix :], layout.segment)  # (B * K, Hk, S, d)
    shared = x[:, :, : layout.prefix].repeat_interleave(len(tail) // len(x), dim=0)  # (B * K, Hk, P, d)
    return torch.cat([shared, tail], dim=2)


AttentionInterface.register(SHARED_PREFIX, shared_prefix_attention)
AttentionMaskInterface.register(SHARED_PREFIX, sdpa_mask)
