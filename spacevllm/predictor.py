"""The one predictor of ``evaluate``, ``ground``, ``serve`` and ``spacevllm.load``: frames and questions → answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spacevllm.answer import Answer
from spacevllm.boxes import cxcywh_to_xyxy
from spacevllm.calibration import Calibration
from spacevllm.frame_size import FrameSize
from spacevllm.memories import RememberedClip, VideoMemories, file_key
from spacevllm.model.checkpoints import load_model, load_tokenizer
from spacevllm.model.digest import digest_of
from spacevllm.model.folder import need_local
from spacevllm.model.memory import Answer as Said
from spacevllm.model.memory import VideoMemory, ask, prefill
from spacevllm.model.modeling import SpaceVLLM
from spacevllm.model.processing import Question, Segment, SpaceVLLMProcessor
from spacevllm.span import Span, frame_range
from spacevllm.tube import Tube, interpolate_boxes, says_absent
from spacevllm.video.errors import StillImage
from spacevllm.video.guard import GuardedSampler
from spacevllm.video.parts import parts_reader
from spacevllm.video.probe import VideoInfo
from spacevllm.video.reader import SampledFrames, shown_part
from spacevllm.video.resize import resize_frames
from spacevllm.windows import Windows, ground_film, is_film, window_s
from spacevllm.words.answers import MOST_SPANS, parse_boxes, parse_span, parse_spans

Video = str | Path | SampledFrames
_QUESTIONS_AT_ONCE = 64  # bounds the memory of one pass
_TEXT_TOKENS, _BOX_TOKENS = 32, 14  # at most, of an answer without boxes and of a box as text
_PATIENCE_S, _PER_FRAME_S, _DECODE_MB = 600.0, 60.0, 4096  # a person at a keyboard waits longer than a stage
_SPAN_TOKENS = 18  # of one span: a digit is a token


class Predictor:
    """A model with its processor. Files are decoded in a process of their own, see ``spacevllm.video.guard``.

    Attributes:
        num_frames: frames it samples from a video. image_size: that they are resized to.
        model_id: name of the model's folder. digest: see ``digest_of``, ``""`` if never saved.
        calibration: of its confidences.
        memories: videos that it need not read again, None: none are kept (with ``caption_first`` there is nothing that
            a second question could share).
    """

    def __init__(
        self,
        model: SpaceVLLM,
        processor: SpaceVLLMProcessor,
        model_id: str = "",
        digest: str = "",
        memories: VideoMemories | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        self.model = model.eval()
        self.calibration = calibration or Calibration()
        self.processor = processor
        self.num_frames = model.config.num_frames
        self.image_size: FrameSize = processor.layout.frame_size
        self.model_id = model_id
        self.digest = digest
        self.memories = memories if model.config.prompt_order == "video_first" else None
        self._sampler = GuardedSampler(_PATIENCE_S, _DECODE_MB, timeout_per_frame_s=_PER_FRAME_S)  # starts with a file

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        memories: VideoMemories | None = None,
        fields: Mapping[str, Any] | None = None,
    ) -> Predictor:
        """From a model folder, see ``load_model``; safetensors only.

        Args:
            fields: of the configuration, that shall differ from the folder's.

        Raises:
            FileNotFoundError: not a model folder; the message says what is missing.
            CheckpointError: what is there is damaged or does not fit together.
        """
        folder = need_local(path)
        model = load_model(folder, dtype, fields=fields)
        processor = SpaceVLLMProcessor(load_tokenizer(folder, model.config), model.config)
        model = model.to(torch.device(device))  # type: ignore[arg-type]  # transformers wraps and mistypes `to`
        digest = digest_of(folder, fields)
        return cls(model, processor, folder.resolve().name, digest, memories, Calibration.load(folder))

    def save(self, path: str | Path) -> None:
        """``config.json``, ``model.safetensors`` and the tokenizer: what ``load`` reads."""
        self.model.save_pretrained(path)
        self.processor.tokenizer.save_pretrained(path)

    def ground(
        self, video: Video, questions: Sequence[str], task: str = "stvg", key: str = "", windows: Windows = "auto"
    ) -> list[Answer]:
        """One answer for each question; the video is decoded and prefilled once, a film window by window.

        Args:
            windows: ``auto`` looks at a file window by window if its frames would lie too far apart, see
                ``spacevllm.windows``; ``off`` never does. Frames at hand are always seen at once;
                those of another size than ``image_size`` are resized by Pillow, a file's as they are decoded.
            task: whose wording is used: ``stvg`` asks when and where, ``vtg`` only when (its tubes have boxes, too).
            key: of the video in ``memories``; a file has one of its own: path, size and time of change.

        Raises:
            VideoError: the video cannot be read. StillImage: it is an image.
        """
        walks = windows == "auto" and not isinstance(video, SampledFrames)
        clip = self._clip(video, task, key, most_s=window_s(self.num_frames) if walks else math.inf)
        if clip.info.duration_s == 0:
            raise StillImage(f"{clip.info.path}: an image has no time; ground needs videos")
        if walks and is_film(clip.info.duration_s, self.num_frames):
            return self._ground_film(clip.info, questions, task)
        said = self._ask(clip, [Question(task, question) for question in questions])
        return [self._answer(clip, question, one) for question, one in zip(questions, said, strict=True)]

    def _ground_film(self, info: VideoInfo, questions: Sequence[str], task: str) -> list[Answer]:
        def find(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return self._sampler.find(info.path, info, indices, self.image_size)

        def ask(clip: SampledFrames, asked: Sequence[str]) -> list[Answer]:
            return self.ground(clip, asked, task)

        read = parts_reader(info, self.num_frames, self.image_size, find)
        return ground_film(read, ask, Span(0.0, info.duration_s), self.num_frames, questions)

    def locate(self, image: Video, expressions: Sequence[str]) -> list[np.ndarray]:
        """One (4,) float32 xyxy box in pixels for each expression about an image."""
        clip = self._clip(image, "rec")
        said = self._ask(clip, [Question("rec", expression) for expression in expressions])
        return [self._sampled_boxes(clip, one, ())[0] for one in said]

    def answer(
        self, video: Video, questions: Sequence[str], options: Sequence[Sequence[str]] | None = None
    ) -> list[str]:
        """Free text, or the letter of an option, for each question about a video or image."""
        clip = self._clip(video, "qa")
        choices = options or [()] * len(questions)
        asked = [Question("qa", question, o) for question, o in zip(questions, choices, strict=True)]
        return [self._text(said) for said in self._ask(clip, asked)]

    def recall(self, key: str, task: str = "stvg") -> RememberedClip | None:
        """The video behind ``key`` if it is remembered: ask it in place of the file, and nothing is decoded or read."""
        if self.memories is None:
            return None
        return self.memories.get((key, self.model.config.has_queries(task)))

    def _clip(self, video: Video, task: str, key: str = "", most_s: float = math.inf) -> SampledFrames:
        """The video's frames or, with ``memories``, what is remembered of them; none of a file that is longer."""
        if not isinstance(video, SampledFrames):
            key = key or file_key(video)
        if self.memories is None or not key or isinstance(video, RememberedClip):
            return self._frames(video, most_s)
        if remembered := self.recall(key, task):
            return remembered
        clip = self._frames(video, most_s)
        if not len(clip.frames):
            return clip
        clip = RememberedClip.of(clip, self._prefill(clip, Question(task, "")))
        self.memories.put((key, self.model.config.has_queries(task)), clip)
        return clip

    def _frames(self, video: Video, most_s: float = math.inf) -> SampledFrames:
        if isinstance(video, SampledFrames):
            return video
        return self._sampler.sample(video, self.num_frames, size=self.image_size, most_s=most_s)

    def _ask(self, clip: SampledFrames, questions: Sequence[Question]) -> list[Said]:
        """One answer a question, all of one task; the video is prefilled once, or once a question if that is first."""
        if not questions:
            return []
        config, step = self.model.config, _QUESTIONS_AT_ONCE
        if config.prompt_order == "caption_first":
            step = 1
        limit = _TEXT_TOKENS
        if config.space_head == "text_coordinates" and questions[0].task in ("stvg", "rec"):
            limit += _BOX_TOKENS * len(clip.frames)
        blocks = [questions[i : i + step] for i in range(0, len(questions), step)]
        answers, memory = [], self._prefill(clip, questions[0])
        for number, block in enumerate(blocks):
            if number and config.prompt_order == "caption_first":
                memory = self._prefill(clip, block[0])
            segments = [self.processor.segment(question) for question in block]
            said = ask(self.model, memory, segments, self.processor.end_of_turn, limit)
            answers += self._to_the_end(memory, segments, said, limit) if block[0].task in ("stvg", "vtg") else said
        return answers

    def _to_the_end(
        self, memory: VideoMemory, segments: Sequence[Segment], said: Sequence[Said], limit: int
    ) -> list[Said]:
        """Answers that were cut off among their spans are asked for again, with room for all; most have one span, and
        a model that never ends is not worth the wait."""
        cut = [i for i, one in enumerate(said) if len(one.tokens) == limit and parse_span(self._text(one))]
        whole = dict(enumerate(said))
        if cut:
            more = limit + MOST_SPANS * _SPAN_TOKENS
            again = ask(self.model, memory, [segments[i] for i in cut], self.processor.end_of_turn, more)
            whole |= zip(cut, again, strict=True)
        return list(whole.values())

    def _prefill(self, clip: SampledFrames, question: Question) -> VideoMemory:
        if isinstance(clip, RememberedClip):
            return clip.memory
        is_image, with_queries = clip.info.duration_s == 0, self.model.config.has_queries(question.task)
        frames = resize_frames(clip.frames, self.image_size)
        grid = self.processor.grid(frames, is_image)
        if is_image:
            prefix = self.processor.image_prefix(grid, with_queries, question)
        else:
            part = shown_part(clip)
            times_s, duration_s = (clip.times_s - part.begin_s).tolist(), part.end_s - part.begin_s
            prefix = self.processor.video_prefix(times_s, duration_s, grid, with_queries, question)
        return prefill(self.model, prefix, self.processor.pixels(frames, is_image))

    def _text(self, said: Said) -> str:
        return str(self.processor.tokenizer.decode(said.tokens, skip_special_tokens=True)).strip()

    def _answer(self, clip: SampledFrames, question: str, said: Said) -> Answer:
        """A tube a span that was written, all of one thing: a model has one box a frame, and is as sure of each. A span
        that overlaps an earlier one is the same event again."""
        spans: list[Span] = []
        for written in parse_spans(self._text(said)):
            span = place_span(written, clip.info.times_s, shown_part(clip))
            if span and not any(span.begin_s < other.end_s and other.begin_s < span.end_s for other in spans):
                spans.append(span)
        boxes = self._sampled_boxes(clip, said, spans)  # (T, 4)
        return Answer(self._tube(clip, question, said, span, boxes) for span in (spans or (None,)))

    def _tube(self, clip: SampledFrames, question: str, said: Said, span: Span | None, boxes: np.ndarray) -> Tube:
        info, text = clip.info, self._text(said)
        confidence = self.calibration(_confidence(said, says_absent(text)))
        begin, end = frame_range(span, info.times_s, info.duration_s) if span else (0, 0)
        return Tube(
            video=info.path,
            question=question,
            answer=text,
            span=span,
            begin_frame=begin,
            end_frame=end,
            boxes=span_boxes(clip.indices, boxes, clip.times_s, span, begin, end),
            fps=float(info.fps),
            num_frames=info.num_frames,
            width=info.width,
            height=info.height,
            duration_s=info.duration_s,
            confidence=confidence,
            present=span is not None and confidence >= self.calibration.threshold,
            sampled_frames=clip.indices,
            sampled_boxes=boxes,
            times_s=info.uneven_times(begin, end),
        )

    def _sampled_boxes(self, clip: SampledFrames, said: Said, spans: Sequence[Span]) -> np.ndarray:
        """(T, 4) float32 xyxy pixels on the frames that the model saw."""
        if said.boxes is not None:
            corners = cxcywh_to_xyxy(said.boxes).clamp(0, 1).numpy()  # (T, 4)
        else:
            borders = [picked_frames(clip.times_s, span) for span in spans] or [(0, len(clip.frames) - 1)]
            places = sorted({place for first, last in borders for place in range(first, last + 1)})
            corners = spread_boxes(parse_boxes(self._text(said)), places, len(clip.frames))
        return (corners * np.array([clip.info.width, clip.info.height] * 2)).astype(np.float32)


def _confidence(said: Said, absent: bool) -> float:
    """That it is there, before calibration: the presence head's, or else how sure the words are of themselves."""
    if said.presence is not None:
        return said.presence
    return 1 - said.confidence if absent else said.confidence


def picked_frames(times_s: np.ndarray, span: Span) -> tuple[int, int]:
    """The sampled frames [f_s, f_e] that the seconds pick, both included: the ones nearest to begin and to end."""
    first, last = (int(np.abs(times_s - border).argmin()) for border in (span.begin_s, span.end_s))
    return first, last


def spread_boxes(written: np.ndarray, places: Sequence[int], count: int) -> np.ndarray:
    """Boxes written as text, one for each of the sampled frames ``places``, in order, on all ``count`` sampled frames.

    Too many are cut off; frames without one take the nearest. (0, 4) written gives empty boxes: they overlap nothing.
    """
    if not len(written):
        return np.zeros((count, 4), np.float32)
    written = written[: len(places)]
    return interpolate_boxes(np.array(places[: len(written)]), written, np.arange(count))


def span_boxes(
    indices: np.ndarray, boxes: np.ndarray, times_s: np.ndarray, span: Span | None, begin: int, end: int
) -> np.ndarray:
    """(end - begin, 4) boxes of the video's frames from the sampled frames of the span."""
    if span is None:
        return np.zeros((0, 4), np.float32)
    first, last = picked_frames(times_s, span)
    return interpolate_boxes(indices[first : last + 1], boxes[first : last + 1], np.arange(begin, end))


def place_span(span: Span | None, times_s: np.ndarray, part: Span) -> Span | None:
    """An answer about ``part`` in the seconds of the whole video, see ``clamp_span``; times_s: (N,) of its frames."""
    part_times_s = times_s[(times_s >= part.begin_s) & (times_s < part.end_s)] - part.begin_s
    inside = clamp_span(span, part_times_s, part.end_s - part.begin_s)
    return inside and Span(inside.begin_s + part.begin_s, inside.end_s + part.begin_s)


def clamp_span(span: Span | None, times_s: np.ndarray, duration_s: float) -> Span | None:
    """The span inside the video; one that begins after the last frame becomes that frame.

    Args:
        times_s: (N,) times of the video's frames. duration_s: end of the last one.
    """
    if span is None:
        return None
    begin = min(span.begin_s, float(times_s[-1]))
    return Span(begin, min(span.end_s, duration_s) if span.end_s > begin else duration_s)
