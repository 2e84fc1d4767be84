"""Rules of a schedule that span several keys. Each breach is one line: where, what, and what to do."""

from __future__ import annotations

from collections.abc import Iterator

from pipelines.train.mixture import block_counts
from pipelines.train.phases import Phase, Schedule


def breaches(schedule: Schedule) -> Iterator[str]:
    """What does not fit together. Only the first is sure to be one: later rules rely on the earlier ones."""
    if not schedule.total_steps:
        yield "phases have 0 steps in all"
    for name, phase in schedule.phases.items():
        yield from _of_sources(f"phases.{name}", phase, schedule)
        yield from _of_draw(f"phases.{name}", phase)
        yield from _of_batches(f"phases.{name}", phase, schedule)
        yield from _of_blocks(f"phases.{name}", phase, schedule)


def _of_sources(where: str, phase: Phase, schedule: Schedule) -> Iterator[str]:
    selections: dict[str, str] = {}
    for name in phase.sources:
        if name not in schedule.sources:
            yield f"{where}.sources: {name!r} is none of the sources {', '.join(schedule.sources)}"
        source = schedule.sources[name]
        if source.media == "text" and phase.objective == "align":
            yield f"{where}: there is nothing in text that objective align could align; leave out {name}"
        if (other := selections.setdefault(source.selection, name)) != name:
            yield f"{where}.sources: {other} and {name} both read {source.selection}; keep one, with both weights"


def _of_draw(where: str, phase: Phase) -> Iterator[str]:
    if phase.draw == "clips" and phase.batch_sizes:
        yield f"{where}.batch_sizes needs draw: batches; with draw: clips a step has batch_size clips of all sources"
    if phase.draw == "batches" and phase.block:
        yield f"{where}.block needs draw: clips; with draw: batches the sum of the weights is what repeats"
    for name in phase.batch_sizes:
        if name not in phase.sources:
            yield f"{where}.batch_sizes: {name!r} is none of its sources {', '.join(phase.sources)}"
    for name, weight in phase.sources.items():
        if phase.draw == "batches" and not weight.is_integer():
            yield f"{where}.sources.{name}: {weight} steps cannot be; draw: batches needs whole weights"


def _of_batches(where: str, phase: Phase, schedule: Schedule) -> Iterator[str]:
    workers = f"workers.num_workers {schedule.num_workers}"
    for name in phase.sources:
        key = f"batch_sizes.{name}" if name in phase.batch_sizes else "batch_size"
        micro = 1 if phase.mixes else schedule.sources[name].micro_batch_size or 1  # shares differ from step to step
        times_micro = f" x sources.{name}.micro_batch_size {micro}" if micro > 1 else ""
        if phase.batch_of(name) % (schedule.num_workers * micro):
            yield f"{where}.{key} {phase.batch_of(name)} does not divide by {workers}{times_micro}"


def _of_blocks(where: str, phase: Phase, schedule: Schedule) -> Iterator[str]:
    if phase.block % schedule.num_workers:
        yield f"{where}.block {phase.block} does not divide by workers.num_workers {schedule.num_workers}"
    if phase.mixes:
        size = schedule.block_size(phase)
        for name, count in block_counts(phase.sources, size).items():
            if not count:
                yield f"{where}: a worker's block of {size} clips has none of {name}; raise block or its weight"
