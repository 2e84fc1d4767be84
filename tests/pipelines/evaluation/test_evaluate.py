"""A model on a data set: every record is predicted, counted and scored, on a real Ray and real media."""

from __future__ import annotations

import json
import math
import shutil

import pytest
import ray.cloudpickle
import standin

from pipelines.archive.predict import describe
from pipelines.archive.work import make_work, wanted_ids
from pipelines.core import storage
from pipelines.core.tracking import TrackingConfig
from pipelines.dataset import build_unistg
from pipelines.evaluation.evaluate import EvaluateConfig, questions, run
from pipelines.media.manifest import media_rows
from spacevllm.config import ConfigError
from spacevllm.data.instance import Instance
from spacevllm.data.moving_shapes import MovingShapesConfig, write_data_set
from spacevllm.model.configuration import tiny_config
from spacevllm.model.modeling import SpaceVLLM
from spacevllm.model.processing import SpaceVLLMProcessor
from spacevllm.model.tokenizer import build_tiny_tokenizer
from spacevllm.predictor import Predictor
from spacevllm.span import Span
from spacevllm.video import sample_frames

ray.cloudpickle.register_pickle_by_value(standin)  # Ray's workers do not see the tests' folder
OFF = TrackingConfig(enabled=False)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory, ray_cluster):
    """Four videos to train on (nobody does) and two held out; and a question about neither."""
    folder = tmp_path_factory.mktemp("shapes")
    write_data_set(folder, 6, seed=3, config=MovingShapesConfig(num_frames=41), test_share=0.34)
    text = Instance("text", "qa", "general", "test", "", "text", "What has three sides?", "A triangle.", num_frames=0)
    with (folder / "annotations/test.jsonl").open("a") as file:
        file.write(json.dumps(text.to_row()) + "\n")
    build_unistg.run(build_unistg.BuildUnistgConfig(data=str(folder), out=str(folder), tracking=OFF))
    return folder


def config(data, tmp_path, **changes):
    values = {"model": "m", "data": str(data), "out": str(tmp_path / "out"), "tracking": OFF}
    return EvaluateConfig(**values | changes)


def counts_by_task(data):
    rows = storage.read_table(data / "unistg/test").to_pylist()
    tasks = [row["task"] for row in rows if row["media_type"] != "text"]
    return {task: tasks.count(task) for task in set(tasks)}


@pytest.mark.slow
def test_every_record_is_scored_once(shapes, tmp_path):
    summary = run(config(shapes, tmp_path), standin.load)
    counts = counts_by_task(shapes)
    assert set(counts) == {"stvg", "vtg", "rec", "qa"}
    assert summary["in"] == summary["ok"] == summary["new"] == sum(counts.values()) and summary["failed"] == 0
    assert summary["text_not_asked"] == 1
    assert summary["decoded"] == 4  # two videos and two images, each once
    assert summary["stvg"]["dense"]["n_queries"] == counts["stvg"]
    for task in ("vtg", "rec", "qa"):
        assert summary[task]["n_queries"] == counts[task]
    assert 0 < summary["stvg"]["dense"]["m_tIoU"] < 1
    # the stand-in says what two of the baselines say, so the way through Ray and Parquet must not change the score
    assert summary["rec"]["mIoU"] == pytest.approx(summary["rec"]["baselines"]["centre_box"]["mIoU"])
    assert summary["qa"]["accuracy"] == summary["qa"]["baselines"]["first_option"]["accuracy"]
    assert json.loads((tmp_path / "out/summary.json").read_text()) == summary
    assert storage.read_table(tmp_path / "out/queries.parquet").num_rows == summary["in"]
    asked = storage.read_table(tmp_path / "out/predictions").to_pylist()
    assert all(row["answer"] == f"asked as {row['task']}" for row in asked if row["task"] in ("stvg", "vtg"))

    again = run(config(shapes, tmp_path), standin.load)
    assert again["new"] == again["decoded"] == 0
    assert {task: again[task] for task in counts} == {task: summary[task] for task in counts}


@pytest.mark.slow
def test_a_broken_video_scores_zero_and_is_counted(shapes, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(shapes, data)
    (data / "media/test/000000.mp4").write_text("no longer a video")
    summary = run(config(data, tmp_path), standin.load)
    counts = counts_by_task(data)
    assert summary["in"] == sum(counts.values()) == summary["ok"] + summary["failed"]
    assert summary["errors"] == {"not_a_video": summary["failed"]} and summary["failed"] > 0
    assert summary["stvg"]["dense"]["n_queries"] == counts["stvg"]
    missing = [summary["stvg"]["dense"], summary["vtg"], summary["qa"], summary["rec"]]
    assert sum(scores["n_missing"] for scores in missing) == summary["failed"]


def test_a_segment_is_all_that_is_looked_at(make_mp4, tmp_path):
    """VidSTG's used_segment: questions about one video share a decode only where they share the segment."""
    clip = make_mp4(tmp_path / "a.mp4", num_frames=60, fps=30)
    video = {"media": "a.mp4", "media_type": "video", "fps_num": 30, "num_frames": 60, "task": "vtg", "end_s": 1.0}
    common = {"source": "vidstg", "split": "test", "question": "who?", "begin_s": 0.5} | video
    parts = {"whole": (None, None), "all": (0, 60), "first": (0, 23), "middle": (7, 41), "again": (7, 41)}
    asked = [Instance(id=k, segment_begin_frame=b, segment_end_frame=e, **common) for k, (b, e) in parts.items()]
    seen = {}
    for row, about in questions(media_rows({"a.mp4": str(clip)}), asked):
        part = None if row["begin_s"] == row["end_s"] else Span(row["begin_s"] or 0.0, row["end_s"] or math.inf)
        seen["+".join(q.id for q in about)] = sample_frames(clip, 60, part=part).indices
    model = describe("m", standin.load)
    made_from = wanted_ids(make_work(questions(media_rows({"a.mp4": str(clip)}), asked), model))
    assert len(set(made_from.values())) == 3  # about another part it is another answer
    borders = {name: (indices[0], indices[-1]) for name, indices in seen.items()}
    assert borders == {"whole+all": (0, 59), "first": (0, 22), "middle+again": (7, 40)}


def test_a_folder_without_the_split_is_an_error(shapes, tmp_path):
    with pytest.raises(ConfigError, match="no Uni-STG shards"):
        run(config(shapes, tmp_path, split="val"), standin.load)


@pytest.mark.slow
def test_the_real_predictor_goes_the_whole_way(shapes, tmp_path):
    """Untrained, so its words are noise: unreadable answers are counted, nothing is lost."""
    tokenizer = build_tiny_tokenizer(["what grows?", "From 1.00s to 2.00s."])
    model = tiny_config(len(tokenizer))
    Predictor(SpaceVLLM(model), SpaceVLLMProcessor(tokenizer, model)).save(tmp_path / "model")
    store = f"sqlite:///{tmp_path}/mlflow.db"
    job = config(shapes, tmp_path, model=str(tmp_path / "model"), tracking=TrackingConfig(store=store))
    summary = run(job)
    counts = counts_by_task(shapes)
    assert summary["in"] == sum(counts.values()) == summary["ok"] + summary["failed"]
    assert set(summary["errors"]) <= {"unparsable"}, summary["errors"]
    assert summary["rec"]["n_missing"] == summary["qa"]["n_missing"] == summary["stvg"]["dense"]["n_missing"] == 0
    _check_run(store, shapes, summary)


def _check_run(store, shapes, summary):
    from mlflow import MlflowClient

    client = MlflowClient(store)
    [run_] = client.search_runs([client.get_experiment_by_name("spacevllm").experiment_id])
    assert run_.info.run_name == "evaluate" and run_.info.status == "FINISHED"
    assert run_.data.tags["dataset_digest"] == storage.read_json(shapes / "dataset.json")["digest"]
    assert run_.data.metrics["stvg.dense.m_tIoU"] == summary["stvg"]["dense"]["m_tIoU"]
    assert client.get_metric_history(run_.info.run_id, "answers_done")[-1].value == summary["new"]
