from __future__ import annotations

import math

import pytest
import torch
from tiny import clip, instance, make

from spacevllm.data.collate import Collator, box_cells
from spacevllm.model.criterion import Criterion, CriterionConfig


def setup(*tasks: str, **fields):
    model, processor = make(**fields)
    batch = Collator(processor)([clip([instance(k, task)]) for k, task in enumerate(tasks)])
    return model, batch


def test_box_cells():
    boxes = torch.tensor([[0.1, 0.1, 0, 0], [0.9, 0.1, 0, 0], [0.3, 0.6, 0, 0], [1.0, 1.0, 0, 0]])
    assert box_cells(boxes, torch.full((4,), 16)).tolist() == [0, 3, 9, 15]
    assert box_cells(boxes, torch.tensor([4, 4, 4, 16])).tolist() == [0, 1, 2, 15]


def test_the_papers_recipe_is_the_default():
    config = CriterionConfig()
    assert (config.lm, config.attention, config.pointer, config.box_frames) == (1.0, 0.0, 0.0, "span")


def test_perfect_boxes_have_no_spatial_loss():
    model, batch = setup("stvg", "rec")
    output = model(batch)
    output.space.boxes = batch.boxes.clone()
    terms = Criterion(CriterionConfig())(output, batch)
    assert terms["l1"] == 0 and terms["giou"] < 1e-6


def test_only_frames_in_the_span_count_unless_told_otherwise():
    model, batch = setup("stvg")
    output = model(batch)
    output.space.boxes = torch.where(batch.in_span.unsqueeze(-1), batch.boxes, torch.full_like(batch.boxes, 0.9))
    assert batch.in_span[0].tolist() == [False, False, True, True, True, True, False, False]
    assert Criterion(CriterionConfig())(output, batch)["l1"] == 0
    assert Criterion(CriterionConfig(box_frames="visible"))(output, batch)["l1"] > 0.1


@pytest.mark.parametrize("task", ["qa", "vtg"])
def test_a_batch_without_boxes_still_touches_every_decoder_weight(task):
    model, batch = setup(task)
    batch.box_known[:] = False
    terms = Criterion(CriterionConfig(attention=1.0, pointer=1.0))(model(batch, pointer=True), batch)
    terms["loss"].backward()
    assert torch.isfinite(terms["loss"])
    for parameter in [*model.space_decoder.parameters(), *model.queries.parameters()]:
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all()


def test_the_pointer_aims_at_the_first_and_the_last_frames_cell():
    model, batch = setup("stvg")
    target = batch.pointer_target[0].view(2, 8, 4)
    assert target.sum((1, 2)).tolist() == [1, 1]
    assert target[0].any(-1).nonzero().flatten().tolist() == [2]
    assert target[1].any(-1).nonzero().flatten().tolist() == [5]
    output = model(batch, pointer=True)
    sure = torch.where(batch.pointer_target, 50.0, 0.0)
    assert output.pointer_logits.shape == sure.shape
    output.pointer_logits = sure
    assert Criterion(CriterionConfig(pointer=1.0))(output, batch)["pointer"] < 1e-6


def test_the_pointer_is_the_heads_own_attention():
    """The supervised logits, softmaxed over every position the head may read, are its attention weights."""
    model, processor = make()
    batch = Collator(processor)([clip([instance(0)])])
    model.config.text_config._attn_implementation = "eager"
    layer, seen = model.model.language_model.layers[-1].self_attn, {}
    layer.register_forward_hook(lambda _m, _a, out: seen.update(weights=out[1]))
    mask = torch.zeros(batch.attention_mask().shape).masked_fill(~batch.attention_mask(), float("-inf"))
    embeds = model.embed(batch.input_ids, batch.kinds, batch.query_ids, batch.video_pixels, batch.image_pixels)
    out = model.model.language_model(
        inputs_embeds=embeds, attention_mask=mask, position_ids=batch.position_ids, output_hidden_states=True
    )
    logits = model._pointer(batch, out.hidden_states[-2])[0]  # (2, T * P)
    for end in (0, 1):
        weights = seen["weights"][0, model.config.pointer_head, batch.pointer_index[0, end]]
        picked = weights[batch.visual_index[0].flatten()]
        assert torch.allclose(logits[end].softmax(-1), picked / picked.sum(), atol=1e-5)


def test_alignment_is_zero_when_only_true_cells_fit():
    _, batch = setup("stvg", "rec")
    criterion = Criterion(CriterionConfig())
    count, frames = batch.box_known.shape
    cells = batch.visual_index.shape[-1]
    logits = torch.zeros(count, frames * cells).masked_fill(batch.visual_index.flatten(1) < 0, float("-inf"))
    blind = criterion.alignment(logits, batch)["loss"]
    assert math.isclose(blind, (math.log(32 / 4) + math.log(4 / 1)) / 2, rel_tol=1e-5)
    truth = box_cells(batch.boxes.flatten(0, 1), torch.full((count * frames,), cells)).view(count, frames)
    sure = torch.zeros(count, frames, cells).scatter(2, truth.unsqueeze(-1), 50.0)
    sure = sure * (batch.in_span & batch.box_known).unsqueeze(-1)
    assert criterion.alignment(sure.flatten(1) + logits, batch)["loss"] < 1e-5
