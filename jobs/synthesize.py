"""Makes spatio-temporal records from captioned videos: analyzer → annotator → refiner → filter."""

from __future__ import annotations

from jobs.common import finish, need_folder, resolve, say, show_plan
from pipelines.core import storage
from pipelines.dataset.synthesize import SynthesizeConfig, check_models, compare, read_captions
from pipelines.dataset.synthesize import run as synthesize
from spacevllm.data.synthesis.sample import STAGES


def run(config: str, data: str, out: str, overrides: list[str], dry_run: bool, against: str = "") -> int:
    """Makes what is missing, prints the funnel; returns the exit status."""
    settings = resolve(SynthesizeConfig, config, overrides, data=data, out=out)
    need_folder("--data", data, "annotations", "captions are the vtg records of DIR/annotations/*.jsonl")
    if against:
        need_folder("--against", against, "stages", "give the output folder of another run")
    if dry_run:
        check_models(settings)
        return show_plan("synthesize", settings, f"{len(read_captions(data, settings.splits)[0])} captions")
    summary = synthesize(settings)
    say(storage.read_text(storage.join(out, "funnel.txt")).removesuffix("\n"))
    if against:
        _print_differences(against, out)
    unread = f", {summary['unreadable']} lines were no record" if summary["unreadable"] else ""
    finish(f"records: {storage.join(out, 'annotations')} ({summary['ok']} of {summary['in']} captions{unread})")
    return 0


def _print_differences(against: str, out: str) -> None:
    for stage in STAGES:
        found = compare(against, out, stage)
        say(f"{stage}: {len(found)} samples were judged differently in {against}")
        for sample, (old, new) in list(found.items())[:10]:
            say(f"  {sample}: {old or 'ok'} → {new or 'ok'}")
