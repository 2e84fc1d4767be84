"""A backbone's published weights as a SpaceVLLM to train: new queries, a new space decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from jobs.common import finish, need_folder, resolve, show_plan
from pipelines.core import storage
from pipelines.core.progress import Progress
from spacevllm.config import Config, ConfigError


class InitConfig(Config):
    """``init``: backbone and out are local folders. fields: of ``SpaceVLLMConfig``, that differ from the paper's.
    seed: of what is new."""

    backbone: str
    out: str
    seed: int = Field(default=0, ge=0)
    fields: dict[str, Any] = Field(default_factory=dict)


def run(backbone: str, out: str, overrides: Sequence[str], dry_run: bool) -> int:
    """Checks everything, then copies the weights under their names here; returns the exit status."""
    config = resolve(InitConfig, "", overrides, backbone=backbone, out=out)
    for name, uri in (("--backbone", backbone), ("--out", out)):
        if not storage.is_local(uri):
            raise ConfigError(f"{name} {uri}: weights are copied between local folders; fetch them first")
    need_folder(
        "--backbone", backbone, "config.json", "give the folder of a Qwen3-VL or LLaVA-OneVision, as downloaded"
    )
    from spacevllm.model.fields import check_fields
    from spacevllm.model.initial import plan_init, write_initial  # needs torch: seconds

    check_fields(config.fields, "fields.")
    try:
        plan = plan_init(backbone, config.fields)
    except ConfigError:
        raise
    except ValueError as error:  # fields that do not go together
        raise ConfigError(f"fields: {error}") from None
    facts = f"{plan.parameters / 1e6:.2f}M parameters, {plan.size / 1e9:.2f} GB in {len(plan.files)} files"
    facts = f"{plan.config.backbone.model_type}, {facts}, {plan.config.num_frames} frames"
    if dry_run:
        return show_plan("init", config, facts)
    with Progress("shards", len(plan.files) + 1, "shards") as progress:
        write_initial(plan, out, config.seed, progress.advance)
    finish(f"model: {out} ({facts}; queries and space decoder untrained)")
    return 0
