"""What a dry run of training prints: parameters, clips, tokens, FLOPs and memory; needs no weights and no device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipelines.train.config import PARTS, TrainJobConfig
from pipelines.train.model import choose_trained, shape_only
from pipelines.train.phases import Phase, Schedule
from pipelines.train.plan_memory import Sizes, activations_per_device, count_parameters, memory_per_device
from pipelines.train.plan_samples import SourceSample, sample_source
from spacevllm.data.instance import Instance
from spacevllm.model.flops import FlopsModel

GIGA = 1e9  # bytes of a GB


def plan(config: TrainJobConfig, instances: Sequence[Instance]) -> list[str]:
    """What is going to be trained on ``instances``. What they hold nothing of is said, and left out of FLOPs and
    memory."""
    make_model, processor = shape_only(config, instances)
    sizes, schedule = count_parameters(choose_trained(make_model(), config)), config.schedule
    looked_at = {name: sample_source(processor, instances, source) for name, source in schedule.used_sources.items()}
    samples = {name: sample for name, sample in looked_at.items() if sample}
    flops = FlopsModel(processor.config, learning_parts(config, sizes))
    lines = ["", *parameter_lines(config, sizes)]
    for name in config.sources:
        lines += source_lines(name, schedule, samples.get(name))
    for name, phase in schedule.running.items():
        lines += phase_lines(name, phase, schedule, clip_flops(phase, samples, flops))
    activations = activations_per_device(processor.config, config, {name: s.work for name, s in samples.items()})
    return [*lines, *memory_lines(config, memory_per_device(config, sizes) | {"activations, roughly": activations})]


def learning_parts(config: TrainJobConfig, sizes: Sizes) -> set[str]:
    """Parts whose own weights learn: adapters are not the language model's."""
    return {part for part in PARTS if sizes.trained[part] and not (part == "llm" and config.lora)}


def parameter_lines(config: TrainJobConfig, sizes: Sizes) -> list[str]:
    lines = [f"{'parameters':<14}{'total':>12}{'trained':>12}{'learning rate':>16}"]
    for part in PARTS:
        rate = f"{config.train.rate(part):.1e}" if sizes.trained[part] else "frozen"
        lines.append(f"  {part:<12}{sizes.total[part] / 1e6:>11.2f}M{sizes.trained[part] / 1e6:>11.2f}M{rate:>16}")
    total, trained = sum(sizes.total.values()), sum(sizes.trained.values())
    return [*lines, f"  {'all':<12}{total / 1e6:>11.2f}M{trained / 1e6:>11.2f}M"]


def source_lines(name: str, schedule: Schedule, sample: SourceSample | None) -> list[str]:
    """sample: None where the data has nothing of this source, or no phase reads it."""
    source = schedule.sources[name]
    title = f"source {name} ({source.selection})"
    if name not in schedule.used_sources:
        return [f"{title}: read by no phase"]
    if not sample:
        return [f"{title}: nothing to read in split train"]
    epochs = schedule.clips_read(name) / sample.clips
    return [
        f"{title}: {sample.clips} clips, {epochs:,.2f} epochs",
        f"  questions: {sample.questions}, at most {source.questions} of a clip at a time",
        f"  tokens a clip: {sample.visual:.0f} visual, {sample.prefix:.0f} before the questions, "
        f"{sample.work.tokens} with them",
    ]


def clip_flops(phase: Phase, samples: Mapping[str, SourceSample], flops: FlopsModel) -> dict[str, float]:
    """FLOPs of one clip with its questions, forward and backward, from each of the phase's sources that has clips."""
    align = phase.objective == "align"
    return {name: flops.training(samples[name].work, align) for name in phase.sources if name in samples}


def phase_lines(name: str, phase: Phase, schedule: Schedule, flops: Mapping[str, float]) -> list[str]:
    """flops: ``clip_flops``."""
    cycle, of_clips = schedule.cycle(phase), "" if phase.batch_sizes else f" of {phase.batch_size} clips"
    known = {source: cycle[source] for source in flops}
    mean = sum(flops[source] * count for source, count in known.items()) / max(1, sum(known.values()))
    clips_a_step = sum(cycle.values()) / phase.cycle_steps
    lines = [
        f"phase {name}: {phase.steps} steps{of_clips}, objective {phase.objective}",
        f"  reads {_reading(phase, cycle)}",
        f"  FLOPs: {mean * clips_a_step:.3g} a step in the mean, {mean:.3g} a clip",
    ]
    if len(flops) > 1:
        lines.append(f"  FLOPs a clip: {', '.join(f'{source} {each:.3g}' for source, each in flops.items())}")
    return lines


def _reading(phase: Phase, cycle: Mapping[str, int]) -> str:
    if phase.draw == "batches":
        turns = (f"{round(weight)} x {phase.batch_of(source)} {source}" for source, weight in phase.sources.items())
        return f"{', '.join(turns)} in every {phase.cycle_steps:.0f} steps"
    shares = ", ".join(f"{count} {source}" for source, count in cycle.items())
    return f"{shares} of every {sum(cycle.values())} clips" if phase.mixes else ", ".join(cycle)


def memory_lines(config: TrainJobConfig, memory: Mapping[str, float]) -> list[str]:
    """memory: bytes of a device."""
    workers = config.workers
    title = f"memory a device, ZeRO {workers.zero_stage}, {workers.num_workers} devices"
    table = [f"  {name:<22}{size / GIGA:>8.2f} GB" for name, size in memory.items()]
    return [title, *table, f"  {'all':<22}{sum(memory.values()) / GIGA:>8.2f} GB"]
