"""The one predictor behind ``evaluate``, ``ground``, ``serve`` and ``spacevllm.load``: frames and questions → tubes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast
from transformers.utils import logging

from spacevllm.boxes import cxcywh_to_xyxy
from spacevllm.model.answers import parse_span
from spacevllm.model.memory import Answer, VideoMemory, ask, prefill
from spacevllm.model.modeling import ATTENTION, SpaceVLLM
from spacevllm.model.processing import SpaceVLLMProcessor
from spacevllm.tube import Span, Tube, frame_range, interpolate_boxes
from spacevllm.video.reader import SampledFrames, sample_frames
from spacevllm.video.resize import resize_frames

Video = str | Path | SampledFrames
_QUESTIONS_AT_ONCE = 64  # bounds the copies of the video's KV cache


class Predictor:
    """A model with its processor.

    Attributes:
        num_frames: frames it samples from a video. image_size: side of the square they are resized to.
        model_id: name of the model's folder. digest: 16 hex digits of the weights' SHA-256, ``""`` if never saved.
    """

    def __init__(self, model: SpaceVLLM, processor: SpaceVLLMProcessor, model_id: str = "", digest: str = "") -> None:
        self.model = model.eval()
        self.processor = processor
        self.num_frames = model.config.num_frames
        self.image_size = model.config.image_size
        self.model_id = model_id
        self.digest = digest

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Predictor:
        """From a ``save_pretrained`` folder; safetensors only.

        Raises:
            FileNotFoundError: not a model folder; the message says what is missing.
        """
        folder = Path(path)
        for name in ("config.json", "tokenizer.json"):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{folder} is not a model folder: it has no {name}")
        weights = sorted(folder.glob("*.safetensors"))
        if not weights:
            raise FileNotFoundError(f"{folder} has no *.safetensors (pickled weights are refused)")
        logging.disable_progress_bar()  # every stage shows one line of its own
        model = SpaceVLLM.from_pretrained(folder, dtype=dtype, use_safetensors=True, attn_implementation=ATTENTION)
        processor = SpaceVLLMProcessor(PreTrainedTokenizerFast.from_pretrained(folder), model.config)
        model = model.to(torch.device(device))  # type: ignore[arg-type]  # transformers wraps and mistypes `to`
        return cls(model, processor, folder.resolve().name, _digest(weights))

    def save(self, path: str | Path) -> None:
        """``config.json``, ``model.safetensors`` and the tokenizer: what ``load`` reads."""
        self.model.save_pretrained(path)
        self.processor.tokenizer.save_pretrained(path)

    def ground(self, video: Video, questions: Sequence[str], task: str = "stvg") -> list[Tube]:
        """One tube for each question; the video is decoded and prefilled once.

        Args:
            task: whose wording is used: ``stvg`` asks when and where, ``vtg`` only when (its tube has boxes, too).

        Raises:
            VideoError: the video cannot be read.
        """
        clip = self._clip(video)
        memory = self._prefill(clip)
        return [self._tube(clip, q, a) for q, a in zip(questions, self._ask(memory, task, questions), strict=True)]

    def locate(self, image: Video, expressions: Sequence[str]) -> list[np.ndarray]:
        """One (4,) float32 xyxy box in pixels for each expression about an image."""
        clip = self._clip(image)
        answers = self._ask(self._prefill(clip), "rec", expressions)
        return [_pixels(answer, clip)[0] for answer in answers]

    def answer(
        self, video: Video, questions: Sequence[str], options: Sequence[Sequence[str]] | None = None
    ) -> list[str]:
        """Free text, or the letter of an option, for each question about a video or image."""
        clip = self._clip(video)
        memory = self._prefill(clip, with_queries=self.model.config.queries_in_text_tasks)
        return [self._text(a) for a in self._ask(memory, "qa", questions, options)]

    def _clip(self, video: Video) -> SampledFrames:
        return video if isinstance(video, SampledFrames) else sample_frames(video, self.num_frames)

    def _prefill(self, clip: SampledFrames, with_queries: bool = True) -> VideoMemory:
        is_image = clip.info.duration_s == 0
        if is_image:
            prefix = self.processor.image_prefix(with_queries)
        else:
            prefix = self.processor.video_prefix(clip.times_s.tolist(), clip.info.duration_s, with_queries)
        pixels = self.processor.pixel_values(resize_frames(clip.frames, self.image_size))
        return prefill(self.model, prefix, pixels, is_image)

    def _ask(
        self,
        memory: VideoMemory,
        task: str,
        questions: Sequence[str],
        options: Sequence[Sequence[str]] | None = None,
    ) -> list[Answer]:
        choices = options or [()] * len(questions)
        segments = [self.processor.segment(task, q, o) for q, o in zip(questions, choices, strict=True)]
        end, step = self.processor.end_of_turn, _QUESTIONS_AT_ONCE
        blocks = [segments[i : i + step] for i in range(0, len(segments), step)]
        return [answer for block in blocks for answer in ask(self.model, memory, block, end)]

    def _text(self, answer: Answer) -> str:
        return str(self.processor.tokenizer.decode(answer.tokens, skip_special_tokens=True)).strip()

    def _tube(self, clip: SampledFrames, question: str, answer: Answer) -> Tube:
        info, text = clip.info, self._text(answer)
        boxes = _pixels(answer, clip)  # (T, 4)
        span = clamp_span(parse_span(text), info.times_s, info.duration_s)
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
            confidence=answer.confidence,
            sampled_frames=clip.indices,
            sampled_boxes=boxes,
        )


def span_boxes(
    indices: np.ndarray, boxes: np.ndarray, times_s: np.ndarray, span: Span | None, begin: int, end: int
) -> np.ndarray:
    """(end - begin, 4) boxes of the video's frames from the sampled frames of the span.

    The seconds pick the sampled frames [f_s, f_e], both included: the ones nearest to begin and to end.
    """
    if span is None:
        return np.zeros((0, 4), np.float32)
    first, last = (int(np.abs(times_s - border).argmin()) for border in (span.begin_s, span.end_s))
    return interpolate_boxes(indices[first : last + 1], boxes[first : last + 1], np.arange(begin, end))


def clamp_span(span: Span | None, times_s: np.ndarray, duration_s: float) -> Span | None:
    """The span inside the video; one that begins after the last frame becomes that frame.

    Args:
        times_s: (N,) times of the video's frames. duration_s: end of the last one.
    """
    if span is None:
        return None
    begin = min(span.begin_s, float(times_s[-1]))
    return Span(begin, min(span.end_s, duration_s) if span.end_s > begin else duration_s)


def _pixels(answer: Answer, clip: SampledFrames) -> np.ndarray:
    assert answer.boxes is not None  # ground and locate always prefill with queries
    corners: Tensor = cxcywh_to_xyxy(answer.boxes).clamp(0, 1)  # (T, 4)
    return (corners * torch.tensor([clip.info.width, clip.info.height] * 2)).numpy().astype(np.float32)


def _digest(files: Sequence[Path]) -> str:
    sha = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                sha.update(block)
    return sha.hexdigest()[:16]
