"""A model on published benchmarks: native annotations and media in one folder, on a real Ray and real media."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import benchmark_files
import pyarrow.parquet as pq
import pytest
import ray.cloudpickle
import standin
from judge_server import judge_server

from pipelines.core import storage
from pipelines.core.delta import Log
from pipelines.core.tracking import TrackingConfig
from pipelines.evaluation import benchmark_suite
from pipelines.evaluation.benchmark import BenchmarkConfig, load_queries, run
from pipelines.evaluation.benchmark_suite import BenchmarksConfig
from pipelines.media.decode import DecodeOptions
from spacevllm.config import ConfigError
from spacevllm.evaluation.fixtures import write_fixture

ray.cloudpickle.register_pickle_by_value(standin)  # Ray's workers do not see the tests' folder
OFF = TrackingConfig(enabled=False)


@pytest.fixture
def root(tmp_path, make_mp4):
    """HC-STVG with one of its two clips, Charades-STA and MVBench."""
    folder = tmp_path / "root"
    benchmark_files.write("hcstvg_v1", folder / "hcstvg_v1")
    make_mp4(folder / "hcstvg_v1/media/55_vfjywN5CN0Y.mp4", num_frames=40, fps=2)
    benchmark_files.write("charades_sta", folder / "charades_sta")
    make_mp4(folder / "charades_sta/media/3MSZA.mp4", num_frames=41, fps=4)
    benchmark_files.write("mvbench", folder / "mvbench/json")
    make_mp4(folder / "mvbench/media/ZS9XR.mp4", num_frames=80, fps=4)
    make_mp4(folder / "mvbench/media/v.mp4")
    return folder


def config(root, tmp_path, name, **changes):
    values = {"model": "m", "benchmark": name, "data_root": str(root), "out": str(tmp_path / "out" / name)}
    return BenchmarkConfig(**values | {"tracking": OFF} | changes)


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_native_files_become_a_table(root, tmp_path, ray_cluster):
    summary = run(config(root, tmp_path, "hcstvg_v1"), standin.load)
    assert (summary["in"], summary["ok"], summary["in_file"], summary["without_media"]) == (1, 1, 2, 1)
    for protocol in ("dense", "tubedetr", "stcat"):
        scores = summary["scores"][protocol]
        assert (scores["n_queries"], scores["n_missing"]) == (1, 0)  # what is not there is not asked
        assert set(summary["baselines"][protocol]) == {"centre_box_whole_clip", "random_object_random_span"}
    out = tmp_path / "out/hcstvg_v1"
    [left_out] = read_lines(out / "left_out.jsonl")
    assert (left_out["id"], left_out["reason"]) == ("7_abc.mkv", "its media is not there")
    table = (out / "table.md").read_text()
    assert "Scored: 1 of the 2 queries in the file. Not asked: 1 without their videos in media/" in table
    assert "## hcstvg_v1 · dense" in table and "| **standin** |" in table and "| 1 of 2 |" in table
    assert "| SpaceVLLM-7B (arXiv 2503.13983) | 56.9 | 39.3 | 66.6 | 36.9 |" in table
    assert json.loads((out / "summary.json").read_text()) == summary
    rows = storage.read_table(out / "predictions").to_pylist()
    assert [row["answer"] for row in rows] == ["asked as stvg"]  # raw answers are kept
    page = (out / "worst.html").read_text()
    assert "data:image/jpeg" in page and "The woman in red turns." in page and "asked as stvg" in page
    again = run(config(root, tmp_path, "hcstvg_v1"), standin.load)
    assert again["new"] == 0 and again["scores"] == summary["scores"]

    charades = run(config(root, tmp_path, "charades_sta"), standin.load)
    assert charades["scores"]["R1@0.5"] == 0.5  # [0, 5.125) of a 10.25 s clip against [0, 5.1)
    assert set(charades["baselines"][""]) == {"whole_clip", "random_span"}

    quiz = run(config(root, tmp_path, "mvbench", limit=2), standin.load)
    assert quiz["scores"]["n_queries"] == 2 and quiz["scores"]["accuracy"] == 0.5  # it always says A
    assert (quiz["in_file"], quiz["beyond_limit"]) == (3, 1)
    assert quiz["baselines"][""]["random_option"]["accuracy"] == pytest.approx(1 / 3)
    assert quiz["baselines"][""]["random_option"]["action_sequence"]["n_queries"] == 2
    looked_at = pq.read_table(tmp_path / "out/mvbench/predictions", columns=["part_begin_s", "part_end_s"])
    assert looked_at.to_pylist() == 2 * [{"part_begin_s": 2.5, "part_end_s": 16.8}]


def test_media_that_cannot_be_read_scores_zero(root, tmp_path, ray_cluster):
    (root / "charades_sta/media/3MSZA.mp4").write_text("no longer a video")
    summary = run(config(root, tmp_path, "charades_sta"), standin.load)
    assert (summary["in"], summary["failed"], summary["errors"]) == (2, 2, {"not_a_video": 2})
    assert (summary["scores"]["mIoU"], summary["scores"]["n_missing"], summary["without_media"]) == (0, 2, 0)
    page = (tmp_path / "out/charades_sta/worst.html").read_text()
    assert "No frame could be read." in page and "not_a_video" in page


def test_what_is_missing_is_named(root, tmp_path):
    with pytest.raises(ConfigError, match="no such benchmark; known: hcstvg_v1"):
        load_queries("nope", str(root))
    with pytest.raises(ConfigError, match=r"egoschema/questions.json: no such file; get github.com/egoschema.*media$"):
        load_queries("egoschema", str(root))
    with pytest.raises(ConfigError, match="--split val: hcstvg_v1 has train, test"):
        load_queries("hcstvg_v1", str(root), split="val")
    (root / "hcstvg_v1/media/55_vfjywN5CN0Y.mp4").unlink()
    with pytest.raises(ConfigError, match=r"55_vfjywN5CN0Y.mp4: no such file, .*github.com/tzhhhh123/HC-STVG"):
        run(config(root, tmp_path, "hcstvg_v1"), standin.load)


def test_another_split_and_no_boxes(tmp_path, ray_cluster):
    """VidSTG's val file without VidOR: spans alone, no published figures beside them."""
    folder = write_fixture("vidstg", tmp_path, num_videos=1)
    (folder / "test_annotations.json").rename(folder / "val_annotations.json")
    shutil.rmtree(folder / "vidor")
    summary = run(config(tmp_path, tmp_path, "vidstg", split="val", limit=4, worst=2), standin.load)
    assert (summary["task"], summary["split"], summary["in"]) == ("vtg", "val", 4)
    groups = [summary["scores"].get(kind, {}).get("n_queries", 0) for kind in ("declarative", "interrogative")]
    assert sum(groups) == 4
    table = (tmp_path / "out/vidstg/table.md").read_text()
    assert "R1@0.5" in table and "SpaceVLLM-7B" not in table
    assert (tmp_path / "out/vidstg/worst.html").read_text().count("<article>") == 2


@pytest.mark.slow
def test_all_benchmarks_in_one_table(tmp_path, ray_cluster):
    for name in ("charades_sta", "refcocog", "tempcompass", "egoschema"):
        write_fixture(name, tmp_path / "root", num_videos=1)
    shutil.rmtree(tmp_path / "root/egoschema/media")
    store = f"sqlite:///{tmp_path}/runs.db"
    job = BenchmarksConfig(model="m", data_root=str(tmp_path / "root"), out=str(tmp_path / "out"), limit=3, worst=1)
    summary = benchmark_suite.run(job.model_copy(update={"tracking": TrackingConfig(store=store)}), standin.load)
    assert set(summary["benchmarks"]) == {"charades_sta", "refcocog", "tempcompass"}
    assert len(summary["missing"]) == 8
    assert summary["missing"]["egoschema"].startswith("egoschema is not scored: ") and all(
        "get " in line and "\n" not in line and "/media" in line for line in summary["missing"].values()
    )
    overview = (tmp_path / "out/overview.md").read_text()
    assert "| refcocog · stand-in |  | acc@0.5 |" in overview and "89.4 UNINEXT-H" in overview
    assert overview.count("| not scored |") == 8 and "| 2 of 2 |" in overview
    whole = (tmp_path / "out/table.md").read_text()
    assert overview in whole and "## tempcompass · caption_matching" in whole and "| random option |" in whole
    _check_runs(store, summary)
    again = benchmark_suite.run(job.model_copy(update={"tracking": OFF}), standin.load)
    assert all(scored["new"] == 0 for scored in again["benchmarks"].values())


def _check_runs(store, summary):
    from mlflow import MlflowClient

    client = MlflowClient(store)
    runs = client.search_runs([client.get_experiment_by_name("spacevllm").experiment_id])
    by_benchmark = {run.data.params["benchmark"]: run for run in runs}
    assert set(by_benchmark) == set(summary["benchmarks"]) and all(run.info.status == "FINISHED" for run in runs)
    of_refs = by_benchmark["refcocog"]
    assert of_refs.data.metrics["scores.acc_0.5"] == summary["benchmarks"]["refcocog"]["scores"]["acc@0.5"]
    artifacts = {artifact.path for artifact in client.list_artifacts(of_refs.info.run_id)}
    assert {"table.md", "worst.html", "left_out.jsonl", "summary.json"} <= artifacts


def test_captions_through_a_judge(tmp_path, ray_cluster):
    write_fixture("tempcompass", tmp_path, num_videos=2)
    with judge_server(lambda prompt: "A. " in prompt) as (url, seen):
        job = config(tmp_path, tmp_path, "tempcompass", worst=0)
        alone = run(job, standin.load)
        assert alone["scores"]["n_not_scored"] == 2 and not seen
        with pytest.raises(ConnectionError, match="--judge"):  # what the model said is there already
            run(job.model_copy(update={"judge": url, "judge_model": "broken"}), standin.load)
        seen.clear()
        judged = run(job.model_copy(update={"judge": url, "judge_model": "good"}), standin.load)
        assert judged["new"] == 0 and len(seen) == 2
        again = run(job.model_copy(update={"judge": url, "judge_model": "good"}), standin.load)
        assert again["scores"] == judged["scores"] and len(seen) == 2  # nor is the judge asked twice
    assert "n_not_scored" not in judged["scores"] and judged["scores"]["captioning"]["accuracy"] == 1
    with pytest.raises(ConfigError, match="judge_model is not"):
        run(job.model_copy(update={"judge": url}), standin.load)


KILLED = """
import sys
sys.path.insert(0, {tests!r})
import ray.cloudpickle, standin
from pipelines.evaluation.benchmark import BenchmarkConfig, run
ray.cloudpickle.register_pickle_by_value(standin)
run(BenchmarkConfig.model_validate_json({config!r}), standin.load_slow)
"""


@pytest.mark.slow
def test_killed_in_the_middle_nothing_is_asked_twice(tmp_path, ray_cluster):
    write_fixture("charades_sta", tmp_path, num_videos=10)
    job = config(tmp_path, tmp_path, "charades_sta", decode=DecodeOptions(block_rows=1, num_actors=1), worst=0)
    code = KILLED.format(tests=str(Path(__file__).parents[1]), config=job.model_dump_json())
    driver = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[3], stderr=subprocess.DEVNULL)
    parts = tmp_path / "out/charades_sta/predictions"
    deadline = time.monotonic() + 240
    while len(Log(str(parts)).files()) < 3:
        assert driver.poll() is None and time.monotonic() < deadline, "the first run ended before it could be killed"
        time.sleep(0.02)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    files = Log(str(parts)).files()
    kept, asked = {file.path: file.added for file in files}, sum(file.rows for file in files)
    summary = run(job, standin.load)
    assert summary["ok"] == summary["in"] == 20 and 0 < summary["new"] <= 20 - asked
    now = {file.path: file.added for file in Log(str(parts)).files()}
    assert all(now[name] == changed for name, changed in kept.items())  # not one of them was answered again


SHARED = Path(os.environ.get("SPACEVLLM_SHARED_DATA", Path(__file__).parents[3].parent / "shared" / "data"))


@pytest.mark.skipif(not (SHARED / "videos").is_dir(), reason="the real videos are not here")
@pytest.mark.parametrize(
    ("name", "file", "media", "split", "asked", "in_file"),
    [
        ("vidstg", "vidstg/val_annotations.json", "vidor", "val", 90, 8_956),
        ("charades_sta", "charades_sta/charades_sta_test.txt", "charades", "test", 8, 3_720),
    ],
)
def test_of_the_real_files_exactly_what_has_a_video_is_asked(tmp_path, name, file, media, split, asked, in_file):
    (tmp_path / name).mkdir()
    (tmp_path / name / Path(file).name).symlink_to(SHARED / "annotations" / file)
    (tmp_path / name / "media").symlink_to(SHARED / "videos" / media)
    queries = load_queries(name, str(tmp_path), split=split)
    assert (len(queries.asked), queries.counts["in_file"]) == (asked, in_file)
    assert queries.counts["without_media"] == len(queries.left_out) == in_file - asked
    assert all(Path(query.media).exists() for query in queries.asked)
    assert not any(Path(row["media"]).exists() for row in queries.left_out)
    assert len(load_queries(name, str(tmp_path), limit=5, split=split).asked) == 5
