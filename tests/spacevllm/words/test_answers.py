from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spacevllm.span import Span
from spacevllm.words.answers import MOST_SPANS, format_span, format_spans, number_starts, parse_span, parse_spans


@pytest.mark.parametrize(
    ("text", "begin", "end"),
    [
        ("From 24.3s to 30.4s.", 24.3, 30.4),
        ("24.3 - 30.4", 24.3, 30.4),
        ("24.3s to 30.4", 24.3, 30.4),
        ("00:24.3 to 00:30.4", 24.3, 30.4),
        ("1:02:03 – 1:02:05.5", 3723.0, 3725.5),
        ("It happens between 3 seconds and 7.25 seconds of the video", 3.0, 7.25),
        ("from 9.0s to 4.0s", 4.0, 9.0),
        ("Start: 2.5s, 6s", 2.5, 6.0),
    ],
)
def test_spans_as_people_and_models_write_them(text, begin, end):
    assert parse_span(text) == Span(begin, end)


@pytest.mark.parametrize("text", ["", "never", "at 5 seconds", "From s to s.", "3.0 to 3.0", "-", "From 1.2s to"])
def test_what_cannot_be_read_is_none(text):
    assert parse_span(text) is None


@given(st.floats(0, 5000), st.floats(0.01, 5000))
def test_round_trip_to_the_hundredth(begin, length):
    span = Span(begin, begin + length + 0.01)
    back = parse_span(format_span(span))
    assert back is not None
    assert abs(back.begin_s - span.begin_s) <= 0.00501 and abs(back.end_s - span.end_s) <= 0.00501


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("From 1.00s to 2.00s; from 5.00s to 6.00s.", [(1, 2), (5, 6)]),
        ("From 5s to 6s. From 1s to 2s.", [(5, 6), (1, 2)]),  # the first that is written is the answer
        ("1s - 2s, 5s - 6s and 8s - 9s", [(1, 2), (5, 6), (8, 9)]),
        ("From 1s to 2s; from 2s to 1s; from 1s to 2s; from 1.5s to 3s.", [(1, 2), (1.5, 3)]),
        ("From 1s to 2s; from 5s to 5s; from 8s to 9s.", [(1, 2), (8, 9)]),
        ("From 5s to 5s; from 8s to 9s.", []),
        ("From 1s to 2s; from 5s to", [(1, 2)]),
        ("never", []),
    ],
)
def test_several_spans(text, spans):
    assert parse_spans(text) == [Span(*span) for span in spans]
    assert parse_span(text) == (Span(*spans[0]) if spans else None)


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(1, 500)), min_size=1, max_size=MOST_SPANS, unique=True))
def test_several_spans_round_trip(numbers):
    spans = [Span(begin / 4, (begin + length) / 4) for begin, length in numbers]
    assert parse_spans(format_spans(spans)) == spans


def test_an_endless_answer_ends():
    assert len(parse_spans("; ".join(f"from {n}s to {n + 1}s" for n in range(1000)))) == MOST_SPANS


@given(st.text())
def test_no_text_raises(text):
    span = parse_span(text)
    assert span is None or span.begin_s < span.end_s


def test_number_starts():
    assert len(number_starts("From 2.00s to 15.50s; from 20.00s to 21.00s.")) == 4
    assert [("From 2.00s to 15.50s."[i:]) for i in number_starts("From 2.00s to 15.50s.")] == [
        "2.00s to 15.50s.",
        "15.50s.",
    ]
