"""Whether it is there: what the head reads, learns and says, alone and behind a prefilled video."""

from __future__ import annotations

import pytest
import torch
from tiny import absent, clip, instance, make, text_clip

from spacevllm.model.collate import Collator
from spacevllm.model.criterion import Criterion, CriterionConfig
from spacevllm.model.memory import ask, prefill
from spacevllm.model.presence_head import PresenceHead, video_logit
from spacevllm.model.processing import Question

ONLY_PRESENCE = Criterion(CriterionConfig(presence=1.0, lm=0, l1=0, giou=0))


def model_and_batch(*samples, **fields):
    model, processor = make(presence_head=True, **fields)
    return model, Collator(processor)(samples)


def test_padding_of_a_caption_changes_nothing():
    head, states, caption = PresenceHead(6, 8), torch.randn(2, 3, 6), torch.randn(2, 4, 6)
    real = torch.tensor([[True] * 4, [True, True, False, False]])
    logits = head(states, caption, real)
    assert logits.shape == (2, 3)
    assert torch.allclose(logits[1:], head(states[1:], caption[1:, :2], real[1:, :2]))


def test_padding_frames_say_nothing_about_a_video():
    frames, seen = torch.tensor([[1.0, 2.0, 9.0]]), torch.tensor([[True, True, False]])
    assert torch.allclose(video_logit(frames, seen), frames[:, :2].logsumexp(-1))


def test_what_is_there_and_what_is_not_are_learned_frame_by_frame():
    model, batch = model_and_batch(clip([instance(0), absent(1)]))
    assert batch.targets.in_span.tolist() == [[False, False, True, True, True, True, False, False], [False] * 8]
    model.requires_grad_(False).presence_head.requires_grad_(True)
    optimizer = torch.optim.Adam(model.presence_head.parameters(), 1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        ONLY_PRESENCE(model(batch), batch)["loss"].backward()
        optimizer.step()
    space = model(batch).space
    assert ((space.presence_logits > 0) == batch.targets.in_span).all()
    assert (video_logit(space.presence_logits, torch.ones(2, 8, dtype=torch.bool)) > 0).tolist() == [True, False]


def test_only_questions_about_a_time_are_counted():
    samples = clip([instance(0), absent(1), instance(2, "vtg"), instance(0, "qa")]), clip([instance(0, "rec")], 1)
    _, batch = model_and_batch(*samples, text_clip(0))
    assert ONLY_PRESENCE.counts(batch)["presence"].sum() == 3


def test_a_batch_without_such_questions_still_touches_the_head():
    model, batch = model_and_batch(clip([instance(0, "qa")]))
    terms = ONLY_PRESENCE(model(batch), batch)
    terms["loss"].backward()
    assert terms["presence"] == 0
    assert all(p.grad is not None for p in model.presence_head.parameters())


def test_a_memory_is_asked_with_the_same_result():
    model, batch = model_and_batch(sample := clip([instance(0), absent(1)]))
    processor = make()[1]
    prefix = processor.video_prefix(sample.times_s.tolist(), sample.duration_s, (2, 2))
    memory = prefill(model, prefix, processor.pixels(sample.frames))
    asked = [processor.segment(Question("stvg", one.question)) for one in sample.instances]
    with torch.no_grad():
        logits = model(batch).space.presence_logits
    expected = video_logit(logits, torch.ones_like(logits, dtype=torch.bool)).sigmoid()
    answers = ask(model, memory, asked, -1, 2)
    assert [answer.presence for answer in answers] == pytest.approx(expected.tolist(), abs=1e-4)


def test_a_model_without_a_head_is_the_papers():
    model, processor = make()
    batch = Collator(processor)([clip([instance(0)])])
    assert model.presence_head is None and model(batch).space.presence_logits is None
    with pytest.raises(ValueError, match="needs a presence head"):
        ONLY_PRESENCE(model(batch), batch)


def test_boxes_as_text_have_no_queries_to_read():
    with pytest.raises(ValueError, match="text_coordinates has none"):
        make(presence_head=True, space_head="text_coordinates")
