"""Every question of TempCompass's files: the right option is understood however it is said, no wrong one is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from spacevllm.data.sources.base import SourceFiles
from spacevllm.evaluation.annotations.tempcompass import judging, read
from spacevllm.evaluation.fixtures import write_fixture
from spacevllm.evaluation.multiple_choice import parse_choice
from spacevllm.evaluation.scoring import score

SHARED = Path(os.environ.get("SPACEVLLM_SHARED_DATA", Path(__file__).parents[3].parent / "shared" / "data"))
REAL = SHARED / "annotations/tempcompass"


@pytest.fixture(params=["stand-in", "real"])
def folder(request, tmp_path):
    if request.param == "stand-in":
        return write_fixture("tempcompass", tmp_path, 3) / "questions"
    if not REAL.is_dir():
        pytest.skip("the real annotations are not here")
    return REAL


def said(question, index):
    """How models say option ``index``, by kind of question."""
    option, letter = question.options[index], "ABCD"[index]
    if question.sentence_type == "yes_no":
        word = option.title()
        return [option, f"{word}.", f"{word}, it is.", f"The answer is {option}.", f"<b>{option}</b>"]
    lettered = [letter, f"({letter})", f"Answer: {letter}", f"Best answer: ({letter})", f"The answer is {letter}."]
    if question.sentence_type == "caption_matching":
        label = option.split(":")[0]  # Option 1, Sentence A, Caption B
        return [option, label, f"{label}.", f"The answer is {label}.", option.split(": ", 1)[1], f"**{option}**"]
    return [*lettered, option, f"{letter}. {option}", f"({letter}) {option}", f"Answer: {letter}. {option}"]


def test_right_and_wrong_options_are_told_apart(folder):
    questions = [q for q in read(SourceFiles(folder)) if q.sentence_type != "captioning"]
    assert {q.sentence_type for q in questions} == {"multi-choice", "yes_no", "caption_matching"}
    misread = [
        (text, question.options, question.options[index])
        for question in questions
        for index in range(len(question.options))
        for text in said(question, index)
        if parse_choice(text, question.options) != index
    ]
    assert not misread, f"{len(misread)}: {misread[:3]}"
    right = {q.id: said(q, q.options.index(q.answer))[0] for q in questions}
    wrong = {q.id: said(q, (q.options.index(q.answer) + 1) % len(q.options))[0] for q in questions}
    assert all(row["correct"] == 1 for row in score(questions, right))
    assert all(row["correct"] == 0 and row["status"] == "ok" for row in score(questions, wrong))


def test_every_caption_has_the_question_that_judges_it(folder):
    instances = list(read(SourceFiles(folder)))
    captions = [i for i in instances if i.sentence_type == "captioning"]
    questions = judging(folder, instances)
    assert captions and set(questions) == {caption.id for caption in captions}
    assert all(question.answer in question.options for question in questions.values())
