"""Questions that share a video's prefix answer as if each stood alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from tiny import BACKBONES, clip, instance, make, text_clip

from spacevllm.data.instance import TrueTube
from spacevllm.model.attention import SHARED_PREFIX
from spacevllm.model.backbones.base import Pixels
from spacevllm.model.collate import Collator, frame_targets
from spacevllm.model.criterion import Criterion, CriterionConfig
from spacevllm.model.prompt import Kind

CRITERION = Criterion(CriterionConfig(attention=1.0, pointer=1.0, box_frames="visible"))


def grads(model):
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_shared_prefix_kernel_equals_the_block_diagonal_mask(backbone):
    model, processor = make(backbone=backbone)
    batch = Collator(processor)([clip([instance(k) for k in range(n)], n) for n in (1, 3, 2)])
    structured = model(batch, pointer=True)
    model.config.text._attn_implementation = "sdpa"
    masked = model(batch, pointer=True)
    model.config.text._attn_implementation = SHARED_PREFIX
    assert torch.allclose(structured.logits, masked.logits, atol=1e-5)
    assert torch.allclose(structured.space.boxes, masked.space.boxes, atol=1e-6)
    assert torch.allclose(structured.pointer_logits, masked.pointer_logits, atol=1e-5)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_k_questions_behind_one_video_give_the_loss_and_gradient_of_k_rows(backbone):
    model, processor = make(backbone=backbone)
    questions = [instance(k) for k in range(3)]
    together = Collator(processor)([clip(questions)])
    apart = Collator(processor)([clip([q]) for q in questions])
    assert together.tokens.input_ids.shape[0] == 1 and apart.tokens.input_ids.shape[0] == 3
    assert (together.tokens.segments >= 0).sum() < 0.7 * (apart.tokens.segments >= 0).sum()
    losses, gradients = [], []
    for batch in (together, apart):
        model.zero_grad()
        loss = CRITERION(model(batch, pointer=True), batch)["loss"]
        loss.backward()
        losses.append(loss.detach())
        gradients.append(grads(model))
    assert torch.allclose(losses[0], losses[1], atol=1e-5)
    assert torch.allclose(gradients[0], gradients[1], atol=1e-4)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_question_reads_nothing_of_its_neighbours(backbone):
    model, processor = make(backbone=backbone)
    first, other = instance(0), instance(1)
    changed = instance(1, question="a quite different sentence of words")
    outputs = [model(Collator(processor)([clip([first, q])])) for q in (other, changed)]
    assert torch.allclose(outputs[0].space.boxes[0], outputs[1].space.boxes[0], atol=1e-6)  # padding differs
    assert not torch.allclose(outputs[0].space.boxes[1], outputs[1].space.boxes[1], atol=1e-3)


def test_the_query_stands_right_after_its_frames_tokens():
    _, processor = make()
    batch = Collator(processor)([clip([instance(0)])])
    kinds = batch.tokens.kinds[0].tolist()
    for frame in range(8):
        query = int(batch.media.query_index[0, frame])
        assert kinds[query] == Kind.QUERY and kinds[query - 1] == Kind.SEPARATOR
        cells = batch.media.visual_index[0, frame].tolist()
        assert cells == sorted(cells) and cells[-1] == query - 2
    assert batch.tokens.query_ids.tolist() == list(range(8))


def test_an_image_takes_query_64():
    _, processor = make()
    batch = Collator(processor)([clip([instance(0, "rec")])])
    assert batch.tokens.query_ids.tolist() == [64]
    pixels = batch.media.pixels
    assert pixels.values.shape == (1, 9, 32, 32) and pixels.is_image.tolist() == [True]
    assert batch.targets.in_span.all()


def test_images_keep_all_cells_unless_told_to_pool_them():
    for pooling, cells in ((True, 4), (False, 16)):
        model, processor = make(image_pooling=pooling)
        batch = Collator(processor)([clip([instance(0, "rec")]), clip([instance(1)])])
        assert (batch.media.visual_index[0] >= 0).sum() == cells
        loss = CRITERION(model(batch, pointer=True), batch)["loss"]
        assert torch.isfinite(loss)


def test_text_tasks_see_no_queries_in_the_papers_setting():
    _, processor = make(queries_in_text_tasks=False)
    batch = Collator(processor)([clip([instance(0), instance(0, "qa")])])
    assert batch.tokens.input_ids.shape[0] == 2
    assert (batch.tokens.kinds == Kind.QUERY).sum(1).tolist() == [8, 0]


def test_text_alone_answers_as_beside_a_video_and_touches_every_weight():
    """Without a gradient, if only of 0, for every weight, other ranks would wait for it for ever."""
    model, processor = make()
    collate = Collator(processor)
    alone, beside = collate([text_clip(0)]), collate([clip([instance(0)]), text_clip(0)])
    assert len(alone.media.pixels) == 0 and (alone.tokens.kinds == Kind.TEXT).all()
    output = model(alone, pointer=True)
    answer = beside.targets.tasks[beside.tokens.question_row] == alone.targets.tasks[0]
    learned = (beside.tokens.labels[:, 1:] >= 0).sum(1)
    assert answer.tolist() == [False, True] and torch.allclose(
        output.logits, model(beside, pointer=True).logits[learned[0] :], atol=1e-5
    )
    loss = CRITERION(output, alone)
    assert loss["lm"] > 0 and loss["l1"] == loss["giou"] == loss["pointer"] == 0
    loss["loss"].backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == without_gradient_of_a_video()


def without_gradient_of_a_video():
    """Weights that no batch ever uses, such as the tower's last layers."""
    other, processor = make()
    batch = Collator(processor)([clip([instance(0)]), clip([instance(0, "rec")])])
    CRITERION(other(batch, pointer=True), batch)["loss"].backward()
    return [name for name, p in other.named_parameters() if p.grad is None]


@pytest.mark.parametrize("encoding", ["list", "interleaved"])
def test_times_stand_in_the_instruction_or_beside_the_frames(encoding):
    _, processor = make(time_encoding=encoding)
    prefix = processor.video_prefix([0.0, 1.5], 2.0, (2, 2))
    text = [t for t, k in zip(prefix.ids, prefix.kinds, strict=True) if k == Kind.TEXT]
    decoded = processor.tokenizer.decode(text)
    assert decoded.count("1.50s") == 1
    assert ("located at 0.00s,1.50s." in decoded) == (encoding == "list")
    assert "The video lasts for 2.00 seconds, and 2 frames are uniformly sampled from it." in decoded


def test_labels_are_the_answer_and_nothing_else():
    _, processor = make()
    batch = Collator(processor, time_weight=3.0)([clip([instance(0)])])
    learned = batch.tokens.input_ids[0][batch.tokens.labels[0] >= 0]
    assert processor.tokenizer.decode(learned) == "From 2.00s to 5.00s.<|im_end|>"
    heavy = batch.tokens.input_ids[0][batch.tokens.label_weights[0] == 3.0]
    assert processor.tokenizer.decode(heavy).replace(" ", "") == "2.005.00"


def test_places_and_vectors_must_match():
    model, processor = make()
    batch = Collator(processor)([clip([instance(0)])])
    with pytest.raises(ValueError, match="places for"):
        tokens, pixels = batch.tokens, batch.media.pixels
        few = Pixels(pixels.values[:4], pixels.grids[:4], pixels.is_image[:4])
        model.embed(tokens.input_ids, tokens.kinds, tokens.query_ids, few)


def test_sparse_boxes_are_linear_inside_the_span_and_unknown_outside_it():
    sparse = dataclasses.replace(instance(0), box_frames=[16, 39], boxes=[[0, 0, 40, 60], [46, 0, 86, 60]])
    boxes, known, in_span = frame_targets(sparse, np.arange(8) * 8, np.arange(8.0))
    assert known.tolist() == [False, False, True, True, True, False, False, False]
    assert in_span.tolist() == [False, False, True, True, True, True, False, False]
    assert np.allclose(boxes[3], [(16 + 20) / 160, 0.25, 0.25, 0.5])  # 8 of 23 frames of the way: 16 pixels


def test_all_spans_of_the_first_thing_are_in_span_and_weighted_and_the_first_one_is_pointed_at():
    _, processor = make()
    far = {"box_frames": [0], "boxes": [[0.0, 0.0, 9.0, 9.0]]}
    more = [TrueTube(1, 0.0, 1.0, 0, 8, **far), TrueTube(0, 5.0, 6.0)]
    asked = dataclasses.replace(instance(0), end_s=3.0, end_frame=24, more=more)
    batch = Collator(processor, time_weight=3.0)([clip([asked])])
    assert batch.targets.in_span[0].tolist() == [False, False, True, True, False, True, True, False]
    assert np.allclose(batch.targets.boxes[0, :, 0] * 160, 30 + np.arange(8) * 8)  # the first thing's
    weighted = processor.tokenizer.decode(batch.tokens.input_ids[0, batch.tokens.label_weights[0] == 3])
    assert weighted.replace(" ", "") == "2.003.005.006.00"
    target = batch.targets.pointer_target[0].reshape(2, 8, -1).sum(-1)
    assert target.argmax(-1).tolist() == [2, 3]
