"""Model folders anywhere: on this machine, below a URL, or a version in MLflow's registry → a folder of this machine.

What is fetched lies in the machine's cache, once for all its processes and named by the versions of its files; it may
be deleted whenever nothing runs.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pipelines.core import locks, storage
from pipelines.core.outbox import one_line
from pipelines.core.tracking import be_brief
from spacevllm.config import ConfigError
from spacevllm.data.instance import instance_id
from spacevllm.model.digest import cache_folder, digest_of

REGISTERED = "models:/"
_OF_THE_SERVER = "/api/2.0/mlflow-artifacts/artifacts/"  # MLflow's own store of files, behind its server
_NAMED = re.compile(r"models:/(?P<name>[^/@]+)(@(?P<alias>[^/@]+)|/(?P<version>\d+))")


def is_remote(uri: str) -> bool:
    return uri.startswith(REGISTERED) or not storage.is_local(uri)


def is_listed(uri: str) -> bool:
    """Whether ``storage`` can look into a pinned uri; MLflow's server has an interface of its own."""
    return _OF_THE_SERVER not in uri


def pinned(uri: str) -> str:
    """Where the files lie that ``uri`` names now: an alias may name others tomorrow, and all processes of a job read
    the same. A folder or URL is itself.

    Raises:
        ConfigError: not in the registry, or no registry.
    """
    if not uri.startswith(REGISTERED):
        return uri
    found = _NAMED.fullmatch(uri)
    if not found:
        raise ConfigError(f"model {uri}: write models:/NAME@ALIAS or models:/NAME/VERSION")
    store = os.environ.get("MLFLOW_TRACKING_URI", "")
    registry = os.environ.get("MLFLOW_REGISTRY_URI", store)
    if not registry:
        raise ConfigError(f"model {uri}: set MLFLOW_TRACKING_URI to the MLflow server whose registry holds it")
    be_brief()
    try:
        return _look_up(found["name"], found["alias"], found["version"], store or registry, registry)
    except Exception as error:  # every store has errors of its own
        raise ConfigError(one_line(f"model {uri} is not to be had from {registry}: {error}")) from None


def _look_up(name: str, alias: str | None, version: str | None, store: str, registry: str) -> str:
    from mlflow import MlflowClient
    from mlflow.store.artifact.mlflow_artifacts_repo import MlflowArtifactsRepository
    from mlflow.store.artifact.runs_artifact_repo import RunsArtifactRepository

    client = MlflowClient(store, registry)
    wanted = version or client.get_model_version_by_alias(name, alias or "").version
    place = str(client.get_model_version_download_uri(name, wanted))
    if place.startswith("runs:/"):
        place = RunsArtifactRepository.get_underlying_uri(place, store)
    if place.startswith("mlflow-artifacts:"):  # whole, so that machines can read it that do not know the server
        place = MlflowArtifactsRepository.resolve_uri(place, store)
    return storage.absolute(place) if storage.is_local(place) else place


def local_model(uri: str) -> str:
    """The model folder on this machine, fetched if need be; other processes that want it meanwhile wait.

    Raises:
        ConfigError: see ``pinned``; or it cannot be fetched from there. FileNotFoundError: no model folder.
        OutputError: no room here.
    """
    uri = pinned(uri)
    if not is_remote(uri):
        return storage.absolute(uri) if "://" in uri else uri
    if not is_listed(uri):
        return _cached(uri, [], lambda folder: _fetch_from_mlflow(uri, folder))
    if not storage.is_listable(uri):
        raise ConfigError(f"model {uri}: a web server does not say what a folder holds; fetch it to a folder first")
    uri = storage.absolute(uri)
    files = storage.find(uri)
    if storage.join(uri, "config.json") not in files:
        raise FileNotFoundError(f"{uri} is not a model folder: it has no config.json")

    def fetch(folder: str) -> None:
        storage.copy_folder(uri, folder)
        if storage.find(uri) != files:
            raise ConfigError(f"model {uri} was written to while it was fetched: wait for that, then run this again")

    return _cached(uri, [part for file in files.items() for part in file], fetch)


def _cached(uri: str, versions: list[str], fetch: Callable[[str], None]) -> str:
    place = cache_folder() / "models" / instance_id(uri, *versions)
    folder, partial = place / storage.name(uri), Path(f"{place}.partial")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{place.parent}: {error.strerror}; XDG_CACHE_HOME names another place for models") from error
    with locks.waiting_lock(f"{place}.lock"):
        if not place.is_dir():
            shutil.rmtree(partial, ignore_errors=True)  # of a process that died
            fetch(str(partial / folder.name))
            os.rename(partial, place)
            with suppress(FileNotFoundError, ConfigError):  # who loads it says what is wrong with it
                digest_of(folder)  # once, and not by all who wait
    return str(folder)


def _fetch_from_mlflow(uri: str, folder: str) -> None:
    from mlflow.artifacts import download_artifacts

    be_brief()
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    try:
        place = download_artifacts(artifact_uri=uri, dst_path=f"{folder}.mlflow")  # in it, under a name of its own
        os.rename(place, folder)
        shutil.rmtree(f"{folder}.mlflow", ignore_errors=True)
    except Exception as error:  # every store has errors of its own
        raise ConfigError(one_line(f"model {uri} cannot be fetched: {error}")) from None
