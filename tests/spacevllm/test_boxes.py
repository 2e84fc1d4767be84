from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spacevllm.boxes import check_boxes, cxcywh_to_xyxy, pairwise_giou, pairwise_iou, xyxy_to_cxcywh

unit = st.floats(0, 1, width=32)
proper = st.tuples(unit, unit, unit, unit).map(
    lambda v: [min(v[0], v[2]), min(v[1], v[3]), max(v[0], v[2]), max(v[1], v[3])]
)


def test_conversion_by_hand():
    assert cxcywh_to_xyxy(torch.tensor([[0.5, 0.5, 0.25, 0.5]])).tolist() == [[0.375, 0.25, 0.625, 0.75]]
    assert xyxy_to_cxcywh(torch.tensor([10.0, 20.0, 30.0, 60.0])).tolist() == [20, 40, 20, 40]


@settings(deadline=None)
@given(st.lists(proper, min_size=1, max_size=8))
def test_conversion_round_trips(boxes):
    boxes = torch.tensor(boxes)
    torch.testing.assert_close(cxcywh_to_xyxy(xyxy_to_cxcywh(boxes)), boxes, atol=1e-6, rtol=0)


def test_iou_and_giou_by_hand():
    a = torch.tensor([[0.0, 0, 10, 10]]).expand(4, 4)
    b = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10], [20, 0, 30, 10]])
    iou, union = pairwise_iou(a, b)
    torch.testing.assert_close(iou, torch.tensor([1, 1 / 3, 0, 0]))
    assert union.tolist() == [100, 150, 200, 200]
    torch.testing.assert_close(pairwise_giou(a, b), torch.tensor([1, 1 / 3, 0, -1 / 3]))  # 10 of 30 px lie between


@settings(deadline=None)
@given(st.lists(st.tuples(proper, proper), min_size=1, max_size=8))
def test_iou_bounds_and_symmetry(pairs):
    a, b = torch.tensor([p[0] for p in pairs]), torch.tensor([p[1] for p in pairs])
    iou, giou = pairwise_iou(a, b)[0], pairwise_giou(a, b)
    assert torch.isfinite(iou).all() and torch.isfinite(giou).all()
    assert ((iou >= 0) & (iou <= 1 + 1e-6)).all()
    assert ((giou >= -1 - 1e-6) & (giou <= iou + 1e-6)).all()
    torch.testing.assert_close(pairwise_giou(b, a), giou)


def test_empty_boxes_overlap_nothing():
    point = torch.tensor([[0.5, 0.5, 0.5, 0.5]])
    assert pairwise_iou(point, point)[0].item() == 0
    assert pairwise_giou(point, point).item() == 0


def test_giou_pulls_disjoint_boxes_together():
    far = torch.tensor([[0.6, 0.6, 0.8, 0.8]], requires_grad=True)
    pairwise_giou(far, torch.tensor([[0.0, 0.0, 0.2, 0.2]])).sum().backward()
    assert far.grad is not None
    assert (far.grad[:, :2] < 0).all()  # a step up the gradient moves the near corner towards the other box


@pytest.mark.parametrize("bad", [[0.5, 0, 0.4, 1], [0, 1, 1, 0], [0, 0, float("nan"), 1], [0, 0, float("inf"), 1]])
def test_bad_boxes_are_refused_with_their_values(bad):
    boxes = torch.tensor([[0.0, 0, 1, 1], bad])
    with pytest.raises(ValueError, match=r"1 of 2 boxes are not x1 <= x2"):
        check_boxes(boxes)
    with pytest.raises(ValueError):
        pairwise_giou(boxes, boxes.clone())
