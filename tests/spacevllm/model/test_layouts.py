"""The prompt's unknowns as configuration: question before or after the video, queries between or behind the frames,
boxes from queries or as text."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import clip, instance, make

from spacevllm.model.collate import Collator
from spacevllm.model.criterion import Criterion, CriterionConfig
from spacevllm.model.memory import ask, prefill
from spacevllm.model.processing import Question
from spacevllm.model.prompt import Kind
from spacevllm.predictor import spread_boxes
from spacevllm.span import Span
from spacevllm.words.answers import parse_boxes, parse_span

LAYOUTS = [
    {"prompt_order": "caption_first"},
    {"query_layout": "appended"},
    {"space_head": "text_coordinates"},
    {"prompt_order": "caption_first", "query_layout": "appended", "time_encoding": "list", "tower_frames": 1},
]


def query_states(model, processor, question):
    """(T, D) of ``<r_i>`` for one question about one clip."""
    sample = clip([instance(0)])
    prefix = processor.video_prefix(
        sample.times_s.tolist(), sample.duration_s, (2, 2), question=Question("stvg", question)
    )
    return prefill(model, prefix, processor.pixels(sample.frames)).query


@pytest.mark.parametrize(("order", "sees"), [("video_first", False), ("caption_first", True)])
def test_queries_see_the_caption_only_if_it_comes_first(order, sees):
    model, processor = make(prompt_order=order)
    one, two = query_states(model, processor, "the red circle"), query_states(model, processor, "a red square")
    assert torch.allclose(one, two, atol=1e-5) != sees


def test_appended_queries_stand_behind_the_last_frame():
    _, processor = make(query_layout="appended")
    batch = Collator(processor)([clip([instance(0)])])
    queries = batch.media.query_index[0].tolist()
    assert queries == list(range(queries[0], queries[0] + 8))
    assert queries[0] > batch.media.visual_index.max() and batch.tokens.query_ids.tolist() == list(range(8))


@pytest.mark.parametrize("fields", LAYOUTS)
def test_every_layout_learns_every_task_and_answers_as_it_was_trained(fields):
    """One pass over question and answer, as in training, and prefill + ask read the same states."""
    model, processor = make(**fields)
    sample = clip([instance(0), instance(1), instance(0, "vtg"), instance(0, "qa")])
    batch = Collator(processor)([sample, clip([instance(0, "rec")])])
    output = model(batch, pointer=True)
    loss = Criterion(CriterionConfig(attention=1.0, pointer=1.0))(output, batch)["loss"]
    loss.backward()
    assert torch.isfinite(loss)
    question = Question("stvg", sample.instances[1].question)
    with_queries = model.config.has_queries("stvg")
    prefix = processor.video_prefix(sample.times_s.tolist(), sample.duration_s, (2, 2), with_queries, question)
    memory = prefill(model, prefix, processor.pixels(sample.frames))
    [answer] = ask(model, memory, [processor.segment(question)], processor.end_of_turn, 2)
    alone = model(Collator(processor)([clip([sample.instances[1]])]))
    assert answer.tokens[0] == alone.logits[0].argmax()
    if with_queries:
        assert torch.allclose(answer.boxes, alone.space.boxes[0], atol=1e-4)
    else:
        assert answer.boxes is None


def test_boxes_as_text_are_those_of_the_sampled_frames_in_the_span():
    _, processor = make(space_head="text_coordinates")
    batch = Collator(processor)([clip([instance(0)])])
    assert not (batch.tokens.kinds == Kind.QUERY).any()
    text = processor.tokenizer.decode(batch.tokens.input_ids[0][batch.tokens.labels[0] >= 0], skip_special_tokens=True)
    assert parse_span(text) == Span(2.0, 5.0)
    expected = np.array([[10 + f, 20, 50 + f, 80] for f in (16, 24, 32, 40)]) / [160, 120, 160, 120]
    assert np.allclose(parse_boxes(text), expected, atol=0.0051)


def test_written_boxes_are_spread_over_the_sampled_frames():
    boxes = np.array([[0.1, 0.1, 0.2, 0.2], [0.3, 0.3, 0.4, 0.4], [0.5, 0.5, 0.6, 0.6]], np.float32)
    assert np.allclose(spread_boxes(boxes, [2, 3, 4], 6)[:, 0], [0.1, 0.1, 0.1, 0.3, 0.5, 0.5])
    assert np.allclose(spread_boxes(boxes, [2, 3], 6)[:, 0], [0.1, 0.1, 0.1, 0.3, 0.3, 0.3])  # one too many
    assert np.allclose(spread_boxes(boxes[:1], range(6), 6)[:, 0], 0.1)
    assert not spread_boxes(boxes[:0], range(6), 6).any()


@pytest.mark.parametrize(
    ("text", "count"),
    [("From 1.00s to 2.00s. [1,2,3,4][5,6,7,8]", 2), ("[1,2,3,4][5,6,", 1), ("[1,2,3]", 0), ("no box", 0), ("", 0)],
)
def test_boxes_are_read_and_what_is_cut_short_is_not(text, count):
    assert parse_boxes(text).shape == (count, 4)


def test_numbers_in_boxes_are_no_span():
    assert parse_span("[12,30,45,67]") is None
    assert parse_span("From 1.00s to 2.00s. [12,30,45,67]") == Span(1.0, 2.0)
