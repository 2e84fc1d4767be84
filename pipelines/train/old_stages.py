"""Recipes of earlier versions had ``stages`` with ``mix`` and ``rehearse``: the same in ``sources`` and ``phases``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from spacevllm.config import Config, ConfigError

MEANING = "stages are two things now: sources, what can be read, and phases, what is learned from them"
ANEW = "# A run that was started with stages starts anew: its checkpoints are another recipe's."
OF_SOURCE = ("media", "tasks", "questions", "micro_batch_size")
OF_PHASE = ("objective", "steps", "batch_size", "learning_rate")
RENAMED = {"mix": "sources", "mix_block": "block"}
EXAMPLE = """\
sources:
  stills: {media: image, questions: 5}
  videos: {media: video, questions: 8}
phases:
  stills: {sources: stills, steps: 150, batch_size: 16}
  videos: {sources: {videos: 5, stills: 1}, draw: batches, steps: 2300, batch_size: 8}"""


class OldStage(Config):
    """A stage as it was written, with its defaults of then."""

    media: str | None = None
    tasks: tuple[str, ...] = ()
    objective: str = "ground"
    mix: dict[str, float] = Field(default_factory=dict)
    mix_block: int = 0
    steps: int = 0
    batch_size: int = 0
    micro_batch_size: int = 0
    questions: int = 8
    learning_rate: float = 1.0
    rehearse: str = ""
    rehearse_every: int = 6

    def given(self, *names: str) -> dict[str, Any]:
        """What differs from the defaults."""
        values = self.model_dump(mode="json")
        return {name: values[name] for name in names if getattr(self, name) != OldStage.model_fields[name].default}


def refusal(tree: Mapping[str, Any]) -> ConfigError:
    """Why ``tree``, which has ``stages``, is not read; its notes show the new form of the very same recipe."""
    if "sources" in tree and (renamed := _renamed(tree)):
        return ConfigError(f"{MEANING}: {renamed}")
    try:
        stages = TypeAdapter(dict[str, OldStage]).validate_python(tree["stages"])
        new_form = as_yaml(*sources_and_phases(stages))
    except (ValidationError, KeyError):  # it was no recipe of then, either
        error = ConfigError(f"{MEANING}. For example:")
        error.add_note(EXAMPLE)
        return error
    error = ConfigError(f"{MEANING}. In place of these stages write:")
    error.add_note("\n".join([new_form, *_lost(stages), ANEW]))
    return error


def sources_and_phases(stages: Mapping[str, OldStage]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same training, with the same order of clips: every stage had a place of its own in its data, so each that
    read media becomes a source."""
    sources = {name: stage.given(*OF_SOURCE) for name, stage in stages.items() if stage.media}
    phases = {name: _phase(name, stage, stages) for name, stage in stages.items() if stage.steps}
    return sources, phases


def _phase(name: str, stage: OldStage, stages: Mapping[str, OldStage]) -> dict[str, Any]:
    weights = {source: int(weight) if weight.is_integer() else weight for source, weight in stage.mix.items()}
    reading: dict[str, Any] = {"sources": weights or name}
    if stage.mix_block:
        reading["block"] = stage.mix_block
    if stage.rehearse:
        reading = {"sources": {name: stage.rehearse_every - 1, stage.rehearse: 1}, "draw": "batches"}
        if (size := stages[stage.rehearse].batch_size) != stage.batch_size:
            reading["batch_sizes"] = {stage.rehearse: size}
    return reading | stage.given(*OF_PHASE)


def _lost(stages: Mapping[str, OldStage]) -> list[str]:
    """What has no new form."""
    rehearsed = {name: stages[stage.rehearse] for name, stage in stages.items() if stage.rehearse and stage.steps}
    return [
        f"# {name} rehearsed {stages[name].rehearse} with objective {other.objective}, and a phase has only one."
        for name, other in rehearsed.items()
        if other.objective != stages[name].objective
    ]


def as_yaml(sources: Mapping[str, Any], phases: Mapping[str, Any]) -> str:
    """One line a source and a phase, as in the shipped recipes."""
    lines = []
    for section, entries in (("sources", sources), ("phases", phases)):
        lines.append(f"{section}:")
        for name, entry in entries.items():
            text = yaml.safe_dump(entry, default_flow_style=True, sort_keys=False, width=10**6).strip()
            lines.append(f"  {name}: {text}")
    return "\n".join(lines)


def _renamed(tree: Mapping[str, Any]) -> str:
    """For overrides in old words of a recipe in new ones: what each is called now."""
    stages = tree["stages"] if isinstance(tree["stages"], dict) else {}
    keys = [(name, key) for name, stage in stages.items() if isinstance(stage, dict) for key in stage]
    return "; ".join(f"stages.{name}.{key} is {_new_key(name, key, tree)}" for name, key in keys)


def _new_key(name: str, key: str, tree: Mapping[str, Any]) -> str:
    if key in OF_SOURCE:
        return f"sources.{_only_source(name, tree.get('phases'))}.{key}"
    if key in ("rehearse", "rehearse_every"):
        return f"phases.{name}.sources={{{name}: 5, OTHER: 1}} with phases.{name}.draw=batches"
    return f"phases.{name}.{RENAMED.get(key, key)}"


def _only_source(phase: str, phases: Any) -> str:
    """The source of this phase, if it has one alone; otherwise its own name, as a source may be called so, too."""
    entry = phases.get(phase) if isinstance(phases, dict) else None
    source = entry.get("sources") if isinstance(entry, dict) else None
    return source if isinstance(source, str) else phase
