"""What training reads, and when: sources of clips, phases that read them, and the schedule that both make."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from pipelines.train.mixture import block_counts, draw
from spacevllm.config import Config
from spacevllm.data.instance import MediaType, Task

Objective = Literal["ground", "align"]
Draw = Literal["clips", "batches"]


def _weighted(sources: Any) -> Any:
    """One name alone is a source of weight 1."""
    return {sources: 1.0} if isinstance(sources, str) else sources


Weights = Annotated[dict[str, Annotated[float, Field(gt=0)]], Field(min_length=1), BeforeValidator(_weighted)]


class Source(Config):
    """Clips that can be read. A source goes on from phase to phase where it stopped; a second source of the same media
    and tasks starts at its own beginning.

    Attributes:
        media: ``image``, ``video`` or ``text`` (questions about neither).
        tasks: whose questions are asked; none named: all.
        questions: asked of a clip at most; they share its prefix.
        micro_batch_size: clips that pass through a worker at once; 0: all of a step. Gradients are the same, memory is
            not.
    """

    media: MediaType
    tasks: tuple[Task, ...] = ()
    questions: int = Field(default=8, ge=1)
    micro_batch_size: int = Field(default=0, ge=0)

    @property
    def selection(self) -> str:
        """Which records it selects, ``video:stvg+vtg``; sources of the same selection share a data set."""
        return f"{self.media}:{'+'.join(sorted(self.tasks))}" if self.tasks else self.media


class Phase(Config):
    """``steps`` steps of one objective, then the next phase. It reads one source, or several by weight.

    Attributes:
        objective: ``ground``: the whole model and ``criterion``. ``align``: tower, projector and word embeddings only,
            visual tokens against captions; for a tower without pre-trained weights.
        sources: name → weight; a name alone is that one source.
        draw: how several sources share the steps. ``clips``: of every ``block`` clips (over all workers; 0: of each
            step) each gives exactly its share by weight, rounded by the largest remainder. ``batches``: each step reads
            one source; of every sum-of-weights steps each has its weight, in order: with ``{videos: 5, stills: 1}``
            every sixth step reads stills.
        steps: 0: the phase is left out.
        batch_size: clips in a step, over all workers.
        batch_sizes: with ``draw: batches``, the same of steps that read these sources.
        learning_rate: peak, relative to ``train.learning_rate`` and ``train.learning_rates``.
    """

    objective: Objective = "ground"
    sources: Weights
    draw: Draw = "clips"
    block: int = Field(default=0, ge=0)
    steps: int = Field(ge=0)
    batch_size: int = Field(ge=1)
    batch_sizes: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    learning_rate: float = Field(default=1.0, gt=0)

    @property
    def mixes(self) -> bool:
        """Whether a step may hold clips of several sources."""
        return self.draw == "clips" and len(self.sources) > 1

    def batch_of(self, source: str) -> int:
        """Clips in a step that reads ``source``, over all workers."""
        return self.batch_sizes.get(source, self.batch_size)

    def source_at(self, step: int) -> str:
        """With ``draw: batches``, what step ``step`` of the phase reads."""
        turns = [name for name, weight in self.sources.items() for _ in range(round(weight))]
        return turns[step % len(turns)]

    @property
    def cycle_steps(self) -> float:
        """Steps after which every source has had its share: a round of batches, or a block of clips."""
        return (
            sum(self.sources.values()) if self.draw == "batches" else (self.block or self.batch_size) / self.batch_size
        )


@dataclass(frozen=True)
class Schedule:
    """What every step reads and how fast it learns. Steps count from 0 over all phases; ``warmup`` and ``final_lr`` are
    ``TrainSection``'s."""

    sources: Mapping[str, Source]
    phases: Mapping[str, Phase]
    num_workers: int
    seed: int
    warmup: float
    final_lr: float

    @property
    def total_steps(self) -> int:
        return sum(phase.steps for phase in self.phases.values())

    @property
    def running(self) -> dict[str, Phase]:
        """The phases that have steps."""
        return {name: phase for name, phase in self.phases.items() if phase.steps}

    @property
    def used_sources(self) -> dict[str, Source]:
        """The sources that some running phase reads."""
        used = {name for phase in self.running.values() for name in phase.sources}
        return {name: source for name, source in self.sources.items() if name in used}

    def at(self, step: int) -> tuple[str, int]:
        """Phase and step within it of step ``step`` in [0, total_steps)."""
        for name, phase in self.phases.items():
            if step < phase.steps:
                return name, step
            step -= phase.steps
        raise IndexError("past the last step")

    def clips(self, step: int) -> dict[str, int]:
        """How many clips each worker takes at step ``step``, from which sources."""
        name, local = self.at(step)
        phase = self.phases[name]
        if phase.draw == "batches":
            source = phase.source_at(local)
            return {source: phase.batch_of(source) // self.num_workers}
        each = phase.batch_size // self.num_workers
        return draw(phase.sources, self.block_size(phase), f"{self.seed}/{name}", local * each, each)

    def block_size(self, phase: Phase) -> int:
        """Clips of one worker in a block of ``draw: clips``."""
        return (phase.block or phase.batch_size) // self.num_workers

    def cycle(self, phase: Phase) -> dict[str, int]:
        """Clips that each source gives in ``cycle_steps`` steps, over all workers."""
        if phase.draw == "batches":
            return {name: round(weight) * phase.batch_of(name) for name, weight in phase.sources.items()}
        counts = block_counts(phase.sources, self.block_size(phase))
        return {name: self.num_workers * count for name, count in counts.items()}

    def clips_read(self, source: str) -> float:
        """Clips of ``source`` that all phases take; exact where they end with a cycle."""
        reading = [phase for phase in self.running.values() if source in phase.sources]
        return sum(phase.steps / phase.cycle_steps * self.cycle(phase)[source] for phase in reading)

    def most_clips(self, source: str) -> int:
        """Most clips of ``source`` that a worker may take in a step."""
        reading = [phase for phase in self.running.values() if source in phase.sources]
        most = [min(phase.batch_of(source), self.cycle(phase)[source]) for phase in reading]
        return max(most, default=0) // self.num_workers

    def read_size(self, source: str) -> int:
        """Clips of ``source`` that a worker reads at once: every phase takes a multiple of it. The same in all phases,
        as the order of clips depends on it."""
        reading = [phase for phase in self.running.values() if source in phase.sources]
        return math.gcd(*(1 if phase.mixes else phase.batch_of(source) // self.num_workers for phase in reading))

    def learning_rate_factor(self, step: int) -> float:
        """Factor of the peak learning rate at step ``step``: warm-up and cosine anew in every phase."""
        name, local = self.at(step)
        phase = self.phases[name]
        rise = min(1.0, (local + 1) / max(1, round(self.warmup * phase.steps)))
        fall = self.final_lr + (1 - self.final_lr) * 0.5 * (1 + math.cos(math.pi * local / phase.steps))
        return phase.learning_rate * rise * fall
