"""``spacevllm score`` as a person runs it: every benchmark's files, the numbers against loops, bad files and lines."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import benchmark_files
import pytest
from judge_server import judge_server
from protocol_reference import scores

from spacevllm.evaluation.benchmarks import BENCHMARKS

ROOT = Path(__file__).parents[2]
SHARED = Path(os.environ.get("SPACEVLLM_SHARED_DATA", ROOT.parent / "shared" / "data"))
HEADLINES = {"stvg": "m_vIoU", "vtg": "mIoU", "rec": "acc@0.5", "qa": "accuracy"}


@pytest.fixture
def run(cli, tmp_path):
    """Scores lines (dicts, or text as it stands); gives the result and what stands on standard error."""

    def score(benchmark, options, lines, *more):
        path = tmp_path / "predictions.jsonl"
        path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
        status, out, error = cli("score", "--benchmark", benchmark, *options, "--predictions", path, "--json", *more)
        assert status == 0, error
        return json.loads(out), error

    return score


@pytest.mark.parametrize("name", BENCHMARKS)
def test_perfect_answers(run, tmp_path, name):
    options, perfect = benchmark_files.write(name, tmp_path / "annotations")
    result, error = run(name, options, perfect)
    assert result[HEADLINES[result["task"]]] == pytest.approx(1)
    assert (result["n_queries"], result["n_missing"], result["n_unparsable"]) == (len(perfect), 0, 0)
    assert not error and not result["problems"]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_no_answers(run, tmp_path, name):
    options, perfect = benchmark_files.write(name, tmp_path / "annotations")
    result, _ = run(name, options, [])
    assert result[HEADLINES[result["task"]]] == 0
    free = result.get("n_not_scored", 0)
    assert result["n_missing"] == len(perfect) - free
    half, _ = run(name, options, [{"id": line["id"], "answer": None} for line in perfect])
    assert half == result


@pytest.mark.parametrize("name", BENCHMARKS)
def test_answers_that_cannot_be_read(run, tmp_path, name):
    options, perfect = benchmark_files.write(name, tmp_path / "annotations")
    result, _ = run(name, options, [{"id": line["id"], "answer": "I cannot say."} for line in perfect])
    assert result[HEADLINES[result["task"]]] == 0
    assert result["n_unparsable"] == len(perfect) - result.get("n_not_scored", 0)


def test_groups_of_their_own(run, tmp_path):
    options, perfect = benchmark_files.write("vidstg", tmp_path / "vidstg")
    result, _ = run("vidstg", options, perfect[:1])
    assert (result["declarative"]["m_vIoU"], result["interrogative"]["m_vIoU"], result["m_vIoU"]) == (1, 0, 0.5)
    options, perfect = benchmark_files.write("video_mme", tmp_path / "video_mme")
    result, _ = run("video_mme", options, perfect[:2])
    assert [result[kind]["accuracy"] for kind in ("short", "medium", "long")] == [1, 1, 0]
    options, perfect = benchmark_files.write("mvbench", tmp_path / "mvbench")
    result, _ = run("mvbench", options, perfect[1:])
    assert result["accuracy"] == pytest.approx((0.5 + 1) / 2)  # the mean over tasks, not over questions
    assert result["confidence"]["accuracy"][1] <= 1


def test_hcstvg_by_the_loops(run, tmp_path):
    """From the native record, with its 1-based frame, to the numbers of all protocols."""
    record = benchmark_files.hcstvg_record(268, 120, 600)
    options = ["--annotations", benchmark_files.dump(tmp_path / "test.json", {"a.mp4": record})]
    line = {"id": "a.mp4", "begin_frame": 250, "end_frame": 350}
    line["boxes"] = [[f, f - 180, 40, f - 100, 170] for f in range(240, 400, 3)]
    begin = record["st_frame"] - 1
    truth = {"family": "hcstvg", "fps": 30.0, "num_frames": 600, "width": 640, "height": 360, "segment": (0, 600)}
    truth |= {"begin": begin, "end": begin + 120}
    truth["boxes"] = {begin + i: [x, y, x + w, y + h] for i, (x, y, w, h) in enumerate(record["bbox"])}
    check_against_loops(run("hcstvg_v1", options, [line], "--protocol", "all")[0], truth, line)


@pytest.mark.parametrize("fps", ["30000/1001", 29.97002997002997, 24])
@pytest.mark.parametrize("segment", [None, [20, 180]])
def test_generic_by_the_loops(run, tmp_path, fps, segment):
    boxes = [[f, 100 + f / 3, 40.5, 200 + f / 2, 170.25] for f in range(50, 180)]
    row = {"id": "q", "question": "?", "fps": fps, "num_frames": 300, "width": 320, "height": 180, "boxes": boxes}
    row |= {"begin_frame": 50, "end_frame": 180} | ({"segment": segment} if segment else {})
    options = ["--annotations", benchmark_files.dump(tmp_path / "queries.jsonl", row)]
    line = {"id": "q", "begin_frame": 30, "end_frame": 150, "boxes": [[f, 90, 30, 190, 160] for f in range(10, 140, 7)]}
    truth = row | {"family": "vidstg", "begin": 50, "end": 180, "segment": segment or [0, 300]}
    truth |= {"boxes": {f: box for f, *box in boxes}, "fps": float(Fraction(fps))}
    check_against_loops(run("generic_stvg", options, [line], "--protocol", "all")[0], truth, line)


def check_against_loops(result, truth, line):
    predicted = {"begin": line["begin_frame"], "end": line["end_frame"], "boxes": {f: box for f, *box in line["boxes"]}}
    for protocol in ("dense", "tubedetr", "stcat"):
        found = [result[protocol][name] for name in ("m_tIoU", "m_vIoU", "gt_vIoU")]
        assert found == pytest.approx(scores(truth, predicted, protocol), abs=1e-9), protocol
        assert 0.05 < found[1] < 0.95


def test_every_query_has_its_line(run, tmp_path):
    options, perfect = benchmark_files.write("generic_stvg", tmp_path / "annotations")
    out = tmp_path / "queries.jsonl"
    result, _ = run("generic_stvg", options, perfect[:1], "--protocol", "all", "--per-query", out)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["id"], row["protocol"]) for row in rows] == [
        (name, protocol) for protocol in ("dense", "tubedetr", "stcat") for name in ("a", "2")
    ]
    assert {"id", "tiou", "viou", "gt_viou", "status"} <= rows[0].keys()
    assert sum(row["viou"] for row in rows[:2]) / 2 == result["dense"]["m_vIoU"]


def test_order_and_dropping(run, tmp_path):
    options, perfect = benchmark_files.write("hcstvg_v1", tmp_path / "annotations")
    whole, _ = run("hcstvg_v1", options, perfect, "--protocol", "all")
    turned, _ = run("hcstvg_v1", options, perfect[::-1], "--protocol", "all")
    fewer, _ = run("hcstvg_v1", options, perfect[1:], "--protocol", "all")
    assert whole == turned
    for protocol in ("dense", "tubedetr", "stcat"):
        assert all(fewer[protocol][name] <= whole[protocol][name] for name in ("m_tIoU", "m_vIoU", "gt_vIoU"))


def test_bad_lines_are_counted_and_explained(run, tmp_path):
    options, perfect = benchmark_files.write("generic_stvg", tmp_path / "annotations")
    broken = perfect[0] | {"boxes": [[20, math.nan, 1, 2, 3], *perfect[0]["boxes"][1:]]}
    lines = ["{", "[]", broken, perfect[0], {"id": "zz"}, {"id": 2, "begin_frame": 60, "end_frame": 50}]
    result, error = run("generic_stvg", options, lines)
    found = {kind: problem["count"] for kind, problem in result["problems"].items()}
    kinds = ("not_json", "not_an_object", "bad_box", "duplicate_id", "unknown_id", "inverted_span")
    assert found == dict.fromkeys(kinds, 1)
    assert all(kind in error for kind in kinds) and "line 6 (2): begin_frame 60 is not before end_frame 50" in error
    assert (result["n_queries"], result["n_missing"], result["n_unparsable"]) == (2, 0, 1)


def test_bad_annotations_cost_themselves(run, tmp_path):
    options, perfect = benchmark_files.write("generic_stvg", tmp_path / "annotations")
    path = Path(options[1])
    good = json.loads(path.read_text().splitlines()[0])
    bad = [
        "{",
        *(good | {"id": f"bad{i}"} | change for i, change in enumerate(
            [{"fps": "fast"}, {"fps": 0}, {"boxes": []}, {"boxes": [[1, 2]]}, {"begin_frame": 50}, {"segment": [9, 3]},
             {"boxes": [[20, math.nan, 0, 1, 1]]}, {"boxes": [[20, 0, 0, 1, 1]] * 2},
             {"begin_frame": 120, "end_frame": 130}]
        )),
        good,
    ]  # fmt: skip
    with path.open("a") as file:
        file.writelines((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in bad)
    result, error = run("generic_stvg", options, perfect)
    assert (result["n_queries"], result["m_vIoU"]) == (2, 1)
    assert result["problems"]["unusable_annotation"]["count"] == len(bad)
    assert "line 3" in error


def test_unusable_files_are_one_line(cli, tmp_path):
    options, perfect = benchmark_files.write("generic_stvg", tmp_path / "annotations")
    good, text, none = tmp_path / "good.jsonl", tmp_path / "text.txt", tmp_path / "none"
    good.write_text(json.dumps(perfect[0]))
    text.write_text("a,b\n1,2\n")

    def refused(*arguments):
        status, out, error = cli("score", *arguments)
        assert (status, out, error.count("\n")) == (2, "", 1)
        return error

    name = ("--benchmark", "generic_stvg")
    assert f"--predictions {none}: no such file" in refused(*name, *options, "--predictions", none)
    assert f"--predictions {tmp_path}: no such file" in refused(*name, *options, "--predictions", tmp_path)
    assert "no line can be used (line 1: " in refused(*name, *options, "--predictions", text)
    strange = tmp_path / "strange.jsonl"
    strange.write_text('{"id": "zz", "begin_s": 1, "end_s": 2}\n{"video": "a"}\n')
    assert "(line 1: no query has the id 'zz'); a line is a JSON object with an id like 'a'" in refused(
        *name, *options, "--predictions", strange
    )
    assert f"--annotations {none}: no such file" in refused(*name, "--annotations", none, "--predictions", good)
    assert "no query of generic_stvg" in refused(*name, "--annotations", text, "--predictions", good)
    assert "did you mean 'vidstg'" in refused("--benchmark", "vidsg", *options, "--predictions", good)
    assert "protocol" in refused(*name, *options, "--predictions", good, "--protocol", "loose")
    assert "--instances is missing" in refused("--benchmark", "refcoco", *options, "--predictions", good)
    assert "has no such file" in refused(*name, *options, "--predictions", good, "--boxes", tmp_path)
    assert "--split val: generic_stvg has none" in refused(*name, *options, "--predictions", good, "--split", "val")
    assert "vidstg is scored against test_annotations.json" in refused(
        "--benchmark", "vidstg", "--annotations", text, "--predictions", good
    )
    for native in ("hcstvg_v1", "vidstg", "charades_sta", "mvbench", "video_mme", "tempcompass", "egoschema"):
        refused("--benchmark", native, "--annotations", text, "--predictions", good)


def test_a_line_without_an_answer_and_a_file_without_a_line_are_said(run, tmp_path):
    options, perfect = benchmark_files.write("generic_stvg", tmp_path / "annotations")
    result, error = run("generic_stvg", options, [perfect[0], {"id": 2, "start": 3, "end": 4}])
    assert result["n_missing"] == 1 and "unknown_fields once: line 2 (2): it has end, start, and none of" in error
    _, error = run("generic_stvg", options, [])
    assert error.count("\n") == 1 and "is empty: all queries count as missing" in error


def test_words_for_people(cli, tmp_path):
    options, perfect = benchmark_files.write("vidstg", tmp_path / "annotations")
    path = tmp_path / "predictions.jsonl"
    path.write_text(json.dumps(perfect[0]))
    arguments = ("score", "--benchmark", "vidstg", *options, "--predictions", path)
    _, out, _ = cli(*arguments, "--protocol", "all")
    lines = out.splitlines()
    assert lines[0].startswith("vidstg dense ") and "m_vIoU 0.5000" in lines[0] and "2 queries, 1 missing" in lines[0]
    assert lines[1].startswith("vidstg dense declarative ")
    status, plan, _ = cli(*arguments, "--dry-run")
    assert status == 0 and "2 queries, 1 with a line" in plan


@pytest.fixture
def judge():
    """It chooses the option whose verb the caption uses."""
    with judge_server(lambda prompt: "A man dunks" in prompt) as server:
        yield server


def test_captions_through_a_judge(run, tmp_path, judge, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    url, seen = judge
    options, perfect = benchmark_files.write("tempcompass", tmp_path / "annotations")
    ask = ("--judge", url, "--judge-model", "good")
    result, _ = run("tempcompass", options, perfect, *ask)
    assert (result["accuracy"], result["captioning"]["accuracy"], result["n_queries"]) == (1, 1, 4)
    assert "n_not_scored" not in result
    [(path, asked, key)] = seen
    assert (path, asked["model"], asked["temperature"], key) == ("/v1/chat/completions", "good", 0, "Bearer secret")
    assert "A man dunks." in asked["messages"][0]["content"] and "B. dribbling" in asked["messages"][0]["content"]
    wrong, _ = run("tempcompass", options, [*perfect[:3], perfect[3] | {"answer": "A cat sleeps."}], *ask)
    assert (wrong["captioning"]["accuracy"], wrong["accuracy"]) == (0, 0.75)
    silent, _ = run("tempcompass", options, perfect[:3], *ask)
    assert silent["captioning"]["n_missing"] == 1 and silent["accuracy"] == 0.75


def test_a_judge_that_fails(run, cli, tmp_path, judge):
    url, seen = judge
    options, perfect = benchmark_files.write("tempcompass", tmp_path / "annotations")
    result, _ = run("tempcompass", options, perfect, "--judge", url, "--judge-model", "shaky")
    assert result["accuracy"] == 1 and len(seen) == 2  # asked again
    arguments = ("score", "--benchmark", "tempcompass", *options, "--predictions", tmp_path / "predictions.jsonl")
    status, out, error = cli(*arguments, "--judge", url, "--judge-model", "broken")
    assert (status, out, error.count("\n")) == (2, "", 1) and f"--judge {url}: no answer" in error
    assert cli(*arguments, "--judge", url)[0] == 2


def test_torch_is_not_needed(tmp_path):
    options, perfect = benchmark_files.write("vidstg", tmp_path / "annotations")
    path = tmp_path / "predictions.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in perfect))
    arguments = ["score", "--benchmark", "vidstg", *options, "--predictions", str(path), "--json"]
    heavy = {"torch", "transformers", "ray", "mlflow", "deepspeed"}
    script = f"import sys, jobs.cli; jobs.cli.main({arguments!r}); assert not {heavy} & set(sys.modules)"
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["m_vIoU"] == 1


REAL = [
    ("charades_sta", "charades_sta/charades_sta_test.txt", 3_720),
    ("vidstg", "vidstg/val_annotations.json", 8_956),
    ("vidstg", "vidstg/test_annotations.json", 10_303),
    ("tempcompass", "tempcompass", 7_540),
    ("egoschema", "egoschema/subset_answers.json", 500),
]


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real annotations are not here")
@pytest.mark.parametrize(("name", "file", "count"), REAL)
def test_real_annotations(run, name, file, count):
    path = SHARED / "annotations" / file
    if not path.exists():
        pytest.skip(f"{path} is not here")
    result, _ = run(name, ["--annotations", path], [])
    assert (result["n_queries"], result["n_missing"] + result.get("n_not_scored", 0)) == (count, count)
    assert not result["problems"]
