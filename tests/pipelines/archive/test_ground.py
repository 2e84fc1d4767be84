"""Videos × questions → tubes on a real Ray, with a predictor that only stands in: each pair once, whatever happens."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import ray.cloudpickle
import standin
from PIL import Image
from ray.data import DataContext

from pipelines.archive.answers import ANSWERS, row_to_answer
from pipelines.archive.ground import GroundConfig, run
from pipelines.archive.plan import open_plan
from pipelines.archive.predict import Answerer, describe, load_predictor
from pipelines.archive.questions import read_questions
from pipelines.archive.tubes import results_of, visible
from pipelines.core import locks
from pipelines.core.cluster import STALL_S, STALL_VARIABLE, ray_session
from pipelines.core.failures import again
from pipelines.core.tracking import TrackingConfig
from pipelines.media.decode import DecodeOptions, Decoder
from pipelines.media.manifest import list_videos
from spacevllm.config import ConfigError, parse_config

ray.cloudpickle.register_pickle_by_value(standin)  # Ray's workers do not see the tests' folder
QUESTIONS = ("a dog", "a person")


def config(archive, tmp_path, **changes):
    values = {"model": "m", "videos": str(archive), "question": QUESTIONS, "out": str(tmp_path / "out")}
    return GroundConfig(**values | {"tracking": TrackingConfig(enabled=False)} | changes)


def rows_of(out):
    table = visible(str(out)).table(ANSWERS.names)
    assert table.schema.equals(ANSWERS)
    return table.to_pylist()


def pairs(rows):
    return sorted((os.path.basename(row["video"]), row["question"]) for row in rows)


def test_every_pair_has_one_row_and_a_second_run_decodes_nothing(archive, tmp_path, ray_cluster):
    summary = run(config(archive, tmp_path, decode=DecodeOptions(block_rows=2)), standin.load)
    assert (summary["in"], summary["ok"], summary["failed"]) == (14, 8, 6)
    assert (summary["new"], summary["decoded"], summary["videos"]) == (14, 7, 7)
    assert summary["errors"]["empty_file"] == 2 and summary["errors"]["not_a_video"] == 2
    assert json.loads((tmp_path / "out/summary.json").read_text()) == summary
    assert 0 < summary["start_s"] < summary["seconds"] and summary["steady_per_s"] > 0
    assert (tmp_path / "out/config.yaml").exists()
    rows = rows_of(tmp_path / "out")
    names = ["clip0", "clip1", "clip2", "clip3", "cut", "empty", "text"]
    assert pairs(rows) == [(f"{name}.mp4", question) for name in names for question in QUESTIONS]

    row = next(row for row in rows if row["video"].endswith("clip1.mp4") and row["question"] == "a dog")
    assert (row["status"], row["error"], row["begin_s"], row["end_s"]) == ("ok", "", 0.0, 17 / 16)
    assert (row["begin_frame"], row["end_frame"], row["num_frames"], row["fps"]) == (0, 8, 17, 8.0)
    assert row["boxes"][3] == {"frame": 3, "x1": 1, "y1": 2, "x2": 30, "y2": 40} and len(row["boxes"]) == 8
    assert (row["width"], row["height"], row["model_digest"]) == (64, 48, standin.Standin.digest)
    tube = row_to_answer(row)
    assert tube.span.end_s == 17 / 16 and tube.boxes.shape == (8, 4) and len(tube.sampled_frames) == 4
    broken = next(row for row in rows if row["video"].endswith("empty.mp4"))
    assert broken["status"] == "failed" and broken["error"].startswith("empty_file: ") and broken["begin_s"] is None

    files = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "out/tubes").iterdir()}
    again = run(config(archive, tmp_path), standin.load)
    assert (again["in"], again["ok"], again["new"], again["decoded"]) == (14, 8, 0, 0)
    assert {file.name: file.stat().st_mtime_ns for file in (tmp_path / "out/tubes").iterdir()} == files


def test_an_answer_of_several_tubes_is_one_row_and_older_folders_go_on(archive, tmp_path, ray_cluster):
    videos = str(archive / "clip1.mp4")
    asked = {"question": ("every dog", "a dog"), "export": ("mot",)}
    assert run(config(videos, tmp_path, **asked), standin.load)["exports"] == {"mot": 3}
    every, one = sorted(rows_of(tmp_path / "out"), key=lambda row: row["question"], reverse=True)
    assert (every["begin_frame"], every["end_frame"], len(every["boxes"]), one["more"]) == (0, 8, 8, [])
    assert [(t["track"], t["begin_frame"], t["end_s"], t["confidence"]) for t in every["more"]] == [
        (0, 12, 17 / 8, 0.4),
        (1, 12, 17 / 8, 0.3),
    ]
    assert every["more"][1]["boxes"][0] == {"frame": 12, "x1": 22, "y1": 4, "x2": 62, "y2": 42}
    answer = row_to_answer(every)
    assert [tube.track for tube in answer] == [0, 0, 1] and answer[2].boxes.shape == (5, 4) and answer[1].present

    shutil.rmtree(tmp_path / "out/tubes/_delta_log")  # as an earlier release left it, before there was the column
    for file in (tmp_path / "out/tubes").glob("*.parquet"):
        pq.write_table(pq.read_table(file).drop_columns("more"), file)
    assert run(config(videos, tmp_path, **asked), standin.load)["exports"] == {"mot": 2}
    again = run(config(videos, tmp_path, question=("every dog", "a dog", "every cat"), export=("mot",)), standin.load)
    assert (again["in"], again["new"], again["exports"]) == (3, 1, {"mot": 4})


@pytest.mark.slow
def test_only_what_is_missing_stale_or_asked_for_again_is_done(archive, tmp_path, ray_cluster, make_mp4):
    for name in ("cut.mp4", "text.mp4", "clip3.mp4"):
        (archive / name).unlink()
    assert run(config(archive, tmp_path, question="a dog"), standin.load)["in"] == 4
    make_mp4(archive / "more.mp4", num_frames=9)
    more = run(config(archive, tmp_path), standin.load)  # one video and one question more
    assert (more["in"], more["new"]) == (10, 6)
    assert run(config(archive, tmp_path, retry_failed="all"), standin.load)["new"] == 2  # empty.mp4, still empty
    make_mp4(archive / "clip0.mp4", num_frames=30)  # a video that changed
    assert run(config(archive, tmp_path), standin.load)["new"] == 2
    before = visible(str(tmp_path / "out"))
    assert run(config(archive, tmp_path), standin.load_other)["new"] == 10  # another model
    rows = rows_of(tmp_path / "out")
    assert len(rows) == 10 == len(set(pairs(rows)))
    assert {row["model_digest"] for row in rows} == {standin.OtherStandin.digest}
    old = before.table(["id", "model_digest"])  # the other one's answers stand beside them
    assert old.num_rows == 10 and set(old["model_digest"].to_pylist()) == {standin.Standin.digest}
    assert run(config(archive, tmp_path), standin.load)["new"] == 0


def test_what_the_model_cannot_answer_is_a_failed_row(archive, tmp_path, ray_cluster):
    videos = str(archive / "clip0.mp4")
    mumble = run(config(videos, tmp_path, question=("mumble", "a dog")), standin.load)
    assert (mumble["ok"], mumble["errors"]) == (1, {"unparsable": 1})
    row = next(row for row in rows_of(tmp_path / "out") if row["question"] == "mumble")
    assert row["begin_s"] is None and len(row["sampled_boxes"]) == 4 and row_to_answer(row).span is None
    broken = run(config(videos, tmp_path, question="break"), standin.load)
    assert broken["errors"] == {"predict": 1}
    [row] = [row for row in rows_of(tmp_path / "out") if row["question"] == "break"]
    assert row["error"] == "predict: RuntimeError: this question breaks the model"


@pytest.mark.slow
def test_a_model_that_does_not_load_is_said_in_one_line(archive, tmp_path, tiny_model, ray_cluster):
    model = shutil.copytree(tiny_model, tmp_path / "model")
    tree = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(tree | {"decoder_hidden_size": 24}))
    with pytest.raises(ConfigError, match=r"weights do not fit the model; .* of another shape"):
        run(config(archive, tmp_path, model=str(model)))


def test_an_output_that_is_in_use_is_refused(archive, tmp_path):
    with locks.exclusive(tmp_path / "out"), pytest.raises(locks.StorageBusy, match=f"process {os.getpid()} "):
        run(config(archive, tmp_path), standin.load)


def test_questions_come_from_files(tmp_path):
    def read(name, text):
        (tmp_path / name).write_text(text)
        return read_questions((), str(tmp_path / name))

    assert read("q.txt", "\ufeffa dog\n\n  a cat \n") == [("", "a dog"), ("", "a cat")]
    assert read("q.jsonl", '{"question": "a dog"}\n{"video": "b.mp4", "question": "a cat"}\n') == [
        ("", "a dog"),
        ("b.mp4", "a cat"),
    ]
    assert read("q.json", '[{"question": "a dog"}]') == [("", "a dog")]
    assert read("q.csv", 'video,question\n,"a dog, small"\nb.mp4,a cat\n') == [("", "a dog, small"), ("b.mp4", "a cat")]
    for name, text in {"bad.jsonl": "{", "bad.json": '{"a": 1}', "bad.csv": "text\nhello\n", "none.txt": "\n"}.items():
        with pytest.raises(ConfigError, match=name):
            read(name, text)
    with pytest.raises(ConfigError, match=r"no such questions file: .*gone\.txt"):
        read_questions((), str(tmp_path / "gone.txt"))
    with pytest.raises(ConfigError, match="ground needs questions"):
        parse_config(GroundConfig, {"model": "m", "videos": "v", "out": "o"}, "test")


def test_a_question_about_one_video_is_asked_of_it_alone(archive, tmp_path, ray_cluster):
    lines = [{"video": "clip1.mp4", "question": "a cat"}, {"video": str(archive / "clip2.mp4"), "question": "a cup"}]
    questions = tmp_path / "q.jsonl"
    questions.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run(config(archive, tmp_path, question=(), questions=str(questions)), standin.load)
    assert pairs(rows_of(tmp_path / "out")) == [("clip1.mp4", "a cat"), ("clip2.mp4", "a cup")]
    questions.write_text('{"video": "clip9.mp4", "question": "a cat"}')
    with pytest.raises(ConfigError, match=r"clip9\.mp4.*none of the videos"):
        run(config(archive, tmp_path, question=(), questions=str(questions)), standin.load)


def test_a_manifest_says_what_to_ask_of_which_part_and_its_broken_rows_keep_their_reasons(
    archive, tmp_path, ray_cluster
):
    (archive / "m.csv").write_text(
        "video,question,begin_s,end_s\nclip0.mp4,a dog,,\nclip0.mp4,a cat,0.5,1.5\nclip1.mp4,a cat,9,\n"
        "clip1.mp4,a cat,2,1\ngone.mp4,a dog,,\n"
    )
    summary = run(config(archive / "m.csv", tmp_path, question=()), standin.load)
    assert (summary["in"], summary["ok"], summary["decoded"]) == (5, 2, 5)
    assert summary["errors"] == {"empty_segment": 1, "manifest": 1, "missing": 1}
    rows = {row["part_begin_s"]: row for row in rows_of(tmp_path / "out") if row["video"].endswith("clip0.mp4")}
    assert (rows[None]["begin_s"], rows[None]["end_s"]) == (0.0, 1.0)
    assert (rows[0.5]["begin_s"], rows[0.5]["end_s"], rows[0.5]["part_end_s"]) == (0.5, 1.0, 1.5)
    assert (rows[0.5]["begin_frame"], rows[0.5]["end_frame"], rows[0.5]["num_frames"]) == (4, 8, 16)
    assert [box["frame"] for box in rows[0.5]["sampled_boxes"]] == [4, 6, 8, 11]
    assert run(config(archive / "m.csv", tmp_path, question=()), standin.load)["new"] == 0
    (archive / "m.csv").write_text("video\nclip0.mp4\n")
    with pytest.raises(ConfigError, match="nothing is asked"):
        run(config(archive / "m.csv", tmp_path, question=()), standin.load)


def test_an_image_among_the_videos_costs_its_own_row(tmp_path, tiny_model):
    """The two actors alone, with a real model."""
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    model = describe(str(tiny_model), load_predictor)
    with open_plan() as plan:
        plan.ask(list_videos(str(tmp_path / "a.png")), [("", "a dog")])
        plan.mark(model, "auto")
        plan.find_missing(results_of(str(tmp_path), "g"), again("none"))
        [work] = plan.work()
        decoded = Decoder(model.plan, DecodeOptions())(work)
    [row] = Answerer(model, "cpu", load_predictor)(decoded).to_pylist()
    assert row["error"] == f"still_image: {tmp_path}/a.png: an image has no time; ground needs videos"


def test_films_are_walked_window_by_window_like_the_parts_of_them_that_are_long(tmp_path, ray_cluster, make_mp4):
    archive = tmp_path / "archive"
    make_mp4(archive / "film.mp4", num_frames=40, fps=1)
    make_mp4(archive / "short.mp4", num_frames=8, fps=1)
    (archive / "m.csv").write_text("video,begin_s,end_s\nfilm.mp4,,\nfilm.mp4,10,30\nfilm.mp4,10,12\nshort.mp4,,\n")
    job = config(archive / "m.csv", tmp_path, question="a dog")
    assert run(job, standin.load)["ok"] == 4
    rows = {(Path(row["video"]).stem, row["part_begin_s"], row["part_end_s"]): row for row in rows_of(tmp_path / "out")}
    assert {key: row["windows"] for key, row in rows.items()} == {
        ("film", None, None): 9, ("film", 10, 30): 4, ("film", 10, 12): 1, ("short", None, None): 1
    }  # fmt: skip
    film = rows["film", None, None]
    assert film["video"] == str(archive / "film.mp4") and film["windows_unread"] == 0
    assert len(film["boxes"]) == film["end_frame"] - film["begin_frame"] > 0
    assert run(job.model_copy(update={"windows": "off"}), standin.load)["new"] == 4
    assert {row["windows"] for row in rows_of(tmp_path / "out")} == {1}


def test_a_block_of_films_may_take_longer_than_ray_data_waits_by_itself(monkeypatch, ray_cluster):
    patience = DataContext.get_current().execution_no_progress_timeout_s
    monkeypatch.delenv(STALL_VARIABLE)
    with ray_session():
        assert DataContext.get_current().execution_no_progress_timeout_s == STALL_S > 2 * 3600
    monkeypatch.setenv(STALL_VARIABLE, str(patience))
    with ray_session():
        assert DataContext.get_current().execution_no_progress_timeout_s == patience


KILLED = """
import sys
sys.path.insert(0, {tests!r})
import ray.cloudpickle, standin
from pipelines.archive.ground import GroundConfig, run
ray.cloudpickle.register_pickle_by_value(standin)
run(GroundConfig.model_validate_json({config!r}), standin.load_slow)
"""


@pytest.mark.slow
def test_killed_in_the_middle_and_run_again_gives_each_pair_once(tmp_path, ray_cluster, make_mp4):
    archive = tmp_path / "archive"
    for i in range(12):
        make_mp4(archive / f"clip{i:02d}.mp4", num_frames=8, shade=20 * i)
    job = config(archive, tmp_path, decode=DecodeOptions(block_rows=1, num_actors=1))
    code = KILLED.format(tests=str(Path(__file__).parents[1]), config=job.model_dump_json())
    root = Path(__file__).parents[3]
    driver = subprocess.Popen([sys.executable, "-c", code], cwd=root, stderr=subprocess.DEVNULL)
    tubes = tmp_path / "out/tubes"
    deadline = time.monotonic() + 240
    while len(list(tubes.glob("*.parquet"))) < 3:
        assert driver.poll() is None and time.monotonic() < deadline, "the first run ended before it could be killed"
        time.sleep(0.02)
    with pytest.raises(locks.StorageBusy, match=f"process {driver.pid} "):  # two jobs, one output
        run(job, standin.load)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    kept = {file.name: file.stat().st_mtime_ns for file in tubes.glob("*.parquet")}
    assert len(kept) < 12

    summary = run(job, standin.load)
    assert (summary["in"], summary["ok"]) == (24, 24) and 0 < summary["new"] < 24
    assert pairs(rows_of(tmp_path / "out")) == [(f"clip{i:02d}.mp4", q) for i in range(12) for q in QUESTIONS]
    now = {file.name: file.stat().st_mtime_ns for file in tubes.glob("*.parquet")}
    assert all(now[name] == changed for name, changed in kept.items())
