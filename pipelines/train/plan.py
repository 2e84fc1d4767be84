"""What a training run is going to be: parameters, tokens, FLOPs and memory, without weights and without a device."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedConfig

from pipelines.train.config import PARTS, StageSection, TrainJobConfig
from pipelines.train.data import lacks_records, wanted
from pipelines.train.engine import LIVE_PARAMETERS, REDUCE_BUCKET
from pipelines.train.mixture import block_counts
from pipelines.train.model import choose_trained, shape_only
from pipelines.train.optimizer import part_of
from spacevllm.data.instance import Instance
from spacevllm.model.configuration import SpaceVLLMConfig
from spacevllm.model.flops import FlopsModel, Work
from spacevllm.model.modeling import SpaceVLLM
from spacevllm.model.processing import Question, SpaceVLLMProcessor
from spacevllm.model.prompt import Kind
from spacevllm.video.size import fit_size
from spacevllm.words.instructions import answer_text

CLIPS_LOOKED_AT = 50
GIGA = 1e9


@dataclass(frozen=True)
class Sizes:
    """Parameters of each part: all, and those that learn."""

    total: dict[str, int]
    trained: dict[str, int]


@dataclass(frozen=True)
class ClipTokens:
    """Means over clips of one media. visual: visual and newline tokens. shared: all tokens before the questions. own:
    with the questions. work: of one clip with its questions."""

    visual: float
    shared: float
    own: float
    work: Work


def plan(config: TrainJobConfig, instances: Sequence[Instance]) -> list[str]:
    """The lines of a dry run. What the data holds nothing of is said, and left out of FLOPs and memory."""
    make_model, processor = shape_only(config, instances)
    sizes = count_parameters(choose_trained(make_model(), config))
    lines = ["", f"{'parameters':<14}{'total':>12}{'trained':>12}{'learning rate':>16}"]
    for part in PARTS:
        rate = f"{config.train.rate(part):.1e}" if sizes.trained[part] else "frozen"
        lines.append(f"  {part:<12}{sizes.total[part] / 1e6:>11.2f}M{sizes.trained[part] / 1e6:>11.2f}M{rate:>16}")
    total, trained = sum(sizes.total.values()), sum(sizes.trained.values())
    lines.append(f"  {'all':<12}{total / 1e6:>11.2f}M{trained / 1e6:>11.2f}M")
    flops = FlopsModel(processor.config, {part for part in PARTS if sizes.trained[part] and not _adapted(config, part)})
    largest, clip_flops = 0.0, {}
    for name, clips in clips_at_once(config).items():
        stage = config.stages[name]
        if lacks_records(stage, instances):
            lines.append(f"stage {name}: nothing to read: no {stage.reads} in split train")
            continue
        tokens = clip_tokens(processor, instances, stage)
        clip_flops[name] = flops.training(tokens.work, align=stage.objective == "align")
        lines += stage_lines(name, stage, tokens, clip_flops[name])
        at_once = stage.micro_batch_size or clips
        largest = max(largest, at_once * activation_bytes(processor.config, tokens.work, config, stage.questions))
    for name, stage in config.stages.items():
        if stage.mix and stage.steps:
            lines += mix_lines(name, stage, config, clip_flops)
    lines += memory_lines(config, memory_per_device(config, sizes) | {"activations, roughly": largest})
    return lines


def clips_at_once(config: TrainJobConfig) -> dict[str, int]:
    """Stages that read clips of their own → most clips that a worker may take of one in a step."""
    most: dict[str, int] = {}
    for name in config.used_stages:
        stage = config.stages[name]
        each = stage.batch_size // config.workers.num_workers
        if stage.media:
            most[name] = max(most.get(name, 0), each)
        for other, count in block_counts(stage.mix, config.block_size(stage)).items():
            most[other] = max(most.get(other, 0), min(each, count))
    return {name: most[name] for name in config.used_stages if name in most}


def stage_lines(name: str, stage: StageSection, tokens: ClipTokens, flops: float) -> list[str]:
    """flops: of one clip with its questions, forward and backward."""
    steps = f"{stage.steps} steps of {stage.batch_size} {stage.media}s" if stage.steps else f"{stage.media}s for others"
    of_step = f"{flops * stage.batch_size:.3g} a step, " if stage.batch_size else ""
    return [
        f"stage {name}: {steps}",
        f"  tokens a {stage.media}: {tokens.visual:.0f} visual, {tokens.shared:.0f} before the questions, "
        f"{tokens.own:.0f} with them",
        f"  FLOPs: {of_step}{flops:.3g} a {stage.media}",
    ]


def mix_lines(name: str, stage: StageSection, config: TrainJobConfig, clip_flops: Mapping[str, float]) -> list[str]:
    """clip_flops: of one clip of each stage that it mixes."""
    workers, size = config.workers.num_workers, config.block_size(stage)
    counts = block_counts(stage.mix, size)
    told = ", ".join(f"{workers * count} {other}" for other, count in counts.items())
    known = {other: count for other, count in counts.items() if other in clip_flops}
    mean = sum(clip_flops[other] * count for other, count in known.items()) / max(1, sum(known.values()))
    return [
        f"stage {name}: {stage.steps} steps of {stage.batch_size} clips",
        f"  every {workers * size} clips: {told}",
        f"  FLOPs: {mean * stage.batch_size:.3g} a step in the mean, {mean:.3g} a clip",
    ]


def memory_lines(config: TrainJobConfig, memory: dict[str, float]) -> list[str]:
    workers = config.workers
    title = f"memory a device, ZeRO {workers.zero_stage}, {workers.num_workers} devices"
    table = [f"  {name:<22}{size / GIGA:>8.2f} GB" for name, size in memory.items()]
    return [title, *table, f"  {'all':<22}{sum(memory.values()) / GIGA:>8.2f} GB"]


def count_parameters(model: SpaceVLLM) -> Sizes:
    """By part; adapters count to the language model."""
    total: dict[str, int] = defaultdict(int)
    trained: dict[str, int] = defaultdict(int)
    for name, parameter in model.named_parameters():
        total[part_of(name)] += parameter.numel()
        trained[part_of(name)] += parameter.numel() * parameter.requires_grad
    return Sizes(total, trained)


def clip_tokens(processor: SpaceVLLMProcessor, instances: Sequence[Instance], stage: StageSection) -> ClipTokens:
    """Of the first clips of the data, each with as many questions as the stage asks at most."""
    clips: dict[str, list[Instance]] = defaultdict(list)
    for instance in instances:
        if wanted(instance, stage):
            clips[instance.media or instance.id].append(instance)
    some = [asked[: stage.questions] for asked in list(clips.values())[:CLIPS_LOOKED_AT]]
    return _mean([_clip_tokens(processor, asked) for asked in some])


def _clip_tokens(processor: SpaceVLLMProcessor, asked: Sequence[Instance]) -> ClipTokens:
    first = asked[0]
    frames = {"text": 0, "image": 1, "video": processor.config.num_frames}[first.media_type]
    questions = [Question(i.task, i.question, i.options, i.id) for i in asked]
    width, height = fit_size(processor.layout.frame_size, first.width or 16, first.height or 9)
    grid = processor.layout.grid(height, width, first.media_type == "image")
    if first.media_type == "text":
        prefix = processor.text_prefix(questions[0])
    elif first.media_type == "image":
        prefix = processor.image_prefix(grid, question=questions[0])
    else:
        times_s = np.linspace(0, first.duration_s, frames).tolist()
        prefix = processor.video_prefix(times_s, first.duration_s, grid, question=questions[0])
    segments = [processor.segment(q, answer_text(i)) for q, i in zip(questions, asked, strict=True)]
    shared, lengths = len(prefix.ids), [len(segment.ids) for segment in segments]
    pairs = shared * (shared + 1) // 2 + sum(n * shared + n * (n + 1) // 2 for n in lengths)
    answers = sum(len(segment.ids) - segment.answer_start for segment in segments)
    own = shared + sum(lengths)
    visual = sum(kind not in (Kind.TEXT, Kind.QUERY) for kind in prefix.kinds)
    patches = math.prod(processor.layout.patch_grid(height, width))  # of a frame
    return ClipTokens(visual, shared, own, Work(frames * patches, frames * patches**2, own, pairs, answers))


def _mean(clips: Sequence[ClipTokens]) -> ClipTokens:
    def over(values: Iterable[float]) -> float:
        return sum(values) / len(clips)

    work = Work(
        patches=round(over(c.work.patches for c in clips)),
        patch_pairs=round(over(c.work.patch_pairs for c in clips)),
        tokens=round(over(c.work.tokens for c in clips)),
        pairs=round(over(c.work.pairs for c in clips)),
        answers=round(over(c.work.answers for c in clips)),
    )
    return ClipTokens(over(c.visual for c in clips), over(c.shared for c in clips), over(c.own for c in clips), work)


def memory_per_device(config: TrainJobConfig, sizes: Sizes) -> dict[str, float]:
    """Bytes of what does not depend on the batch. fp32 where something learns: the weight, its gradient, AdamW's two
    means and, at ZeRO 1 to 3, the copy that DeepSpeed updates; what is frozen is bf16 under autocast."""
    stage, devices = config.workers.zero_stage, config.workers.num_workers
    trained = sum(sizes.trained.values())
    frozen = sum(sizes.total.values()) - trained
    cut = {level: devices if stage >= level else 1 for level in (1, 2, 3)}
    memory = {
        "weights": (4 * trained + (2 if config.train.autocast else 4) * frozen) / cut[3],
        "gradients": 4 * trained / cut[2],
        "optimiser": (8 + (4 if stage else 0)) * trained / cut[1],
    }
    if stage >= 2:
        memory["buckets"] = 4.0 * REDUCE_BUCKET
    if stage == 3:
        memory["gathered weights"] = 4.0 * min(LIVE_PARAMETERS, trained + frozen)
    return memory


def activation_bytes(config: SpaceVLLMConfig, work: Work, job: TrainJobConfig, questions: int) -> float:
    """What the backward pass of one clip needs, roughly: layers, fp32 logits twice, and the space decoder's fp32 copies
    of the visual states, about six for each question."""
    text, cells = config.text, work.patches / 4
    total = _layers_bytes(job, work.tokens, text)
    if "tower" not in job.train.freeze:
        total += _layers_bytes(job, work.patches, config.vision)
    return total + 8.0 * work.answers * text.vocab_size + 24.0 * questions * cells * text.hidden_size


def _layers_bytes(job: TrainJobConfig, tokens: int, part: PreTrainedConfig) -> float:
    """The fp32 state between layers and, inside a layer (of all, or with gradient checkpointing of one), two fp32
    states more and the inputs of the matrix products."""
    width = 2 if job.train.autocast else 4
    inside = 8 * part.hidden_size + width * (6 * part.hidden_size + 4 * part.intermediate_size)
    layers = 1 if job.train.gradient_checkpointing else part.num_hidden_layers
    return float(tokens * (4 * part.hidden_size * part.num_hidden_layers + layers * inside))


def _adapted(config: TrainJobConfig, part: str) -> bool:
    return part == "llm" and config.lora is not None
