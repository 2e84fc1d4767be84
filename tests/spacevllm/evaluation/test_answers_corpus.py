from __future__ import annotations

import subprocess
import sys

import pytest
from answers_corpus import SPANS

from spacevllm.span import Span
from spacevllm.words.answers import parse_span


@pytest.mark.parametrize(("answer", "expected"), SPANS)
def test_spans_of_the_corpus(answer, expected):
    assert parse_span(answer) == (Span(*expected) if expected else None)


def test_reading_answers_needs_no_torch():
    script = "import sys, spacevllm.words.answers, spacevllm.evaluation.predictions; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)
