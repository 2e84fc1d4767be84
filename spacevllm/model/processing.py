"""From frames and sentences to tokens: prompt layout, pixel values, the tiny tokenizer.

A row reads ``<|im_start|>user⏎ [frame 0] <r_0> … [frame T-1] <r_T-1> ⏎ time instruction ⏎`` (the prefix, independent of
the question), then ``instruction + caption <|im_end|>⏎<|im_start|>assistant⏎ answer <|im_end|>`` (one segment a
question). The time instruction is LLaVA-Video's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from spacevllm.data.instance import Instance
from spacevllm.data.templates import ANSWER_WITH_OPTION, INSTRUCTIONS, answer_text
from spacevllm.model.answers import number_starts
from spacevllm.model.batch import Kind
from spacevllm.model.configuration import SpaceVLLMConfig
from spacevllm.model.queries import IMAGE_QUERY

END_OF_TURN = "<|im_end|>"
_TIME_INSTRUCTION = "The video lasts for {duration_s:.2f} seconds, and {count} frames are uniformly sampled from it."
_QUESTIONS_FOLLOW = "Please answer the following questions related to this video."
_SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", END_OF_TURN]
_PIECES_KEPT = 20_000
# Qwen2's rule in short: words with their leading space, single digits, everything else
_PIECES = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+"


@dataclass
class Prefix:
    """A video or image as tokens. ids, kinds: one entry a position; query_ids: one entry a query position."""

    ids: list[int] = field(default_factory=list)
    kinds: list[int] = field(default_factory=list)
    query_ids: list[int] = field(default_factory=list)

    def add_text(self, ids: Sequence[int]) -> None:
        self.ids += ids
        self.kinds += [Kind.TEXT] * len(ids)

    def add(self, kind: Kind, count: int = 1) -> None:
        self.ids += [0] * count
        self.kinds += [kind] * count

    def visual_index(self, frames: int) -> np.ndarray:
        """(T, P) positions of the visual tokens, frame by frame."""
        kinds = np.array(self.kinds)
        return np.flatnonzero((kinds == Kind.VIDEO_CELL) | (kinds == Kind.IMAGE_CELL)).reshape(frames, -1)

    def query_index(self) -> np.ndarray:
        """(T,) positions of the queries; (0,) without any."""
        return np.flatnonzero(np.array(self.kinds) == Kind.QUERY)


@dataclass
class Segment:
    """A question and, in training, its answer.

    Attributes:
        ids: tokens. answer_start: index of the answer's first token (== len(ids) without an answer).
        caption: half-open token range of the caption. numbers: indices of the first token of each time in the answer.
        time_tokens: indices of all tokens of the two times.
    """

    ids: list[int]
    answer_start: int
    caption: tuple[int, int]
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

    def video_prefix(self, times_s: Sequence[float], duration_s: float, with_queries: bool = True) -> Prefix:
        """The question-independent part of a prompt about a video."""
        prefix = self._open()
        grid = self.config.grid(pooled=True)
        for i, time_s in enumerate(times_s):
            if self.config.time_encoding == "interleaved":
                prefix.add_text(self.encode(f"{time_s:.2f}s"))
            for _ in range(grid):
                prefix.add(Kind.VIDEO_CELL, grid)
                prefix.add(Kind.NEWLINE)
            if with_queries:
                prefix.add(Kind.QUERY)
                prefix.query_ids.append(i)
        prefix.add_text(self.encode("\n" + self.time_instruction(times_s, duration_s) + "\n"))
        return prefix

    def image_prefix(self, with_queries: bool = True) -> Prefix:
        """The same for one image: the base view, newlines as LLaVA-OneVision sets them, then ``<r_64>``."""
        prefix = self._open()
        grid = self.config.grid(pooled=self.config.image_pooling)
        rows = [grid] * grid if self.config.image_pooling else [grid * grid]
        for cells in rows:
            prefix.add(Kind.IMAGE_CELL, cells)
            prefix.add(Kind.NEWLINE)
        if with_queries:
            prefix.add(Kind.QUERY)
            prefix.query_ids.append(IMAGE_QUERY)
        prefix.add_text(self.encode("\n"))
        return prefix

    def time_instruction(self, times_s: Sequence[float], duration_s: float) -> str:
        """LLaVA-Video's sentence; the list of times only where they do not stand beside the frames."""
        text = _TIME_INSTRUCTION.format(duration_s=duration_s, count=len(times_s))
        if self.config.time_encoding == "list":
            text += f" These frames are located at {','.join(f'{t:.2f}s' for t in times_s)}."
        return text + _QUESTIONS_FOLLOW

    def segment(self, task: str, question: str, options: Sequence[str] = (), answer: str | None = None) -> Segment:
        """One question in the wording of its task; with ``answer`` for training, without to be answered."""
        before, after = INSTRUCTIONS[task].split("{question}")
        ids = self.encode(before)
        caption_ids = self.encode(question)
        caption = (len(ids), len(ids) + len(caption_ids))
        if options:
            after += "".join(ANSWER_WITH_OPTION.format(letter=chr(65 + i), option=o) for i, o in enumerate(options))
        ids += caption_ids + self.encode(f"{after}{END_OF_TURN}\n<|im_start|>assistant\n")
        segment = Segment(ids, len(ids), caption)
        if answer is not None:
            self._append_answer(segment, answer, timed=task in ("stvg", "vtg"))
        return segment

    def _append_answer(self, segment: Segment, answer: str, timed: bool) -> None:
        encoded = self.tokenizer(answer, add_special_tokens=False, return_offsets_mapping=True)
        if timed:
            starts = number_starts(answer)
            spans = [(s, s + len(answer[s:].split("s")[0])) for s in starts]
            for i, (begin, end) in enumerate(encoded.offset_mapping):
                if any(begin <= start < end for start in starts):
                    segment.numbers.append(segment.answer_start + i)
                if any(begin < stop and end > start for start, stop in spans):
                    segment.time_tokens.append(segment.answer_start + i)
        segment.ids += [*encoded.input_ids, self.end_of_turn]

    def _open(self) -> Prefix:
        prefix = Prefix()
        system = self.config.system_prompt
        opening = f"<|im_start|>system\n{system}{END_OF_TURN}\n" if system else ""
        prefix.add_text(self.encode(f"{opening}<|im_start|>user\n"))
        return prefix


def prompt_texts(instances: Iterable[Instance]) -> Iterator[str]:
    """What a model of these instances reads and writes, for training a tiny tokenizer."""
    for instance in instances:
        before, after = INSTRUCTIONS[instance.task].split("{question}")
        yield from (before, instance.question, after, "user\n", "assistant\n", answer_text(instance))
        yield from (ANSWER_WITH_OPTION.format(letter=chr(65 + i), option=o) for i, o in enumerate(instance.options))
        yield _TIME_INSTRUCTION.format(duration_s=instance.duration_s, count=8) + _QUESTIONS_FOLLOW


def build_tiny_tokenizer(texts: Iterable[str], vocab_size: int = 512) -> PreTrainedTokenizerFast:
    """A byte-level BPE in the manner of Qwen2's (digits one by one), trained on ``texts``; reads any text."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(_PIECES), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=_SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END_OF_TURN, pad_token="<|endoftext|>", clean_up_tokenization_spaces=False
    )
