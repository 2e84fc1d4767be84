"""The benchmarks run, count right, and need what they say they need. Their figures are no test's business."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.common import RESULTS, facts, median_ratio, rounds
from benchmarks.gpu import named_peak
from benchmarks.shapes import random_model, small_config, training_row, video_prefix
from spacevllm.model.configuration import SpaceVLLMConfig

ROOT = Path(__file__).parents[2]
NOT_ON_A_BARE_MACHINE = "ray deepspeed mlflow av decord pyarrow pydantic peft s3fs PIL accelerate pandas fastapi"
BARE = f"""
import runpy, sys
for name in {NOT_ON_A_BARE_MACHINE!r}.split():
    sys.modules[name] = None  # an import of it fails
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def model(tmp_path):
    """Folder of an untrained tiny model."""
    from tiny import make

    from spacevllm.predictor import Predictor

    Predictor(*make()).save(tmp_path / "model")
    return tmp_path / "model"


def run(*command):
    ended = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return json.loads(Path(ended.stdout.splitlines()[-1]).read_text())


@pytest.mark.slow
def test_gpu_needs_torch_and_transformers_only(tmp_path):
    options = ["--shape", "tiny", "--rounds", "1", "--counts", "2", "--new-tokens", "2", "--out", str(tmp_path)]
    result = run("-c", BARE, "benchmarks.gpu", *options)
    names = ["prefill", "ask", "decode", "space_decoder", "train_step", "train_step"]
    assert [stage["stage"] for stage in result["stages"]] == names
    assert all(stage["model_tflop"] > 0 for stage in result["stages"])
    assert result["commit"] and result["versions"]["torch"] == torch.__version__
    if not torch.cuda.is_available():
        assert result["peak_tflops"] is None and all(stage["mfu"] is None for stage in result["stages"])


@pytest.mark.slow
def test_ask_many_compares_three_ways(tmp_path):
    options = ["--counts", "2", "--frames", "2", "--rounds", "1", "--out", str(tmp_path)]
    [video] = run("-m", "benchmarks.ask_many", *options)["videos"]
    one, two = video["questions"]
    assert (one["n"], two["n"]) == (1, 2)
    assert two["uncached_over_batched"] > 0 and "later_question_over_first_one_by_one" in two


@pytest.mark.slow
def test_parallel_boxes_writes_as_many_tokens_as_a_tube_has_boxes(tmp_path):
    [video] = run("-m", "benchmarks.parallel_boxes", "--frames", "4", "--rounds", "1", "--out", str(tmp_path))["videos"]
    assert video["tokens"] == {"queries": 14, "text": 14 + 2 * 13}
    assert video["text_over_queries_answer"] > video["text_over_queries_with_prefill"] > 0


def test_score_measures_the_command(tmp_path):
    result = run("-m", "benchmarks.score", "--queries", "3", "--out", str(tmp_path))
    assert result["queries"] == 3 and all(taken["cpu_s"] > 0 for taken in result["protocols"].values())


def test_synthesis_noise_measures_every_level(tmp_path):
    levels = run("-m", "benchmarks.synthesis_noise", "--videos", "2", "--out", str(tmp_path))["levels"]
    assert levels["none"]["tiou"] > levels["none"]["rough"] and levels["jitter 10 %"]["viou"] < levels["none"]["viou"]


@pytest.mark.slow
def test_build_unistg_counts_records_and_memory(tmp_path):
    [size] = run("-m", "benchmarks.build_unistg", "--records", "300", "--out", str(tmp_path))["sizes"]
    assert size["records"] == 300 and size["records_per_s"] > 0
    assert 0 < size["peak_mib"]["worker"] < size["peak_mib"]["all"] > size["peak_mib"]["driver"] > 0


@pytest.mark.slow
def test_serve_climbs_until_requests_wait(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    loads = run("-m", "benchmarks.serve", "--seconds", "0.25", "--port", str(port), "--out", str(tmp_path))["loads"]
    assert [load["load"] for load in loads] == ["one_video", "shared_videos", "own_videos"]
    assert all(max(tried["p99_over_idle"] for tried in load["tried"]) > 2 for load in loads)


@pytest.mark.parametrize(
    ("card", "peak"),
    [
        ("NVIDIA H200", 989),
        ("NVIDIA H20", 148),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A10G", None),
        ("Some Card 9000", None),
    ],
)
def test_peaks_by_name(card, peak):
    assert named_peak(card) == peak


def test_the_full_shape_is_that_of_the_paper():
    config = SpaceVLLMConfig()
    model = random_model(config, "meta", torch.bfloat16)
    assert 8.0e9 < sum(p.numel() for p in model.parameters()) < 8.1e9
    linear = (part for part in model.mllm.language_model.modules() if isinstance(part, torch.nn.Linear))
    assert sum(part.weight.numel() for part in linear) == 6_525_288_448
    prefix = video_prefix(config)
    assert prefix.visual_index(64).shape == (64, 196) and len(prefix.query_ids) == 64
    assert 13_440 + 64 < len(prefix.ids) < 14_100


def test_a_training_row_is_one_that_the_model_learns_from():
    config = small_config(2)
    model = random_model(config, "cpu", torch.float32)
    output = model(training_row(config, 3, 5, "cpu", torch.float32))
    assert output.logits.shape == (15, 512) and output.space.boxes.shape == (3, 2, 4) and output.space_valid.all()


def test_sides_take_turns():
    seen = []
    taken = rounds({"a": lambda: seen.append("a"), "b": lambda: seen.append("b")}, 2)
    assert "".join(seen) == "ababab" and [len(times) for times in taken.values()] == [2, 2]
    assert median_ratio([2.0, 9.0, 4.0], [1.0, 1.0, 1.0]) == 4.0
    assert facts()["machine"]["cores"] >= 1


def test_every_result_says_where_it_was_measured_or_that_it_was_not():
    for path in RESULTS.glob("*.json"):
        result = json.loads(path.read_text())
        measured = {"machine", "versions", "commit"} <= result.keys()
        assert measured or result["measured"] is False, path.name


@pytest.mark.slow
def test_ground_measures_all_its_comparisons(tmp_path, model):
    sizes = ["--videos", "18", "--questions", "1", "--archives", "2", "--rounds", "1", "--films", "3"]
    options = ["--model", str(model), *sizes]
    result = run("-m", "benchmarks.ground", *options, "--out", str(tmp_path))
    assert set(result["bare"]) == {"decode_s", "predict_s", "predict_beside_decode_s"}
    assert all(value > 0 for value in result["bare"].values())
    for stage in (result["decode"], result["ground"]):
        assert 0 < stage["start_s"] < stage["seconds"] and stage["all_over_limit"] > 0
        assert stage["steady_over_limit"] > 0
    assert min(result["films"]["bare"].values()) > 0 and result["films"]["all_over_limit"] > 0
    assert result["ground"]["all_over_predict"] > 0 and result["ground"]["steady_over_predict_beside_decode"] > 0
    assert [row["n"] for row in result["questions"]] == [1] and result["questions"][0]["all_over_first"] == 1
    assert [row["videos"] for row in result["memory"]] == [2] and result["memory"][0]["peak_mb"] > 100


def test_archive_plans_everything_and_then_nothing(tmp_path):
    options = ["--rows", "60000", "--questions", "3", "--file-rows", "20000", "--out", str(tmp_path)]
    [archive] = run("-m", "benchmarks.archive", *options)["archives"]
    start, idle = archive["start"], archive["idle"]
    assert start["videos"] == idle["videos"] == 20_000 and start["peak_rss_mb"] > archive["imports"]["peak_rss_mb"]
    assert (idle["in"], idle["ok"], idle["new"], idle["files"]) == (60_000, 60_000, 0, archive["fill"]["files"])
