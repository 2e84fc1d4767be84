"""Typed, frozen configuration: YAML plus dotted overrides. An unknown key is an error that names the nearest one."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError


class ConfigError(ValueError):
    """A configuration that its author has to change; the message is one line that says where and what."""


class Config(BaseModel):
    """Base of every configuration object: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


C = TypeVar("C", bound=Config)


def load_config(cls: type[C], path: str | Path | None = None, overrides: Sequence[str] = ()) -> C:
    """``cls`` from a YAML file (or its defaults) with ``section.key=value`` overrides; values are YAML too.

    Raises:
        ConfigError: missing or unreadable file, unknown key (with the nearest known one), wrong type or value.
    """
    tree = _read_yaml(path) if path is not None else {}
    for override in overrides:
        _apply(tree, override)
    return parse_config(cls, tree, origin=str(path or "defaults"))


def parse_config(cls: type[C], tree: dict[str, Any], origin: str) -> C:
    """``cls`` from nested dicts; raises ConfigError with ``origin`` in front, and the notes of a ConfigError inside."""
    try:
        return cls.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        refusal = ConfigError(": ".join(part for part in (origin, key, _explain(cls, first)) if part))
        for note in getattr(first.get("ctx", {}).get("error"), "__notes__", ()):
            refusal.add_note(note)
        raise refusal from None


def save_config(config: Config, path: str | Path) -> None:
    """Writes the resolved configuration, defaults included, as YAML."""
    Path(path).write_text(dump_config(config))


def dump_config(config: Config) -> str:
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _read_yaml(path: str | Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        raise ConfigError(f"cannot read config {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected a mapping of sections, found a {type(tree).__name__}")
    return tree


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        quotes = "words that belong together need quotes"
        raise ConfigError(f"override {override!r} is not of the form section.key=value ({quotes})")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"override {override!r}: the value is not valid YAML") from None
    if isinstance(value, str):  # YAML 1.1 reads 1e-4 as a string
        with suppress(ValueError):
            value = float(value)
    *parents, leaf = key.split(".")
    for parent in parents:
        child = tree.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"override {override!r}: {parent} is a value, not a section")
        tree = child
    tree[leaf] = value


def _explain(cls: type[Config], error: Any) -> str:
    if error["type"] == "value_error":  # of a rule that spans keys: it names them
        return str(error["ctx"]["error"])
    if error["type"] == "missing":  # the input is all of its section
        return str(error["msg"])
    if error["type"] != "extra_forbidden":
        return f"{error['msg']} (got {error['input']!r})"
    leaf = str(error["loc"][-1])
    known = _known_keys(cls, error["loc"][:-1])
    near = difflib.get_close_matches(leaf, known, n=1, cutoff=0.5)
    return "unknown key" + (f", did you mean {near[0]!r}?" if near else f"; known keys: {', '.join(known)}")


def _known_keys(cls: type[Config], location: tuple[Any, ...]) -> list[str]:
    for part in location:
        annotation = cls.model_fields[part].annotation if part in cls.model_fields else None
        nested = next(_config_types(annotation), None)
        if nested is None:
            break
        cls = nested
    return list(cls.model_fields)


def _config_types(annotation: Any) -> Iterator[type[Config]]:
    if isinstance(annotation, type) and issubclass(annotation, Config):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _config_types(inner)
