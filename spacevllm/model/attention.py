"""Attention for rows of one prefix and K questions: the prefix reads itself once, each question reads prefix + itself.

The same result as a (L, L) block-diagonal mask at the cost of P² / 2 + K·S·(P + S) instead of (P + K·S)². Registered
under ``shared_prefix``; without a layout it is transformers' own ``sdpa``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

SHARED_PREFIX = "shared_prefix"


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
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """query (B, H, L, d), key and value (B, Hk, L, d) → (B, L, H, d)."""
    if layout is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    cut = layout.prefix
    out = _attend(query[:, :, :cut], key[:, :, :cut], value[:, :, :cut], None, scaling)  # (B, H, P, d)
    if query.shape[2] > cut:
        asked = _per_question(query[:, :, cut:], layout.segment)  # (B * K, H, S, d)
        keys, values = (_behind_prefix(x, layout) for x in (key, value))  # (B * K, Hk, P + S, d)
        answer = _attend(asked, keys, values, layout.segment_mask, scaling)
        batch, heads, _, width = out.shape
        answer = answer.view(batch, -1, heads, layout.segment, width).transpose(1, 2).flatten(2, 3)  # (B, H, K·S, d)
        out = torch.cat([out, answer], dim=2)
    return out.transpose(1, 2).contiguous(), None


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
    own = _per_question(x[:, :, layout.prefix :], layout.segment)  # (B * K, Hk, S, d)
    shared = x[:, :, : layout.prefix].repeat_interleave(len(own) // len(x), dim=0)  # (B * K, Hk, P, d)
    return torch.cat([shared, own], dim=2)


AttentionInterface.register(SHARED_PREFIX, shared_prefix_attention)
AttentionMaskInterface.register(SHARED_PREFIX, sdpa_mask)
