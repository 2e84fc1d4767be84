"""Boxes: ``cxcywh`` in [0, 1] inside the model, ``xyxy`` in pixels outside it.

IoU and GIoU as in Rezatofighi et al. 2019 (GIoU); conventions as in DETR.
"""

from __future__ import annotations

import torch
from torch import Tensor


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """(..., 4) cx, cy, w, h → (..., 4) x1, y1, x2, y2, same unit."""
    cx, cy, w, h = boxes.unbind(-1)
    return torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], dim=-1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """(..., 4) x1, y1, x2, y2 → (..., 4) cx, cy, w, h, same unit."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], dim=-1)


def check_boxes(boxes: Tensor) -> None:
    """Raises ValueError unless every (..., 4) xyxy box is finite with x2 >= x1 and y2 >= y1."""
    bad = ~(torch.isfinite(boxes).all(-1) & (boxes[..., 2:] >= boxes[..., :2]).all(-1))
    if bad.any():
        raise ValueError(
            f"{int(bad.sum())} of {bad.numel()} boxes are not x1 <= x2, y1 <= y2: {boxes[bad][0].tolist()}"
        )


def pairwise_iou(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """IoU of boxes taken pair by pair; 0 where the union is empty.

    Args:
        a, b: (..., 4) xyxy.

    Returns:
        IoU (...) in [0, 1] and union area (...).
    """
    size_a = (a[..., 2:] - a[..., :2]).clamp(min=0).prod(-1)
    size_b = (b[..., 2:] - b[..., :2]).clamp(min=0).prod(-1)
    corner = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])  # (..., 2)
    overlap = corner.clamp(min=0).prod(-1)
    union = size_a + size_b - overlap
    return overlap / union.clamp(min=1e-9), union


def pairwise_giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU pair by pair, (...) in [-1, 1].

    Raises:
        ValueError: a box has x2 < x1, y2 < y1 or is not finite.
    """
    check_boxes(a)
    check_boxes(b)
    iou, union = pairwise_iou(a, b)
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    return iou - (hull - union) / hull.clamp(min=1e-9)
