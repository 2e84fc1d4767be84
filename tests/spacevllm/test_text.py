"""Names and questions of others, harmless in a terminal and in a spreadsheet."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from spacevllm.text import from_cell, printable, to_cell


def test_a_terminal_is_told_nothing():
    assert printable("a\x1b[31mred\x9b2J\x07\u202e.mp4\r") == r"a\u001b[31mred\u009b2J\u0007\u202e.mp4\r"
    assert printable("two\nlines\tx", keep="\n") == "two\nlines\\tx"
    for text in ("où là → 中文 🎬", "no-break\u202fspace", ""):
        assert printable(text) == text
    assert printable("caf\udce9").isprintable()  # a name that is no UTF-8 can be written


@given(st.text())
def test_json_stays_json(text):
    assert json.loads(printable(json.dumps(text, ensure_ascii=False))) == text


@given(st.text() | st.from_regex(r"\A'*[=+\-@\t\r].*\Z"))
def test_cells_come_back_and_are_no_formulas(text):
    assert from_cell(to_cell(text)) == text
    assert not to_cell(text).startswith(("=", "+", "-", "@", "\t", "\r"))


def test_only_what_begins_like_a_formula_is_changed():
    assert to_cell("=HYPERLINK(1)") == "'=HYPERLINK(1)" and to_cell("who's there - a dog?") == "who's there - a dog?"
