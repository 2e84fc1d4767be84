"""Wordings: every one asks, every answer reads back, and the tiny model keeps its only one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import clip, instance, make

from spacevllm.data.instance import TASKS, TrueTube
from spacevllm.model.collate import Collator
from spacevllm.model.processing import Question
from spacevllm.span import Span
from spacevllm.words.answers import format_span, number_starts, parse_span, parse_spans
from spacevllm.words.instructions import WORDINGS, answer_text, choose_wording

SPAN_FORMS = sorted({wording.span for task in ("stvg", "vtg") for wording in WORDINGS[task]})
FIRST = {
    "stvg": "When and where: {question}",
    "vtg": "When: {question}",
    "rec": "Where: {question}",
    "qa": "{question}",
}


def test_every_wording_asks_once():
    for task in TASKS:
        assert choose_wording(task).ask == FIRST[task]
    for wordings in WORDINGS.values():
        assert len({wording.ask for wording in wordings}) == len(wordings) in (1, 20)
        assert all(wording.ask.count("{question}") == 1 for wording in wordings)


@pytest.mark.parametrize("form", SPAN_FORMS)
@given(st.floats(0, 5000), st.floats(0.01, 5000))
def test_every_form_of_a_span_reads_back(form, begin, length):
    span = Span(begin, begin + length + 0.01)
    text = format_span(span, form)
    back = parse_span(text)
    assert back is not None
    assert abs(back.begin_s - span.begin_s) <= 0.00501 and abs(back.end_s - span.end_s) <= 0.00501
    assert [text[i:].split("s")[0] for i in number_starts(text)] == [f"{span.begin_s:.2f}", f"{span.end_s:.2f}"]


@pytest.mark.parametrize("form", SPAN_FORMS)
def test_all_spans_of_the_first_thing_are_written_in_order_of_time(form):
    more = [TrueTube(0, 6.0, 6.5), TrueTube(1, 1.0, 2.0, boxes=[[0.0, 0.0, 9.0, 9.0]], box_frames=[9])]
    text = answer_text(replace(instance(0), more=[*more, TrueTube(0, 0.5, 1.0)]), span_form=form)
    assert parse_spans(text) == [Span(0.5, 1.0), Span(2.0, 5.0), Span(6.0, 6.5)]
    assert text.endswith(".") == form.endswith(".")


@given(st.text(min_size=1))
def test_a_key_always_picks_the_same(key):
    assert choose_wording("stvg", key=key) is choose_wording("stvg", key=key)


def test_keys_spread_over_all_wordings():
    for task in ("stvg", "vtg", "rec"):
        assert {choose_wording(task, key=f"{task}-{i}") for i in range(400)} == set(WORDINGS[task])


@pytest.mark.parametrize("wordings", ["one", "many"])
@pytest.mark.parametrize("task", ["stvg", "vtg", "rec", "qa"])
def test_training_words_a_question_by_its_instance(task, wordings):
    _, processor = make(wordings=wordings)
    asked = [instance(k, task) for k in range(40)]
    row = Collator(processor)([clip(asked)]).tokens
    texts = set()
    for k, one in enumerate(asked):
        words = processor.wording(Question(task, one.question, one.options, one.id))
        start = row.prefix_length + k * row.segment_length
        ids = row.input_ids[0, start : start + row.segment_length][
            row.segments[0, start : start + row.segment_length] >= 0
        ]
        text = processor.tokenizer.decode(ids)
        before, after = words.ask.split("{question}")
        assert text.startswith(f"{before}{one.question}{after}")
        assert answer_text(one, span_form=words.span) in text
        texts.add(words)
    assert (len(texts) > 10) == (wordings == "many")


def test_answering_has_one_wording():
    _, processor = make(wordings="many")
    for task in ("stvg", "vtg", "rec"):
        assert processor.wording(Question(task, "the dog")).ask == FIRST[task]


def test_a_span_past_the_end_is_answered_to_the_end():
    video = {
        "end_frame": None,
        "begin_frame": None,
        "num_frames": 0,
        "duration_s": 30.1,
        "begin_s": 24.3,
        "end_s": 30.4,
    }
    past = instance(0, "vtg").from_row(instance(0, "vtg").to_row() | video)
    assert answer_text(past) == "From 24.30s to 30.10s."
