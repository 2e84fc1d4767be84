"""What the jobs share: options joined with configuration, inputs checked early, a plan printed, a last line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO, TypeVar

from pydantic import ConfigDict

from pipelines.core import models, storage
from spacevllm.config import Config, ConfigError, dump_config, load_config, parse_config
from spacevllm.text import printable

CONFIGS = Path(__file__).parent / "configs"

C = TypeVar("C", bound=Config)


class _Tree(Config):
    """Any keys at all: a file with its overrides, before the options are laid over it."""

    model_config = ConfigDict(extra="allow")


def resolve(cls: type[C], path: str, overrides: Sequence[str], **options: Any) -> C:
    """The configuration of a job: ``path`` (``""``: defaults), overrides, and on top the command's own options.

    Raises:
        ConfigError: unknown key, wrong type, unreadable file.
    """
    tree = load_config(_Tree, path or None, overrides).model_dump()
    return parse_config(cls, {**tree, **options}, origin=path or "configuration")


def need_folder(option: str, uri: str, inside: str = "", hint: str = "") -> None:
    """Raises ConfigError unless ``uri`` exists and, if given, ``inside`` exists in it."""
    if not storage.exists(uri):
        raise ConfigError(f"{option} {uri}: no such folder")
    if inside and not storage.exists(storage.join(uri, inside)):
        raise ConfigError(f"{option} {uri}: holds no {inside}" + (f"; {hint}" if hint else ""))


def need_model(uri: str) -> None:
    """Raises ConfigError unless ``uri`` is a model folder, here or below a URL, or one in MLflow's registry."""
    place = models.pinned(uri)
    if models.is_listed(place):
        need_folder("--model", place, "config.json", "give the folder that `spacevllm train` wrote as OUT/model")


def need_dataset(uri: str) -> None:
    need_folder("--data", uri, "unistg", "give the folder that `spacevllm moving-shapes` or `build-unistg` wrote")


def show_plan(job: str, config: Config, facts: str = "") -> int:
    """Prints what was found and the resolved configuration, as YAML; the exit status of a dry run."""
    say(f"# spacevllm {job}: everything checked, nothing done{': ' + facts if facts else ''}")
    say(dump_config(config).removesuffix("\n"))
    return 0


def finish(line: str) -> None:
    """The one line a job ends with: where the results are."""
    print(printable(line), flush=True)


def say(text: str, file: TextIO | None = None) -> None:
    """Prints ``text``; names and questions in it cannot steer the terminal."""
    print(printable(text, keep="\n"), file=file, flush=True)
