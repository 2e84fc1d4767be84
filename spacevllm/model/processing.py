"""From frames and sentences to tokens: prompt layout and pixel values.

A row reads ``<|im_start|>user⏎ [frame 0] <r_0> … [frame T-1] <r_T-1> ⏎ time instruction ⏎`` (the prefix, independent of
the question), then ``instruction + caption <|im_end|>⏎<|im_start|>assistant⏎ answer <|im_end|>`` (one segment a
question). The time instruction is LLaVA-Video's. With ``prompt_order: caption_first`` instruction and caption stand
before the video, in the prefix, which then belongs to one question alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from spacevllm.model.batch import Kind
from spacevllm.model.configuration import SpaceVLLMConfig
from spacevllm.model.queries import IMAGE_QUERY
from spacevllm.words.answers import number_starts
from spacevllm.words.instructions import ANSWER_WITH_OPTION, Wording, choose_wording

END_OF_TURN = "<|im_end|>"
TIME_INSTRUCTION = "The video lasts for {duration_s:.2f} seconds, and {count} frames are uniformly sampled from it."
QUESTIONS_FOLLOW = "Please answer the following questions related to this video."
_PIECES_KEPT = 20_000


class Question(NamedTuple):
    """task: of ``TASKS``. text: the sentence. options: of a multiple choice, in order. key: in training the
    instance's id, by which ``wordings: many`` chooses."""

    task: str
    text: str
    options: Sequence[str] = ()
    key: str = ""


@dataclass
class Prefix:
    """A video or image as tokens. ids, kinds: one entry a position; query_ids: one entry a query position.
    caption: half-open range of the caption, where it stands before the video."""

    ids: list[int] = field(default_factory=list)
    kinds: list[int] = field(default_factory=list)
    query_ids: list[int] = field(default_factory=list)
    caption: tuple[int, int] | None = None

    def add_text(self, ids: Sequence[int]) -> None:
        self.ids += ids
        self.kinds += [Kind.TEXT] * len(ids)

    def add(self, kind: Kind, count: int = 1) -> None:
        self.ids += [0] * count
        self.kinds += [kind] * count

    def add_queries(self, query_ids: Sequence[int]) -> None:
        self.add(Kind.QUERY, len(query_ids))
        self.query_ids += query_ids

    def visual_index(self, frames: int) -> np.ndarray:
        """(T, P) positions of the visual tokens, frame by frame; (0, 0) for text."""
        kinds = np.array(self.kinds)
        cells = np.flatnonzero((kinds == Kind.VIDEO_CELL) | (kinds == Kind.IMAGE_CELL))
        return cells.reshape(frames, -1 if frames else 0)

    def query_index(self) -> np.ndarray:
        """(T,) positions of the queries; (0,) without any."""
        return np.flatnonzero(np.array(self.kinds) == Kind.QUERY)


@dataclass
class Segment:
    """A question and, in training, its answer.

    Attributes:
        ids: tokens. answer_start: index of the answer's first token (== len(ids) without an answer).
        caption: half-open token range of the caption; None where it stands in the prefix.
        numbers: indices of the first token of the two times of the answer's first span. time_tokens: of all tokens of
            all its times.
    """

    ids: list[int]
    answer_start: int
    caption: tuple[int, int] | None
    numbers: list[int] = field(default_factory=list)
    time_tokens: list[int] = field(default_factory=list)


class SpaceVLLMProcessor:
    """Prompts and pixels for one model. Stateless but for the tokenizer and the configuration."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, config: SpaceVLLMConfig) -> None:
        self.tokenizer = tokenizer
        self.config = config
        self.end_of_turn = cast(int, tokenizer.convert_tokens_to_ids(END_OF_TURN))
        self._encoded: dict[str, list[int]] = {}  # prompts repeat the same few pieces

    def encode(self, text: str) -> list[int]:
        """Token ids of one piece of a prompt, no special tokens added."""
        if text not in self._encoded:
            if len(self._encoded) > _PIECES_KEPT:
                self._encoded.clear()
            self._encoded[text] = self.tokenizer(text, add_special_tokens=False).input_ids
        return list(self._encoded[text])

    def pixel_values(self, frames: np.ndarray) -> Tensor:
        """Frames of one clip, already resized to the tower's square, as the tower reads them.

        Args:
            frames: (T, S, S, 3) uint8.

        Returns:
            (T, C, S, S) float32 in [-1, 1]; with ``tower_frames`` 3, C = 9: the frame, it minus the previous one, the
            next one minus it (0 at the ends and for an image).
        """
        x = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 127.5 - 1  # (T, 3, S, S)
        if self.config.tower_frames == 1:
            return x
        step = x[1:] - x[:-1]  # (T - 1, 3, S, S)
        still = torch.zeros_like(x[:1])
        return torch.cat([x, torch.cat([still, step]), torch.cat([step, still])], dim=1)

    def video_prefix(
        self, times_s: Sequence[float], duration_s: float, with_queries: bool = True, question: Question | None = None
    ) -> Prefix:
        """The part of a prompt about a video that stands before the answer or, with ``video_first``, the question.

        Args:
            question: needed with ``prompt_order: caption_first``, not read otherwise.
        """
        prefix = self._open(question)
        grid = self.config.grid(pooled=True)
        interleaved = self.config.query_layout == "interleaved"
        for i, time_s in enumerate(times_s):
            if self.config.time_encoding == "interleaved":
                prefix.add_text(self.encode(f"{time_s:.2f}s"))
            for _ in range(grid):
                prefix.add(Kind.VIDEO_CELL, grid)
                prefix.add(Kind.NEWLINE)
            if with_queries and interleaved:
                prefix.add_queries([i])
        if with_queries and not interleaved:
            prefix.add_queries(range(len(times_s)))
        prefix.add_text(self.encode("\n" + self.time_instruction(times_s, duration_s) + "\n"))
        return prefix

    def image_prefix(self, with_queries: bool = True, question: Question | None = None) -> Prefix:
        """The same for one image: the base view, newlines as LLaVA-OneVision sets them, then ``<r_64>``."""
        prefix = self._open(question)
        grid = self.config.grid(pooled=self.config.image_pooling)
        rows = [grid] * grid if self.config.image_pooling else [grid * grid]
        for cells in rows:
            prefix.add(Kind.IMAGE_CELL, cells)
            prefix.add(Kind.NEWLINE)
        if with_queries:
            prefix.add_queries([IMAGE_QUERY])
        prefix.add_text(self.encode("\n"))
        return prefix

    def text_prefix(self, question: Question | None = None) -> Prefix:
        """The same for a question about no video and no image: it only opens the turn."""
        return self._open(question)

    def time_instruction(self, times_s: Sequence[float], duration_s: float) -> str:
        """LLaVA-Video's sentence; the list of times only where they do not stand beside the frames."""
        text = TIME_INSTRUCTION.format(duration_s=duration_s, count=len(times_s))
        if self.config.time_encoding == "list":
            text += f" These frames are located at {','.join(f'{t:.2f}s' for t in times_s)}."
        return text + QUESTIONS_FOLLOW

    def segment(self, question: Question, answer: str | None = None) -> Segment:
        """What follows the prefix: the question and, in training, its answer."""
        ids, caption = ([], None) if self._caption_first else self._asked(question)
        ids = ids + self.encode(f"{END_OF_TURN}\n<|im_start|>assistant\n")
        segment = Segment(ids, len(ids), caption)
        if answer is not None:
            self._append_answer(segment, answer, timed=question.task in ("stvg", "vtg"))
        return segment

    def wording(self, question: Question) -> Wording:
        """What stands around the question: always the same in answering, by its key in training with ``many``."""
        key = question.key if self.config.wordings == "many" else ""
        return choose_wording(question.task, bool(question.options), key)

    @property
    def _caption_first(self) -> bool:
        return self.config.prompt_order == "caption_first"

    def _asked(self, question: Question) -> tuple[list[int], tuple[int, int]]:
        """Tokens of a question in the wording of its task, and the range of its caption among them."""
        before, after = self.wording(question).ask.split("{question}")
        for i, option in enumerate(question.options):
            after += ANSWER_WITH_OPTION.format(letter=chr(65 + i), option=option)
        ids, caption = self.encode(before), self.encode(question.text)
        return ids + caption + self.encode(after), (len(ids), len(ids) + len(caption))

    def _append_answer(self, segment: Segment, answer: str, timed: bool) -> None:
        encoded = self.tokenizer(answer, add_special_tokens=False, return_offsets_mapping=True)
        if timed:
            starts = number_starts(answer)
            spans = [(s, s + len(answer[s:].split("s")[0])) for s in starts]
            for i, (begin, end) in enumerate(encoded.offset_mapping):
                if any(begin <= start < end for start in starts[:2]):
                    segment.numbers.append(segment.answer_start + i)
                if any(begin < stop and end > start for start, stop in spans):
                    segment.time_tokens.append(segment.answer_start + i)
        segment.ids += [*encoded.input_ids, self.end_of_turn]

    def _open(self, question: Question | None) -> Prefix:
        prefix = Prefix()
        system = self.config.system_prompt
        opening = f"<|im_start|>system\n{system}{END_OF_TURN}\n" if system else ""
        prefix.add_text(self.encode(f"{opening}<|im_start|>user\n"))
        if self._caption_first:
            if question is None:
                raise ValueError("prompt_order caption_first needs the question before the video")
            ids, (begin, end) = self._asked(question)
            prefix.caption = (len(prefix.ids) + begin, len(prefix.ids) + end)
            prefix.add_text(ids + self.encode("\n"))
        return prefix
