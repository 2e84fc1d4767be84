"""Converts a LLaVA-NeXT checkpoint, such as LLaVA-Video-7B-Qwen2, to a folder that training starts from."""

from __future__ import annotations

from jobs.common import finish, need_folder, show_plan
from pipelines.core import storage
from pipelines.core.progress import Progress
from spacevllm.config import Config, ConfigError


class ImportLlavaVideoConfig(Config):
    """``import-llava-video``: source and out are local folders."""

    source: str
    out: str


def run(source: str, out: str, dry_run: bool) -> int:
    """Checks everything, then copies the weights under their new names; returns the exit status."""
    for name, uri in (("SRC", source), ("OUT", out)):
        if not storage.is_local(uri):
            raise ConfigError(f"{name} {uri}: weights are converted between local folders; copy them to their place")
    need_folder("SRC", source, "config.json", "give the folder of a LLaVA-NeXT checkpoint, as it was downloaded")
    from spacevllm.model.initial import write_initial
    from spacevllm.model.llava_video import plan_import  # needs torch: seconds

    plan = plan_import(source)
    facts = f"{plan.parameters / 1e6:.2f}M parameters, {plan.size / 1e9:.2f} GB in {len(plan.files)} files"
    if dry_run:
        return show_plan("import-llava-video", ImportLlavaVideoConfig(source=source, out=out), facts)
    with Progress("shards", len(plan.files) + 1, "shards") as progress:
        write_initial(plan, out, advance=progress.advance)
    finish(f"model: {out} ({facts}; queries and space decoder untrained)")
    return 0
