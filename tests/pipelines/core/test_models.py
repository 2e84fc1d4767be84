"""Model folders in S3 and in MLflow's registry: a real server each, fetched once, whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import standin
from mlflow import MlflowClient
from mlflow_server import mlflow_server
from s3_server import s3_bucket

from jobs.common import need_model
from pipelines.archive.predict import Answerer, describe, load_predictor
from pipelines.core import storage
from pipelines.core.models import local_model, pinned
from spacevllm.config import ConfigError
from spacevllm.model.folder import read_facts

ROOT = Path(__file__).parents[3]


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "spacevllm" / "models"


@pytest.fixture
def s3(cache, tiny_model):
    """The tiny model in a bucket; gives the server's middleware."""
    with s3_bucket() as (_, app):
        storage.copy_folder(tiny_model, "s3://bucket/run/model")
        yield app


@pytest.fixture
def registry(monkeypatch, cache, tmp_path_factory):
    """A client of an MLflow registry without versions."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path_factory.getbasetemp()}/registry.db")
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    if not client.search_registered_models():
        client.create_registered_model("grounder")
    return client


def files(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir() if not path.name.startswith(".")}


def test_a_model_in_a_bucket_is_fetched_once_and_again_when_it_changed(s3, cache, tiny_model):
    first = local_model("s3://bucket/run/model")
    assert Path(first).name == "model" and files(first) == files(tiny_model)
    requests = s3.counts["requests"]
    assert local_model("s3://bucket/run/model/") == first
    assert s3.counts["requests"] - requests < 4, "a look at the folder, nothing of the files"
    model = describe("s3://bucket/run/model", load_predictor)
    assert (model.path, model.id) == ("s3://bucket/run/model", "model")
    assert model.digest == read_facts(tiny_model).digest
    assert load_predictor(model.path, "cpu").digest == model.digest
    storage.write_text("s3://bucket/run/model/calibration.json", '{"slope": 1}')
    second = local_model("s3://bucket/run/model")
    assert second != first and set(files(second)) == {*files(first), "calibration.json"}
    need_model("s3://bucket/run/model")


def test_processes_that_want_it_together_fetch_it_once(s3, cache, tiny_model):
    code = "from pipelines.core.models import local_model; print(local_model('s3://bucket/run/model'))"
    before = s3.counts["requests"]
    started = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE) for _ in range(2)]
    [place] = {process.communicate(timeout=500)[0].decode().strip() for process in started}
    assert files(place) == files(tiny_model)
    looks, fetched = 2 * 4 + 4, 4 * len(files(tiny_model))
    assert s3.counts["requests"] - before < looks + 2 * fetched
    assert [path.name for path in cache.iterdir() if path.is_dir()] == [Path(place).parent.name]


def test_half_a_download_is_never_a_model(s3, cache, tiny_model, monkeypatch):
    whole = storage.copy_folder

    def cut(source, target):
        storage.write_text(storage.join(target, "config.json"), "{}")
        raise storage.OutputError("the disk is full")

    monkeypatch.setattr(storage, "copy_folder", cut)
    with pytest.raises(storage.OutputError):
        local_model("s3://bucket/run/model")
    assert not [path for path in cache.iterdir() if path.is_dir() and not path.name.endswith(".partial")]

    def beside_a_writer(source, target):
        whole(source, target)
        storage.write_text("s3://bucket/run/model/config.json", "{} ")

    monkeypatch.setattr(storage, "copy_folder", beside_a_writer)
    with pytest.raises(ConfigError, match="was written to while it was fetched"):
        local_model("s3://bucket/run/model")
    monkeypatch.setattr(storage, "copy_folder", whole)
    storage.copy_folder(tiny_model, "s3://bucket/run/model")
    assert files(local_model("s3://bucket/run/model")) == files(tiny_model)


def test_what_is_no_model_anywhere_is_said(s3, registry):
    with pytest.raises(FileNotFoundError, match="s3://bucket/none is not a model folder: it has no config"):
        local_model("s3://bucket/none")
    with pytest.raises(ConfigError, match="a web server does not say what a folder holds"):
        local_model("https://example.org/model")
    with pytest.raises(ConfigError, match="write models:/NAME@ALIAS or models:/NAME/VERSION"):
        pinned("models:/grounder")
    for uri in ("models:/nobody@best", "models:/grounder/7"):
        with pytest.raises(ConfigError, match=f"model {uri} is not to be had from sqlite"):
            need_model(uri)


def test_without_a_registry_it_is_said_how_to_name_one(monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="set MLFLOW_TRACKING_URI"):
        pinned("models:/grounder@best")


def test_an_alias_is_the_version_that_it_names_now(s3, registry, tiny_model, tmp_path):
    versions = [
        registry.create_model_version("grounder", source).version
        for source in (str(tiny_model), "s3://bucket/run/model")
    ]
    registry.set_registered_model_alias("grounder", "best", versions[0])
    assert local_model("models:/grounder@best") == str(tiny_model) == pinned(f"models:/grounder/{versions[0]}")
    registry.set_registered_model_alias("grounder", "best", versions[1])
    assert pinned("models:/grounder@best") == "s3://bucket/run/model"
    model = describe("models:/grounder@best", load_predictor)
    assert model.path == "s3://bucket/run/model", "actors look nothing up, and an alias may move"
    assert model.digest == read_facts(tiny_model).digest
    need_model("models:/grounder@best")


@pytest.mark.slow
def test_a_model_that_an_mlflow_server_keeps_comes_from_it(cache, tiny_model, tmp_path, monkeypatch):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    with mlflow_server(tmp_path) as (_, address):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        client = MlflowClient(address)
        run = client.create_run("0").info
        client.log_artifacts(run.run_id, str(tiny_model), "model")
        client.create_registered_model("grounder")
        client.create_model_version("grounder", f"runs:/{run.run_id}/model", run.run_id)
        client.set_registered_model_alias("grounder", "best", "1")
        need_model("models:/grounder@best")
        place = pinned("models:/grounder@best")
        monkeypatch.delenv("MLFLOW_TRACKING_URI")  # as on a machine that knows nothing of the server
        assert files(local_model(place)) == files(tiny_model)
    assert files(local_model(place)) == files(tiny_model), "the server is gone, the model is here"


def test_an_actor_with_another_model_refuses(tmp_path):
    model = describe(str(tmp_path), standin.load)
    Answerer(model, "cpu", standin.load)
    with pytest.raises(ConfigError, match="has digest fedcba9876543210, where the job started 0123456789abcdef"):
        Answerer(model, "cpu", standin.load_other)
