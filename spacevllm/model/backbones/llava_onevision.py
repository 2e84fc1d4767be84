"""LLaVA-OneVision: SigLIP, a two-layer projector and Qwen2; the paper's base model is one of these.

A frame is a square of 27x27 patches, pooled to 14x14 cells in a video, with a learned newline behind each row; time
stands in LLaVA-Video's instruction behind the frames, or as text beside each. Positions are those of the tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from transformers import LlavaOnevisionForConditionalGeneration
from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb

from spacevllm.model.attention import SHARED_PREFIX
from spacevllm.model.backbones.base import Cells, Encode, Family, Layout, Pixels, TowerSize
from spacevllm.model.configuration import SpaceVLLMConfig
from spacevllm.model.prompt import Kind, Prefix
from spacevllm.words.instructions import time_instruction

NAMES = [
    # LLaVA-NeXT
    (r"^model\.(embed_tokens|layers|norm)\b", r"model.language_model.\1"),
    (r"^model\.vision_tower\.vision_tower\.", r"model.vision_tower."),
    (r"^model\.mm_projector\.0\.", r"model.multi_modal_projector.linear_1."),
    (r"^model\.mm_projector\.2\.", r"model.multi_modal_projector.linear_2."),
    # llava-hf's files and what transformers 4 and 5 save
    (r"^language_model\.lm_head\.", r"lm_head."),
    (r"^(?:model\.)?language_model\.(?:model\.)?", r"model.language_model."),
    (r"^(?:model\.)?vision_tower\.(?:vision_model\.)?", r"model.vision_tower."),
    (r"^(multi_modal_projector\.|image_newline$)", r"model.\1"),
]


class OneVisionLayout(Layout):
    """Squares, rows that end in newlines, one number a position."""

    @property
    def frame_size(self) -> int:
        return int(self.config.vision.image_size)

    def patch_grid(self, height: int, width: int) -> tuple[int, int]:
        side = self.frame_size // int(self.config.vision.patch_size)
        return side, side

    def grid(self, height: int, width: int, is_image: bool) -> tuple[int, int]:
        side, _ = self.patch_grid(height, width)
        pooled = not is_image or self.config.image_pooling
        return (-(-side // 2),) * 2 if pooled else (side, side)

    def pixels(self, frames: np.ndarray, is_image: bool) -> Pixels:
        """``values``: (T, C, S, S) float32 in [-1, 1]; with ``tower_frames`` 3, C = 9: the frame, it minus the previous
        one, the next one minus it (0 at the ends and for an image)."""
        grids = torch.tensor([self.patch_grid(*frames.shape[1:3])] * len(frames), dtype=torch.long).view(-1, 2)
        return Pixels(self._values(frames), grids, torch.full((len(frames),), is_image))

    def _values(self, frames: np.ndarray) -> Tensor:
        if not len(frames):
            return torch.zeros(0, self.config.vision.num_channels, self.frame_size, self.frame_size)
        x = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 127.5 - 1  # (T, 3, S, S)
        if self.config.tower_frames == 1:
            return x.contiguous()
        step = x[1:] - x[:-1]  # (T - 1, 3, S, S)
        still = torch.zeros_like(x[:1])
        return torch.cat([x, torch.cat([still, step]), torch.cat([step, still])], dim=1).contiguous()

    def add_video(
        self, prefix: Prefix, times_s: Sequence[float], duration_s: float, with_queries: bool, encode: Encode
    ) -> None:
        rows, columns = prefix.grid
        interleaved = self.config.query_layout == "interleaved"
        timed = self.config.time_encoding == "interleaved"
        for i, time_s in enumerate(times_s):
            if timed:
                prefix.add_text(encode(f"{time_s:.2f}s"))
            for _ in range(rows):
                prefix.add(Kind.CELL, columns)
                prefix.add(Kind.SEPARATOR)
            if with_queries and interleaved:
                prefix.add_queries([i])
        if with_queries and not interleaved:
            prefix.add_queries(range(len(times_s)))
        prefix.add_text(encode("\n" + time_instruction(times_s, duration_s, listed=not timed) + "\n"))

    def add_image(self, prefix: Prefix, with_queries: bool, encode: Encode) -> None:
        """The base view, newlines as LLaVA-OneVision sets them: one, or with pooling one a row."""
        rows, columns = prefix.grid
        for cells in [columns] * rows if self.config.image_pooling else [rows * columns]:
            prefix.add(Kind.CELL, cells)
            prefix.add(Kind.SEPARATOR)
        if with_queries:
            prefix.add_queries([self.config.image_query])
        prefix.add_text(encode("\n"))


class OneVisionBackbone(LlavaOnevisionForConditionalGeneration):
    """transformers' model with the methods of ``Backbone``."""

    def __init__(self, config: Any, whole: SpaceVLLMConfig) -> None:
        super().__init__(config)
        self.image_pooling = whole.image_pooling

    @property
    def language_model(self) -> Any:
        return self.model.language_model

    @property
    def separator(self) -> Tensor | None:
        return self.model.image_newline

    def embed_words(self, input_ids: Tensor) -> Tensor:
        return self.get_input_embeddings()(input_ids)

    def blank(self, empty: Pixels) -> Pixels:
        vision = cast(Any, self.config.vision_config)
        values = empty.values.new_zeros(1, vision.num_channels, vision.image_size, vision.image_size)
        return Pixels(values, empty.grids.new_ones(1, 2), empty.is_image.new_zeros(1))

    def read_pixels(self, pixels: Pixels) -> Cells:
        """Videos and images pass the tower together; (F, C, S, S) → cells of the layer that LLaVA takes."""
        hidden = self.model.vision_tower(pixels.values, output_hidden_states=True).hidden_states
        features = self.model.multi_modal_projector(hidden[self.config.vision_feature_layer])  # (F, side², D)
        if self.image_pooling or not pixels.is_image.any():
            return Cells(self.model.apply_pooling(features).flatten(0, 1))
        if pixels.is_image.all():
            return Cells(features.flatten(0, 1))
        videos = iter(self.model.apply_pooling(features[~pixels.is_image]))
        kept = [frame if image else next(videos) for frame, image in zip(features, pixels.is_image, strict=True)]
        return Cells(torch.cat(kept))

    def run(self, x: Tensor, positions: Tensor, cells: Cells | None, is_cell: Tensor | None, **attention: Any) -> Any:
        return self.model.language_model(inputs_embeds=x, position_ids=positions[0], **attention)

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        cos, sin = self.model.language_model.rotary_emb(x, positions[0])  # (Q, N, H)
        turned, _ = apply_rotary_pos_emb(x.unsqueeze(1), x.unsqueeze(1), cos, sin)
        return turned.squeeze(1)


def tower_size(config: SpaceVLLMConfig) -> TowerSize:
    """Of the layers up to the one that LLaVA takes."""
    vision, layer = config.vision, config.backbone.vision_feature_layer
    assert isinstance(layer, int)
    return TowerSize(
        layers=vision.num_hidden_layers + 1 + layer,  # states are counted from the embeddings on
        width=vision.hidden_size,
        mlp_width=vision.intermediate_size,
        patch_values=vision.num_channels * vision.patch_size**2,
        projector=config.text.hidden_size * (vision.hidden_size + config.text.hidden_size),
    )


LLAVA_ONEVISION = Family(
    module=OneVisionBackbone,
    layout=OneVisionLayout,
    # the tower: torch's fused CPU kernel takes six times as long as two matmuls in bf16 at 64 tokens
    attention={"text_config": SHARED_PREFIX, "vision_config": "sdpa" if torch.cuda.is_available() else "eager"},
    names=NAMES,
    tower=("model.vision_tower.",),
    projector=("model.multi_modal_projector.", "model.image_newline"),
    tower_size=tower_size,
)
