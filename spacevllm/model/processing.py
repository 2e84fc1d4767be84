"""From frames and sentences to tokens: prompts and pixels.

A row reads ``<|im_start|>user⏎ [frame 0] <r_0> … [frame T-1] <r_T-1>`` (the prefix, independent of the question; what a
frame looks like and how its time is told is the backbone's ``Layout``), then ``instruction + caption
<|im_end|>⏎<|im_start|>assistant⏎ answer <|im_end|>`` (one segment a question). With ``prompt_order: caption_first``
instruction and caption stand before the video, in the prefix, which then belongs to one question alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np
from transformers import PreTrainedTokenizerFast

from spacevllm.model.backbones import layout_of
from spacevllm.model.backbones.base import Pixels
from spacevllm.model.configuration import SpaceVLLMConfig
from spacevllm.model.prompt import Prefix, Segment
from spacevllm.words.answers import number_starts
from spacevllm.words.instructions import ANSWER_WITH_OPTION, Wording, choose_wording

END_OF_TURN = "<|im_end|>"
_PIECES_KEPT = 20_000


class Question(NamedTuple):
    """task: of ``TASKS``. text: the sentence. options: of a multiple choice, in order. key: in training the
    instance's id, by which ``wordings: many`` chooses."""

    task: str
    text: str
    options: Sequence[str] = ()
    key: str = ""


class SpaceVLLMProcessor:
    """Prompts and pixels for one model. Stateless but for the tokenizer and the configuration."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, config: SpaceVLLMConfig) -> None:
        self.tokenizer = tokenizer
        self.config = config
        self.layout = layout_of(config)
        self.end_of_turn = cast(int, tokenizer.convert_tokens_to_ids(END_OF_TURN))
        self._encoded: dict[str, list[int]] = {}  # prompts repeat the same few pieces

    def encode(self, text: str) -> list[int]:
        """Token ids of one piece of a prompt, no special tokens added."""
        if text not in self._encoded:
            if len(self._encoded) > _PIECES_KEPT:
                self._encoded.clear()
            self._encoded[text] = self.tokenizer(text, add_special_tokens=False).input_ids
        return list(self._encoded[text])

    def pixels(self, frames: np.ndarray, is_image: bool = False) -> Pixels:
        """Frames of one clip, (T, H, W, 3) uint8, already resized to the layout's ``frame_size``."""
        return self.layout.pixels(frames, is_image)

    def grid(self, frames: np.ndarray, is_image: bool = False) -> tuple[int, int]:
        """Rows and columns of the cells of such frames, (T, H, W, 3)."""
        return self.layout.grid(frames.shape[1], frames.shape[2], is_image)

    def video_prefix(
        self,
        times_s: Sequence[float],
        duration_s: float,
        grid: tuple[int, int],
        with_queries: bool = True,
        question: Question | None = None,
    ) -> Prefix:
        """The part of a prompt about a video that stands before the answer or, with ``video_first``, the question.

        Args:
            grid: rows and columns of a frame's cells, see ``Layout.grid``.
            question: needed with ``prompt_order: caption_first``, not read otherwise.
        """
        prefix = self._open(question)
        prefix.grid = grid
        self.layout.add_video(prefix, times_s, duration_s, with_queries, self.encode)
        return prefix

    def image_prefix(
        self, grid: tuple[int, int], with_queries: bool = True, question: Question | None = None
    ) -> Prefix:
        """The same for one image; behind it stands the last query."""
        prefix = self._open(question)
        prefix.grid = grid
        self.layout.add_image(prefix, with_queries, self.encode)
        return prefix

    def text_prefix(self, question: Question | None = None) -> Prefix:
        """The same for a question about no video and no image: it only opens the turn."""
        return self._open(question)

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
