"""How many samples each stage keeps, and why the others went."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from spacevllm.data.synthesis.sample import STAGES

PAPER_REMOVED = 0.40  # of the samples, by all stages together (arXiv 2503.13983)


class FunnelStage(NamedTuple):
    """``entered`` samples, ``kept`` of them; ``reasons`` of the others, the most frequent first."""

    name: str
    entered: int
    kept: int
    reasons: dict[str, int]

    @property
    def removed(self) -> float:
        """Share in [0, 1] of what entered."""
        return 1 - self.kept / self.entered if self.entered else 0.0


def funnel(entered: int, rejected: Iterable[tuple[str, str]]) -> list[FunnelStage]:
    """The stages in order.

    Args:
        entered: samples before the first stage.
        rejected: (stage, reason) of each sample that went.

    Raises:
        ValueError: a stage of another name, or more samples rejected than entered.
    """
    reasons: dict[str, Counter[str]] = {stage: Counter() for stage in STAGES}
    for stage, reason in rejected:
        if stage not in reasons:
            raise ValueError(f"no stage is called {stage!r}: they are {', '.join(STAGES)}")
        reasons[stage][reason] += 1
    found = []
    for stage in STAGES:
        kept = entered - reasons[stage].total()
        if kept < 0:
            raise ValueError(f"{stage} rejected {reasons[stage].total()} of {entered} samples")
        found.append(FunnelStage(stage, entered, kept, dict(reasons[stage].most_common())))
        entered = kept
    return found


def funnel_table(stages: Iterable[FunnelStage]) -> str:
    """Lines of text; the last one holds the whole against the paper."""
    listed = list(stages)
    lines = [f"{'stage':<10} {'in':>8} {'kept':>8} {'removed':>8}  reasons"]
    for stage in listed:
        why = ", ".join(f"{reason} {count}" for reason, count in stage.reasons.items())
        lines.append(f"{stage.name:<10} {stage.entered:>8} {stage.kept:>8} {stage.removed:>8.1%}  {why}".rstrip())
    lines.append(f"{'all':<10} {listed[0].entered:>8} {listed[-1].kept:>8} {removed(listed):>8.1%}  "
                 f"(the paper: about {PAPER_REMOVED:.0%})")  # fmt: skip
    return "\n".join(lines)


def removed(stages: list[FunnelStage]) -> float:
    """Share in [0, 1] that all stages together took away."""
    return 1 - stages[-1].kept / stages[0].entered if stages and stages[0].entered else 0.0


def outcomes_that_differ(old: Mapping[str, str], new: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Samples (id → outcome) that two runs of a stage judged differently; ``"absent"`` where a run did not see it."""
    pairs = {name: (old.get(name, "absent"), new.get(name, "absent")) for name in sorted({*old, *new})}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
