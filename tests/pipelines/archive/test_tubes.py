"""What can be removed from the table of tubes, and that it is gone then."""

from __future__ import annotations

import pyarrow as pa
import pytest

from jobs.cli import main
from pipelines.archive.answers import ANSWERS
from pipelines.archive.tubes import forget, generations, prune, results_of, visible
from pipelines.core import locks, storage
from pipelines.core.commits import Block, committing
from spacevllm.config import ConfigError


def add(out, generation, *pairs):
    results = results_of(str(out), generation)
    rows = [
        {"id": f"{v}{q}", "video": f"/archive/{v}", "question": q, "status": "ok", "error": "", "fingerprint": "1"}
        for v, q in pairs
    ]
    with committing(results, set()) as commits:
        commits.add(Block(results.write(pa.Table.from_pylist(rows, schema=ANSWERS)), [row["id"] for row in rows]))


@pytest.fixture
def out(tmp_path):
    add(tmp_path, "old-1", ("a.mp4", "a dog"), ("b.mp4", "a dog"))
    add(tmp_path, "new-2", ("a.mp4", "a dog"), ("b.mp4", "a dog"), ("b.mp4", "a cat"))
    storage.write_json(tmp_path / "summary.json", {"generation": "new-2"})
    return tmp_path


def pairs(results):
    return sorted((row["video"][-5:], row["question"]) for row, _ in results.rows(["video", "question"]))


def on_disk(out):
    """Every row that any file there still holds."""
    return sorted((r["video"][-5:], r["question"]) for r in storage.read_table(out / "tubes").to_pylist())


def test_readers_see_the_last_finished_run(out):
    assert generations(str(out)) == {"new-2": 3, "old-1": 2}
    assert pairs(visible(str(out))) == [("a.mp4", "a dog"), ("b.mp4", "a cat"), ("b.mp4", "a dog")]
    assert pairs(visible(str(out), "old-1")) == [("a.mp4", "a dog"), ("b.mp4", "a dog")]
    storage.write_json(out / "summary.json", {})  # of an earlier release, or no run has finished
    assert visible(str(out)).generation in generations(str(out))


def test_what_other_models_answered_is_pruned(out):
    assert prune(str(out)) == {"old-1": 2}
    assert generations(str(out)) == {"new-2": 3} and len(on_disk(out)) == 3
    assert prune(str(out)) == {}


def test_a_video_and_a_question_are_forgotten_by_all_models(out):
    assert forget(str(out), video="b.mp4", question="a cat") == 1
    assert forget(str(out), video="a.mp4") == 2
    assert on_disk(out) == [("b.mp4", "a dog")] * 2
    assert forget(str(out), question="a dog") == 2 and generations(str(out)) == {}
    assert forget(str(out), video="never there.mp4") == 0
    with pytest.raises(ConfigError, match="give the video or the question"):
        forget(str(out))
    with locks.exclusive(out), pytest.raises(locks.StorageBusy):
        forget(str(out), video="b.mp4")


def test_the_command_says_how_many(out, capsys):
    assert main(["forget", "--out", str(out), "--video", "a.mp4", "--dry-run"]) == 0
    assert "2 answers" in capsys.readouterr().out and len(on_disk(out)) == 5
    assert main(["forget", "--out", str(out), "--video", "a.mp4", "--other-models"]) == 0
    assert capsys.readouterr().out.startswith("forgotten: 3 answers of ")
    assert main(["forget", "--out", str(out)]) == 2
    assert "give the video or the question" in capsys.readouterr().err
