from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import clip, instance, make

from spacevllm.model.backbones.base import input_of
from spacevllm.model.collate import Collator, cell_shares
from spacevllm.model.criterion import Criterion, CriterionConfig
from spacevllm.model.outputs import AlignOutput


def setup(*tasks: str, **fields):
    model, processor = make(**fields)
    batch = Collator(processor)([clip([instance(k, task)]) for k, task in enumerate(tasks)])
    return model, batch


def with_boxes(output, boxes):
    return output._replace(space=output.space._replace(boxes=boxes))


def test_cell_shares():
    corner, half, nothing = [0.1, 0.1, 0.2, 0.2], [0.5, 0.25, 0.5, 0.5], [0.3, 0.3, 0.0, 0.0]
    shares = cell_shares(np.array([corner, half, nothing]), (4, 4))
    assert shares.shape == (3, 16) and shares[0].tolist() == [1.0] + [0.0] * 15
    assert shares[1].reshape(4, 4)[:2, 1:3].tolist() == [[0.25, 0.25], [0.25, 0.25]]
    assert not shares[2].any()
    assert cell_shares(np.array([1.0, 1.0, 0.2, 0.2]), (2, 2)).tolist() == [0, 0, 0, 1]  # half of it is outside
    assert cell_shares(np.array([0.5, 0.25, 1.0, 0.5]), (2, 3)).tolist() == pytest.approx([1 / 3] * 3 + [0] * 3)


def test_the_papers_recipe_is_the_default():
    config = CriterionConfig()
    assert (config.lm, config.attention, config.pointer, config.box_frames) == (1.0, 0.0, 0.0, "span")


def test_perfect_boxes_have_no_spatial_loss():
    model, batch = setup("stvg", "rec")
    output = model(batch)
    output = with_boxes(output, batch.targets.boxes)
    terms = Criterion(CriterionConfig())(output, batch)
    assert terms["l1"] == 0 and terms["giou"] < 1e-6


def test_only_frames_in_the_span_count_unless_told_otherwise():
    model, batch = setup("stvg")
    output = model(batch)
    wrong_outside = torch.where(
        batch.targets.in_span.unsqueeze(-1), batch.targets.boxes, torch.full_like(batch.targets.boxes, 0.9)
    )
    output = with_boxes(output, wrong_outside)
    assert batch.targets.in_span[0].tolist() == [False, False, True, True, True, True, False, False]
    assert Criterion(CriterionConfig())(output, batch)["l1"] == 0
    assert Criterion(CriterionConfig(box_frames="visible"))(output, batch)["l1"] > 0.1


@pytest.mark.parametrize("task", ["qa", "vtg"])
def test_a_batch_without_boxes_still_touches_every_decoder_weight(task):
    model, batch = setup(task)
    batch.targets.box_known[:] = False
    terms = Criterion(CriterionConfig(attention=1.0, pointer=1.0))(model(batch, pointer=True), batch)
    terms["loss"].backward()
    assert torch.isfinite(terms["loss"])
    for parameter in [*model.space_decoder.parameters(), *model.queries.parameters()]:
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all()


def test_the_pointer_aims_at_the_first_and_the_last_frames_cell():
    model, batch = setup("stvg")
    target = batch.targets.pointer_target[0].view(2, 8, 4)
    assert torch.allclose(target.sum((1, 2)), torch.ones(2))
    assert target[0].any(-1).nonzero().flatten().tolist() == [2]
    assert target[1].any(-1).nonzero().flatten().tolist() == [5]
    output = model(batch, pointer=True)
    assert output.pointer_logits.shape == batch.targets.pointer_target.shape
    loss = Criterion(CriterionConfig(pointer=1.0))
    blind = loss(output, batch)["pointer"]
    output = output._replace(pointer_logits=batch.targets.pointer_target.clamp(min=1e-9).log())
    assert loss(output, batch)["pointer"] < 1e-5 < blind


def test_without_boxes_the_pointer_may_look_anywhere_in_the_frame():
    model, batch = setup("vtg")
    batch.targets.box_known[:] = False
    output, loss = model(batch, pointer=True), Criterion(CriterionConfig(pointer=1.0))
    frames = batch.targets.pointer_target.view(1, 2, 8, 4).sum(-1, keepdim=True)  # (1, 2, T, 1)

    def at_cell(cell: int, frames: torch.Tensor) -> torch.Tensor:
        looks = (frames * torch.eye(4)[cell]).flatten(2)
        return loss(output._replace(pointer_logits=looks.clamp(min=1e-9).log()), batch)["pointer"]

    assert at_cell(0, frames) < 1e-5 and at_cell(3, frames) < 1e-5
    assert at_cell(0, frames.roll(1, 2)) > 10


def test_the_pointer_is_the_heads_own_attention():
    """The supervised logits, softmaxed over every position the head may read, are its attention weights."""
    model, processor = make()
    batch = Collator(processor)([clip([instance(0)])])
    model.config.text._attn_implementation = "eager"
    layer, seen = model.mllm.language_model.layers[-1].self_attn, {}
    layer.register_forward_hook(lambda _m, _a, out: seen.update(weights=out[1]))
    mask = torch.zeros(batch.tokens.attention_mask().shape).masked_fill(~batch.tokens.attention_mask(), float("-inf"))
    tokens = batch.tokens
    x, cells = model.embed(tokens.input_ids, tokens.kinds, tokens.query_ids, batch.media.pixels)
    with input_of(model.mllm.language_model.layers[-1]) as entered:
        model.read(x, tokens.position_ids, cells, tokens.kinds, attention_mask=mask)
    logits = model._pointer(batch, entered[0])[0]  # (2, T * P)
    for end in (0, 1):
        weights = seen["weights"][0, model.config.pointer_head, batch.targets.pointer_index[0, end]]
        picked = weights[batch.media.visual_index[0].flatten()]
        assert torch.allclose(logits[end].softmax(-1), picked / picked.sum(), atol=1e-5)


def test_alignment_is_zero_when_the_captions_fit_what_their_objects_cover():
    _, batch = setup("stvg", "rec")
    criterion = Criterion(CriterionConfig())
    outside = batch.media.visual_index.flatten(1) < 0
    blank = torch.zeros(outside.shape).masked_fill(outside, float("-inf"))
    blind = criterion(AlignOutput(blank, torch.full_like(batch.targets.boxes, 0.1)), batch)
    wanted = (batch.targets.cell_shares * batch.targets.in_span.unsqueeze(-1)).flatten(1)
    fitting = wanted.clamp(min=1e-12).log().masked_fill(outside, float("-inf"))
    right = criterion(AlignOutput(fitting, batch.targets.boxes), batch)
    for term in ("alignment", "l1", "giou", "loss"):
        assert right[term] < 1e-5 < blind[term], term
