"""A model on published benchmarks: native annotations and media in one folder, on a real Ray and real media."""

from __future__ import annotations

import json

import benchmark_files
import pytest
import ray.cloudpickle
import standin

from pipelines import storage
from pipelines.benchmark import BenchmarkConfig, load_queries, run
from pipelines.tracking import TrackingConfig
from spacevllm.config import ConfigError

ray.cloudpickle.register_pickle_by_value(standin)  # Ray's workers do not see the tests' folder


@pytest.fixture
def root(tmp_path, make_mp4):
    """HC-STVG with one of its two clips, Charades-STA and MVBench."""
    folder = tmp_path / "root"
    benchmark_files.write("hcstvg_v1", folder / "hcstvg_v1")
    make_mp4(folder / "hcstvg_v1/media/55_vfjywN5CN0Y.mp4", num_frames=40, fps=2)
    benchmark_files.write("charades_sta", folder / "charades_sta")
    make_mp4(folder / "charades_sta/media/3MSZA.mp4", num_frames=41, fps=4)
    benchmark_files.write("mvbench", folder / "mvbench/json")
    for name in ("ZS9XR", "v"):
        make_mp4(folder / f"mvbench/media/{name}.mp4")
    return folder


def config(root, tmp_path, name, **changes):
    values = {"model": "m", "benchmark": name, "data_root": str(root), "out": str(tmp_path / "out" / name)}
    return BenchmarkConfig(**values | {"tracking": TrackingConfig(enabled=False)} | changes)


def test_native_files_become_a_table(root, tmp_path, ray_cluster):
    summary = run(config(root, tmp_path, "hcstvg_v1"), standin.load)
    assert (summary["in"], summary["ok"], summary["failed"]) == (2, 1, 1)  # a clip is not there: its row says so
    for protocol in ("dense", "tubedetr", "stcat"):
        scores = summary["scores"][protocol]
        assert (scores["n_queries"], scores["n_missing"]) == (2, 1)
        assert set(summary["baselines"][protocol]) == {"centre_box_whole_clip", "random_object_random_span"}
    out = tmp_path / "out/hcstvg_v1"
    table = (out / "table.md").read_text()
    assert "## hcstvg_v1 · dense" in table and "| **standin** |" in table and "SpaceVLLM-7B" in table
    assert json.loads((out / "summary.json").read_text()) == summary
    rows = storage.read_table(out / "predictions").to_pylist()
    assert sorted(row["answer"] or "" for row in rows) == ["", "asked as stvg"]  # raw answers are kept
    again = run(config(root, tmp_path, "hcstvg_v1"), standin.load)
    assert again["new"] == 0 and again["scores"] == summary["scores"]

    charades = run(config(root, tmp_path, "charades_sta"), standin.load)
    assert charades["scores"]["R1@0.5"] == 0.5  # [0, 5.125) of a 10.25 s clip against [0, 5.1)
    assert set(charades["baselines"][""]) == {"whole_clip", "random_span"}

    quiz = run(config(root, tmp_path, "mvbench", limit=2), standin.load)
    assert quiz["scores"]["n_queries"] == 2 and quiz["scores"]["accuracy"] == 0.5  # it always says A
    assert quiz["baselines"][""]["random_option"]["accuracy"] == pytest.approx(1 / 3)


def test_what_is_missing_is_named(root, tmp_path):
    with pytest.raises(ConfigError, match="no such benchmark; known: hcstvg_v1"):
        load_queries("nope", str(root))
    with pytest.raises(ConfigError, match=r"egoschema: no such file: .*github.com/egoschema"):
        load_queries("egoschema", str(root))
    (root / "hcstvg_v1/media/55_vfjywN5CN0Y.mp4").unlink()
    with pytest.raises(ConfigError, match=r"55_vfjywN5CN0Y.mp4: no such file, .*github.com/tzhhhh123/HC-STVG"):
        run(config(root, tmp_path, "hcstvg_v1"), standin.load)
