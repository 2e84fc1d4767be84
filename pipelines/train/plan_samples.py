"""What clips of a source are about: how many there are, and the tokens of some of them, without decoding any."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import islice
from statistics import fmean
from typing import NamedTuple

import numpy as np

from pipelines.train.data import Clip, clip_of, wanted
from pipelines.train.phases import Source
from spacevllm.data.instance import Instance
from spacevllm.frame_size import fit_size
from spacevllm.model.flops import Work
from spacevllm.model.processing import Question, SpaceVLLMProcessor
from spacevllm.model.prompt import Kind, Prefix
from spacevllm.words.instructions import answer_text

CLIPS_LOOKED_AT = 50


@dataclass(frozen=True)
class SourceSample:
    """clips, questions: that there are. The others are means over clips. visual: visual and newline tokens. prefix: all
    tokens before the questions. work: of a clip with its questions."""

    clips: int
    questions: int
    visual: float
    prefix: float
    work: Work


class ClipTokens(NamedTuple):
    """``SourceSample``'s numbers of one clip."""

    visual: int
    prefix: int
    work: Work


def sample_source(processor: SpaceVLLMProcessor, instances: Sequence[Instance], source: Source) -> SourceSample | None:
    """Counts as annotated (what cannot be decoded is still among them); tokens of the first clips, each with as many
    questions as the source asks at most. None where it has nothing to read."""
    clips: dict[Clip, list[Instance]] = defaultdict(list)
    for instance in instances:
        if wanted(instance, source):
            clips[clip_of(instance)].append(instance)
    if not clips:
        return None
    some = [
        clip_tokens(processor, questions[: source.questions]) for questions in islice(clips.values(), CLIPS_LOOKED_AT)
    ]
    return SourceSample(
        clips=len(clips),
        questions=sum(map(len, clips.values())),
        visual=fmean(clip.visual for clip in some),
        prefix=fmean(clip.prefix for clip in some),
        work=_mean_work([clip.work for clip in some]),
    )


def clip_tokens(processor: SpaceVLLMProcessor, instances: Sequence[Instance]) -> ClipTokens:
    """Of one clip with these questions."""
    questions = [Question(i.task, i.question, i.options, i.id) for i in instances]
    frames, height, width, prefix = _frames_and_prefix(processor, instances[0], questions[0])
    patches = math.prod(processor.layout.patch_grid(height, width))  # of a frame
    segments = [processor.segment(q, answer_text(i)) for q, i in zip(questions, instances, strict=True)]
    shared, lengths = len(prefix.ids), [len(segment.ids) for segment in segments]
    pairs = shared * (shared + 1) // 2 + sum(n * shared + n * (n + 1) // 2 for n in lengths)
    answers = sum(len(segment.ids) - segment.answer_start for segment in segments)
    visual = sum(kind not in (Kind.TEXT, Kind.QUERY) for kind in prefix.kinds)
    cells = frames * math.prod(prefix.grid)
    work = Work(frames * patches, frames * patches**2, cells, shared + sum(lengths), pairs, answers)
    return ClipTokens(visual, shared, work)


def _mean_work(works: Sequence[Work]) -> Work:
    return Work(**{f.name: round(fmean(getattr(work, f.name) for work in works)) for f in fields(Work)})


def _frames_and_prefix(
    processor: SpaceVLLMProcessor, first: Instance, question: Question
) -> tuple[int, int, int, Prefix]:
    """Frames, their height and width in pixels, and the prefix of a clip."""
    width, height = fit_size(processor.layout.frame_size, first.width or 16, first.height or 9)
    grid = processor.layout.grid(height, width, first.media_type == "image")
    if first.media_type == "text":
        return 0, height, width, processor.text_prefix(question)
    if first.media_type == "image":
        return 1, height, width, processor.image_prefix(grid, question=question)
    frames = processor.config.num_frames
    times_s = np.linspace(0, first.duration_s, frames).tolist()
    return frames, height, width, processor.video_prefix(times_s, first.duration_s, grid, question=question)
