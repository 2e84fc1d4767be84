"""What has to hold for every benchmark, from prediction lines to its table of scores."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spacevllm.data.sources.base import SourceFiles
from spacevllm.evaluation.benchmarks import BENCHMARKS, read_queries, score_benchmark
from spacevllm.evaluation.fixtures import FIXTURES, write_fixture
from spacevllm.evaluation.predictions import Problems, read_predictions
from spacevllm.evaluation.protocols import PROTOCOLS

light = settings(max_examples=15, deadline=None)


@cache
def queries(name):
    """Queries of a stand-in; those without an exact score are left out."""
    with TemporaryDirectory() as root:
        folder = write_fixture(name, root, num_videos=2)
        known = BENCHMARKS[name]
        paths = {kind: folder / path.format(split=known.split) for kind, path in known.files.items()}
        found = read_queries(name, SourceFiles(**paths, split=known.split, media_root=str(Path(root))))
        return [query for query in found if query.task != "qa" or query.options][:12]


def perfect(query):
    line = {"id": query.id}
    if query.task == "qa":
        return line | {"answer": query.answer}
    if query.task == "vtg":
        return line | {"begin_s": query.begin_s, "end_s": query.end_s}
    boxes = [[frame, *box] for frame, box in zip(query.box_frames, query.boxes, strict=True)]
    return line | {"boxes": boxes, "begin_frame": query.begin_frame, "end_frame": query.end_frame}


def poor(query):
    """Readable, and seldom right."""
    shifted = [[0, 0, 0, 9, 9]] if query.task in ("stvg", "rec") else []
    return {"id": query.id, "answer": "A", "begin_s": 0.5, "end_s": 2.0, "boxes": shifted}


def table(name, lines):
    asked = queries(name)
    answers = read_predictions(map(json.dumps, lines), {query.id: query for query in asked}, Problems())
    return score_benchmark(name, asked, answers, list(PROTOCOLS))[0]


def scores(tree):
    """Every mean in a table, by its place; counts and intervals left out."""
    found = {}
    for key, value in tree.items():
        if isinstance(value, float):
            found[key] = value
        elif isinstance(value, dict) and key != "confidence":
            found |= {f"{key}/{inner}": number for inner, number in scores(value).items()}
    return found


@pytest.mark.parametrize("name", FIXTURES)
def test_perfect_answers_score_one(name):
    found = table(name, [perfect(query) for query in queries(name)])
    exact = {"vidstg": ["dense", "tubedetr"]}.get(name, ["dense"])  # the others move or cut the true span by a frame
    for means in [found[protocol] for protocol in exact] if "dense" in found else [found]:
        assert list(scores(means).values()) == pytest.approx([1] * len(scores(means)), abs=1e-6)


@pytest.mark.parametrize("name", FIXTURES)
@light
@given(data=st.data())
def test_dropping_an_answer_never_raises_a_score(name, data):
    lines = [data.draw(st.sampled_from([perfect, poor]))(query) for query in queries(name)]
    dropped = data.draw(st.integers(0, len(lines) - 1))
    before, after = scores(table(name, lines)), scores(table(name, lines[:dropped] + lines[dropped + 1 :]))
    assert before.keys() == after.keys()
    assert all(after[key] <= before[key] for key in before)


@pytest.mark.parametrize("name", FIXTURES)
@light
@given(data=st.data())
def test_the_order_of_lines_changes_nothing(name, data):
    lines = [data.draw(st.sampled_from([perfect, poor]))(query) for query in queries(name)]
    assert table(name, data.draw(st.permutations(lines))) == table(name, lines)
