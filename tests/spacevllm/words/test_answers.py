from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spacevllm.span import Span
from spacevllm.words.answers import format_span, number_starts, parse_span


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


@given(st.text())
def test_no_text_raises(text):
    span = parse_span(text)
    assert span is None or span.begin_s < span.end_s


def test_number_starts():
    assert [("From 2.00s to 15.50s."[i:]) for i in number_starts("From 2.00s to 15.50s.")] == [
        "2.00s to 15.50s.",
        "15.50s.",
    ]
