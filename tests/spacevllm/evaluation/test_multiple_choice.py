from __future__ import annotations

import pytest
from answers_corpus import LETTERS, MATCHES, MATCHING, SCENES, YES_NO
from hypothesis import given, settings
from hypothesis import strategies as st

from spacevllm.evaluation.multiple_choice import parse_choice

COLOURS = ["red", "green", "dark green", "blue"]
ACTS = ["A man runs", "The man sits down", "The woman waves", "Nobody moves"]


@pytest.mark.parametrize(
    "answer",
    [
        "C", "c", "(C)", "C.", "C)", "(C).", "[C]", " C \n", "**C**", "<answer>C</answer>", "`C`",
        "C. dark green", "(C) dark green", "C: dark green", "C - dark green", "C\nIt is dark.", "C, I think",
        "C because the leaves are dark", "Option C", "Option (C).",
        "Answer: C", "answer: c", "My answers: C", "Answer: (C)",
        "Best answer: C", "Best answer: (C) dark green", "Best Option: (C)",
        "The answer is C.", "The answer is (C).", "The correct answer is option C.", "The best answer is: C",
        "Let me think. A tree is rarely red. So the answer is C.", "I would say (C) fits best.",
        "dark green", "Dark green.", "The leaves are dark green.", "It is 'dark green'", "dark green, like moss",
    ],
)  # fmt: skip
def test_every_way_to_say_the_third(answer):
    assert parse_choice(answer, COLOURS) == 2


@pytest.mark.parametrize(
    "answer",
    ["", "   ", "Answer", "Answer:", "The answer is a colour.", "An animal", "E", "(Z)", "?", "A or B, (A) or (B)",
     "red and blue", "reddish", "I cannot tell.", "The answer is A or B.", "Answer: A. Answer: B."],
)  # fmt: skip
def test_what_cannot_be_told_is_none(answer):
    assert parse_choice(answer, COLOURS) is None


@pytest.mark.parametrize(
    ("answer", "index"),
    [
        ("A man runs", 0),
        ("A man runs.", 0),
        ("The man sits down", 1),
        ("A woman is there. The woman waves.", 2),  # the article A is no answer
        ("The answer is the woman waves", 2),
        ("A man sits", None),
        ("A", 0),
    ],
)
def test_sentences_as_options(answer, index):
    assert parse_choice(answer, ACTS) == index


@pytest.mark.parametrize(
    ("answer", "options", "index"),
    [
        ("Yes, it does.", ["yes", "no"], 0),
        ("No.", ["yes", "no"], 1),
        ("No, yes is wrong", ["yes", "no"], 1),
        ("2", ["12", "2", "22"], 1),
        ("There are 12 of them", ["12", "2", "22"], 0),
        ("D minor", ["C major", "D minor"], 1),  # a text that begins like a letter
        ("red", ["(A) blue", "(B) red"], 1),
        ("Apples", ["A. Apples.", "B. Pears."], 0),
        ("the dog's ball", ["the dogs ball", "the cat"], 0),
        ("same", ["same", "same"], None),
        ("red", [], None),
    ],
)
def test_other_options(answer, options, index):
    assert parse_choice(answer, options) == index


@pytest.mark.parametrize(("answer", "letter"), LETTERS)
def test_letters_of_the_corpus(answer, letter):
    assert parse_choice(answer, SCENES) == ("ABCD".index(letter) if letter else None)
    labelled = [f"{'ABCD'[i]}. {scene}" for i, scene in enumerate(SCENES)]
    assert parse_choice(answer, labelled) == ("ABCD".index(letter) if letter else None)


@pytest.mark.parametrize(("answer", "word"), YES_NO)
def test_yes_and_no_of_the_corpus(answer, word):
    assert parse_choice(answer, ["yes", "no"]) == (["yes", "no"].index(word) if word else None)


@pytest.mark.parametrize(("kind", "answer", "index"), MATCHES)
def test_labelled_options_of_the_corpus(kind, answer, index):
    assert parse_choice(answer, MATCHING[kind]) == index


@settings(deadline=None)
@given(st.text(max_size=60), st.lists(st.text(max_size=10), max_size=5))
def test_any_text_gives_an_option_or_none(answer, options):
    index = parse_choice(answer, options)
    assert index is None or 0 <= index < len(options)


@settings(deadline=None)
@given(st.integers(0, 3), st.sampled_from(["{}", "({})", "Answer: {}", "Best answer: {}", "The answer is {}."]))
def test_letters_round_trip(index, template):
    assert parse_choice(template.format("ABCD"[index]), COLOURS) == index
