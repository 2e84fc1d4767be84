"""The ``spacevllm`` command: words, exit statuses, one-line errors, dry runs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from jobs.cli import app, main
from jobs.common import CONFIGS

JOBS = sorted(get_command(app).commands)
HEAVY = {"torch", "transformers", "ray", "mlflow", "deepspeed", "pyarrow", "pandas", "numpy", "rich"}


def refused(outcome, *words):
    """Exit status 2, nothing on stdout, one line on stderr that holds the words."""
    status, out, error = outcome
    assert (status, out) == (2, "")
    assert error.count("\n") == 1 and error.startswith("spacevllm: "), error
    for word in words:
        assert word in error


@pytest.mark.parametrize("job", JOBS)
def test_every_job_has_help_and_a_dry_run(cli, job):
    status, out, _ = cli(job, "--help")
    assert status == 0
    assert "--dry-run" in out


def test_help_imports_nothing_heavy():
    script = f"import sys, jobs.cli; jobs.cli.main(['ground', '--help']); print(set(sys.modules) & {HEAVY})"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "set()"


def test_words_alone_print_the_help(cli):
    status, out, _ = cli()
    assert status == 2
    assert all(job in out for job in JOBS)


def test_typing_errors(cli):
    refused(cli("grund"), "No such command 'grund'", "Did you mean 'ground'")
    refused(cli("train", "--confg", "x"), "No such option: --confg", "--config", "spacevllm train --help")
    refused(cli("train", "--data", "x", "--out", "y"), "Missing option '--config'")
    refused(cli("moving-shapes", "--out", "x", "--num-videos", "many"), "--num-videos", "valid integer")


def test_build_unistg_takes_a_folder_or_a_configuration(cli, data):
    refused(cli("build-unistg", "--out", "x"), "either --data", "or --config")
    refused(cli("build-unistg", "--data", data, "--config", "x.yaml", "--out", "x"), "either --data")
    refused(cli("build-unistg", "--data", data), "--out is needed with --data")


@pytest.mark.slow
def test_check_media_says_which_files_are_not_as_annotated(cli, ray, data, tmp_path):
    status, out, _ = cli("check-media", "--data", data, "--out", tmp_path / "check")
    assert status == 0 and "8 of 8 media are there, decode and are as annotated" in out
    shutil.copytree(data, tmp_path / "data")
    (tmp_path / "data/media/train/000001.mp4").unlink()
    status, out, _ = cli("check-media", "--data", tmp_path / "data", "--out", tmp_path / "other")
    assert status == 3 and "1  missing" in out and out.splitlines()[-1].endswith("(7 ok, 1 failed)")


def test_unknown_key_names_the_nearest(cli, tmp_path):
    arguments = ("moving-shapes", "--out", tmp_path, "--dry-run")
    refused(cli(*arguments, "world.fp=3"), "world.fp: unknown key, did you mean 'fps'?")
    refused(cli(*arguments, "word.fps=3"), "word: unknown key, did you mean 'world'?")


def test_wrong_types_and_values(cli, tmp_path):
    arguments = ("moving-shapes", "--out", tmp_path, "--dry-run")
    refused(cli(*arguments, "world.fps=fast"), "world.fps", "'fast'")
    refused(cli(*arguments, "test_share=2"), "test_share", "less than 1")
    refused(cli(*arguments, "world.fps"), "'world.fps' is not of the form section.key=value")


def test_missing_files(cli, tmp_path, model):
    none, out = tmp_path / "none", ("--out", tmp_path / "out")
    refused(cli("train", "--config", none, "--data", tmp_path, *out), f"cannot read config {none}")
    refused(cli("evaluate", "--model", none, "--data", tmp_path, *out), f"--model {none}: no such folder")
    refused(cli("evaluate", "--model", tmp_path, "--data", tmp_path, *out), f"--model {tmp_path}: holds no config.json")
    refused(cli("evaluate", "--model", model, "--data", tmp_path, *out), f"--data {tmp_path}: holds no unistg")
    ask = ("ground", "--model", model, *out)
    refused(cli(*ask, "--videos", none, "--question", "what?"), f"no videos at {none}: no such file")
    refused(cli(*ask, "--videos", tmp_path, "--questions", none), "no videos at")
    refused(cli(*ask, "--videos", tmp_path), "nothing is asked")
    refused(cli("serve", "--model", none), "no such folder")
    refused(cli("serve", "--model", model, "--media-root", none), f"--media-root {none}: no such folder")
    refused(cli("build-unistg", "--data", tmp_path, *out), "holds no annotations")
    refused(cli("report", "--tubes", tmp_path, *out), "holds no tubes")
    refused(cli("convert", "--source", "vidstg", "--annotations", none, *out), f"--annotations {none}: no such file")
    refused(cli("convert", "--source", "vidsgt", "--annotations", none, *out), "--source vidsgt: is none of", "vidstg")
    assert not (tmp_path / "out").exists()


def test_a_name_cannot_steer_the_terminal(cli, tmp_path, model):
    """Colours, a new title, a line of its own: all of it is shown, none obeyed."""
    name = "clip\x1b]0;owned\x07\x1b[2J\x9b1A\nspacevllm: all is well.mp4"
    asked = ("ground", "--model", model, "--question", "what?", "--out", tmp_path / "out")
    outcome = cli(*asked, "--videos", tmp_path / name)
    refused(outcome, r"clip\u001b]0;owned\u0007\u001b[2J\u009b1A")
    (tmp_path / name).mkdir()
    (tmp_path / name / "a.mp4").touch()
    status, out, error = cli(*asked, "--videos", tmp_path / name, "--dry-run")
    assert status == 0 and out.replace("\n", "").isprintable() and error == ""


def test_broken_model_is_one_line(cli, tmp_path, model, data):
    broken = tmp_path / "model"
    broken.mkdir()
    (broken / "config.json").write_text((model / "config.json").read_text())
    refused(cli("evaluate", "--model", broken, "--data", data, "--out", tmp_path / "out"), "has no model.safetensors")


def test_a_bug_keeps_its_traceback(monkeypatch, capsys):
    monkeypatch.setattr("jobs.cli.app", lambda *_, **__: 1 / 0)
    assert main(["train"]) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_debug_shows_the_traceback_of_user_errors(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("SPACEVLLM_DEBUG", "1")
    assert main(["serve", "--model", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert error.splitlines()[-1].startswith("spacevllm: --model")


# Whoever runs the tests in the background of a shell has them ignore SIGINT, and children inherit that. Undone in the
# child's own Python: ``preexec_fn`` would fork this process, which talks to Ray (docs/decisions.md).
HEARS_INTERRUPTS = (
    "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "runpy.run_module('jobs.cli', run_name='__main__', alter_sys=True)"
)


@pytest.mark.slow
def test_interrupt_is_quiet(tmp_path):
    command = [sys.executable, "-c", HEARS_INTERRUPTS, "moving-shapes", "--out", str(tmp_path), "--num-videos", "99999"]
    pipe = subprocess.PIPE
    job = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
    assert job.stderr is not None
    try:
        assert job.stderr.readline().startswith("videos")  # the first line of progress
        os.killpg(job.pid, signal.SIGINT)  # as a terminal sends it: to the workers, too
        _, error = job.communicate(timeout=60)
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
    assert job.returncode == 130
    assert "Traceback" not in error


@pytest.mark.parametrize("config", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_config_dry_runs(cli, data, tmp_path, config):
    out = tmp_path / "out"
    jobs = {"synthesize": "synthesize", "unistg_sample": "build-unistg"}
    job = jobs.get(config.stem, "train")
    from_files = [] if job == "build-unistg" else ["--data", data]
    status, printed, error = cli(job, "--config", config, *from_files, "--out", out, "--dry-run")
    assert f"out: {out}" in printed and all(f"data: {folder}" in printed for folder in from_files[1:])
    assert not out.exists()
    if " texts: " in config.read_text():  # the paper's mixture has questions about nothing seen; these videos have none
        assert status == 2 and "nothing in split train for sources: images (image:qa), texts (text)" in error
    else:
        assert status == 0, error


def test_training_without_data_for_a_source_is_refused(cli, data, tmp_path):
    asked = ("--config", CONFIGS / "debug.yaml", "--data", data, "--out", tmp_path / "out")
    status, _, error = cli("train", *asked, "sources.times.media=text", "sources.times.tasks=[]")
    assert status == 2
    lacking = "nothing in split train for sources: times (text); leave them out of phases"
    assert error.splitlines()[-1] == f"spacevllm: {data}: {lacking}"


def test_a_recipe_in_old_words_is_shown_in_new_ones(cli, data, tmp_path):
    old = tmp_path / "old.yaml"
    old.write_text(
        "stages:\n  tubes: {media: video, tasks: [stvg]}\n  joint: {mix: {tubes: 1}, steps: 3, batch_size: 4}\n"
    )
    status, printed, error = cli("train", "--config", old, "--data", data, "--out", tmp_path / "out")
    first, *rest = error.splitlines()
    assert (status, printed) == (2, "") and first.startswith(f"spacevllm: {old}: stages are two things now")
    assert rest[:4] == [
        "sources:",
        "  tubes: {media: video, tasks: [stvg]}",
        "phases:",
        "  joint: {sources: {tubes: 1}, steps: 3, batch_size: 4}",
    ]


def test_dry_runs_touch_nothing(cli, data, model, tmp_path):
    (tmp_path / "questions.txt").write_text("what grows?\n\nthe red circle\n")
    out = tmp_path / "out"
    both = ("--out", out, "--dry-run")
    runs = {
        "moving-shapes": ("--num-videos", "7", *both),
        "build-unistg": ("--data", data, *both),
        "check-media": ("--data", data, *both),
        "synthesize": ("--config", CONFIGS / "synthesize.yaml", "--data", data, *both),
        "convert": ("--source", "internvid", "--annotations", tmp_path / "questions.txt", *both),
        "evaluate": ("--model", model, "--data", data, *both),
        "ground": ("--model", model, "--videos", data / "media", "--questions", tmp_path / "questions.txt", *both),
        "serve": ("--model", model, "--port", "8123", "--dry-run"),
        "demo": both,
    }
    before = sorted(tmp_path.rglob("*"))
    plans = {job: cli(job, *arguments) for job, arguments in runs.items()}
    assert {job: plan[0] for job, plan in plans.items()} == dict.fromkeys(runs, 0), plans
    assert "4 videos, 8 questions" in plans["ground"][1]
    assert "port: 8123" in plans["serve"][1]
    assert "data → training → scores → tubes → report" in plans["demo"][1]
    assert sorted(tmp_path.rglob("*")) == before


def test_moving_shapes_makes_a_data_set_and_keeps_it(cli, data):
    config = json.loads((data / "summary.json").read_text())
    assert config["ok"] == config["in"] > 0
    written = {path: path.stat().st_mtime_ns for path in data.rglob("*.mp4")}
    status, out, _ = cli("moving-shapes", "--out", data, "--num-videos", "4", "--seed", "1")
    assert (status, out.splitlines()[-1].split(" (")[0]) == (0, f"data set: {data}")
    assert {path: path.stat().st_mtime_ns for path in data.rglob("*.mp4")} == written


def test_moving_shapes_does_not_mix_worlds(cli, data):
    refused(cli("moving-shapes", "--out", data, "--num-videos", "4", "--seed", "2"), "holds another world")


def test_convert_prints_one_line_of_json(cli, tmp_path):
    rows = [{"YoutubeID": "a", "Start_timestamp": f"00:00:{i:02d}", "End_timestamp": "00:00:05"} for i in (1, 2, 9)]
    (tmp_path / "clips.jsonl").write_text("".join(json.dumps(row | {"Caption": "a dog"}) + "\n" for row in rows))
    arguments = ("--source", "internvid", "--annotations", tmp_path / "clips.jsonl", "--out", tmp_path / "out")
    status, out, _ = cli("convert", *arguments, "--json")
    counts = json.loads(out)
    assert (status, out.count("\n")) == (0, 1)
    assert (counts["read"], counts["kept"], counts["dropped"]) == (3, 2, {"the span is empty or inverted": 1})
    status, out, _ = cli("convert", *arguments)
    assert (status, out.splitlines()[-1]) == (
        0,
        f"annotations: {tmp_path}/out/annotations (2 of 3 questions, 1 dropped, see {tmp_path}/out/dropped.jsonl; "
        "10,000,000 train were published)",
    )


@pytest.mark.slow
def test_ground_says_which_rows_failed(cli, ray, model, data, tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    (videos / "empty.mp4").touch()
    (videos / "clip.mp4").write_bytes(next(data.rglob("*.mp4")).read_bytes())
    arguments = ("ground", "--model", model, "--videos", videos, "--question", "what grows?", "--out", tmp_path / "out")
    status, out, _ = cli(*arguments)
    assert status == 3
    last = out.splitlines()[-1]
    assert last.startswith(f"tubes: {tmp_path / 'out' / 'tubes'} (2 videos; ")
    assert "1 empty_file" in last
    assert cli(*arguments)[0] == 3  # nothing is done again, and what failed is still said


@pytest.mark.slow
def test_evaluate_prints_scores_beside_baselines(cli, ray, model, data, tmp_path):
    status, out, _ = cli("evaluate", "--model", model, "--data", data, "--out", tmp_path / "scores")
    assert status == 0
    assert "stvg dense" in out and "m_vIoU" in out and "  centre" in out
    assert out.splitlines()[-1].startswith(f"scores: {tmp_path / 'scores' / 'summary.json'} (")


@pytest.mark.parametrize("name", ["jobs", "pipelines", "spacevllm"])
def test_packages_are_the_checkout_s(name):
    module = __import__(name)
    assert Path(module.__path__[0]).parent == Path(__file__).parents[2]
