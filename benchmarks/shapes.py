"""Models with random weights and what they read, without tokenizer or video: speed does not depend on what is said."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from spacevllm.frame_size import fit_size
from spacevllm.model.backbones import layout_of
from spacevllm.model.backbones.base import Pixels
from spacevllm.model.batch import Batch, Media, Targets, Tokens
from spacevllm.model.configuration import SpaceVLLMConfig, tiny_config
from spacevllm.model.modeling import SpaceVLLM
from spacevllm.model.prompt import Kind, Prefix, Segment

OPENING_TOKENS, TIME_TOKENS = 14, 7  # system turn; each frame's time in the list of LLaVA-Video's instruction
QUESTION_TOKENS, CAPTION = 40, (8, 28)


def small_config(num_frames: int = 8) -> SpaceVLLMConfig:
    """The tiny recipe's sizes."""
    return tiny_config(512, text={"max_position_embeddings": 8192}, num_frames=num_frames)


SHAPES: dict[str, Callable[[], SpaceVLLMConfig]] = {"7b": SpaceVLLMConfig, "tiny": small_config}


def random_model(config: SpaceVLLMConfig, device: str, dtype: torch.dtype) -> SpaceVLLM:
    """Made on the device; box head in fp32, as it is trained."""
    with torch.device(device):
        model = SpaceVLLM._from_config(config, dtype=dtype)
    model.space_decoder.float()
    return model.eval()


def video_prefix(config: SpaceVLLMConfig) -> Prefix:
    """A video of ``num_frames`` frames, as ``SpaceVLLMProcessor.video_prefix`` lays it out."""
    width, height = fit_size(layout_of(config).frame_size, 1280, 720)
    prefix = Prefix(grid=layout_of(config).grid(height, width, is_image=False))
    prefix.add_text([1] * OPENING_TOKENS)
    rows, columns = prefix.grid
    for frame in range(config.num_frames):
        for _ in range(rows):
            prefix.add(Kind.CELL, columns)
            prefix.add(Kind.SEPARATOR)
        prefix.add_queries([frame])
    prefix.add_text([1] * (TIME_TOKENS * config.num_frames + 40))
    return prefix


def video_pixels(config: SpaceVLLMConfig, device: str, dtype: torch.dtype) -> Pixels:
    """``values``: (T, C, S, S)"""
    layout = layout_of(config)
    width, height = fit_size(layout.frame_size, 1280, 720)
    pixels = layout.pixels(np.zeros((config.num_frames, height, width, 3), np.uint8), False)
    return Pixels(torch.randn_like(pixels.values), pixels.grids, pixels.is_image).to(device, dtype)


def questions(count: int) -> list[Segment]:
    return [Segment([2 + k % 400] * QUESTION_TOKENS, QUESTION_TOKENS, CAPTION) for k in range(count)]


def training_row(config: SpaceVLLMConfig, count: int, answer: int, device: str, dtype: torch.dtype) -> Batch:
    """One row: a video and ``count`` questions with answers of ``answer`` tokens."""
    prefix, segment = video_prefix(config), QUESTION_TOKENS + answer
    begin, frames = len(prefix.ids), config.num_frames
    ids = torch.tensor(prefix.ids + [2] * segment * count)
    place = torch.arange(segment).repeat(count)  # (K * S,)
    answered = torch.cat([torch.zeros(begin, dtype=torch.bool), place >= QUESTION_TOKENS])
    visual, starts = torch.from_numpy(prefix.visual_index(frames)), begin + segment * torch.arange(count)
    boxes = torch.full((count, frames, 4), 0.5)
    yes = torch.ones(count, frames, dtype=torch.bool)
    batch = Batch(
        Tokens(
            input_ids=ids[None],
            kinds=torch.tensor(prefix.kinds + [Kind.TEXT] * segment * count)[None],
            segments=torch.cat([torch.zeros(begin), 1 + torch.arange(count).repeat_interleave(segment)]).long()[None],
            position_ids=torch.cat([torch.arange(begin), begin + place])[None, None],
            labels=torch.where(answered, ids, -100)[None],
            label_weights=answered.float()[None],
            query_ids=torch.tensor(prefix.query_ids),
            question_row=torch.zeros(count, dtype=torch.long),
            caption_index=starts[:, None] + torch.arange(*CAPTION),
            prefix_length=begin,
            segment_length=segment,
        ),
        Media(video_pixels(config, device, dtype), visual[None], torch.from_numpy(prefix.query_index())[None]),
        Targets(
            boxes=boxes,
            cell_shares=torch.zeros(count, *visual.shape),
            box_known=yes,
            in_span=yes,
            pointer_index=torch.full((count, 2), -1),
            pointer_target=torch.zeros(count, 2, visual.numel()),
            tasks=torch.zeros(count, dtype=torch.long),
        ),
    )
    return batch.to(device)
