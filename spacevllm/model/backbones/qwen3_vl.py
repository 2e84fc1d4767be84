"""Qwen3-VL: a vision transformer with deepstack, a merger of 2x2 patches, and Qwen3 with M-RoPE.

A frame keeps about its own shape, within a budget of cells: ``<2.0 seconds><|vision_start|>`` cells ``<|vision_end|>``
and its query. Three numbers make a position: in a frame that starts at p, the cell in row i and column j stands at
(p, p + i, p + j), and what follows starts at p + max(rows, columns). A frame is one temporal patch: transformers' own
processor merges two frames into one; every frame given twice there is what is read here (a convolution over time of two
equal frames is one over space, with the weights summed).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Qwen3VLForConditionalGeneration
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionPatchEmbed, apply_rotary_pos_emb

from spacevllm.frame_size import FrameBudget
from spacevllm.model.attention import SHARED_PREFIX
from spacevllm.model.backbones.base import Cells, Encode, Family, Layout, Pixels, TowerSize
from spacevllm.model.configuration import SpaceVLLMConfig
from spacevllm.model.prompt import Kind, Prefix

VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
NAMES = [(r"^visual\.", r"model.visual."), (r"^language_model\.", r"model.language_model.")]


class Qwen3VLLayout(Layout):
    """Frames in their own shape, each behind its time; positions of three numbers."""

    axes = 3

    @property
    def merge(self) -> int:
        """Patches along one side of a cell."""
        return int(self.config.vision.spatial_merge_size)

    @property
    def frame_size(self) -> FrameBudget:
        return FrameBudget(self.config.frame_tokens, self.merge * int(self.config.vision.patch_size))

    def patch_grid(self, height: int, width: int) -> tuple[int, int]:
        patch = int(self.config.vision.patch_size)
        return height // patch, width // patch

    def grid(self, height: int, width: int, is_image: bool) -> tuple[int, int]:
        return height // self.frame_size.cell, width // self.frame_size.cell

    def pixels(self, frames: np.ndarray, is_image: bool) -> Pixels:
        """``values``: (patches, C * p * p) float32 in [-1, 1]; the patches of a cell stand together."""
        count, height, width, channels = frames.shape
        rows, columns = self.grid(height, width, is_image)
        patch, merge = int(self.config.vision.patch_size), self.merge
        x = torch.from_numpy(np.ascontiguousarray(frames)).float() / 127.5 - 1  # (T, H, W, 3)
        x = x.view(count, rows, merge, patch, columns, merge, patch, channels)
        x = x.permute(0, 1, 4, 2, 5, 7, 3, 6)  # (T, rows, columns, merge, merge, 3, patch, patch)
        grids = torch.tensor([self.patch_grid(height, width)] * count, dtype=torch.long).view(-1, 2)
        return Pixels(x.reshape(-1, channels * patch**2), grids, torch.full((count,), is_image))

    def add_video(
        self, prefix: Prefix, times_s: Sequence[float], duration_s: float, with_queries: bool, encode: Encode
    ) -> None:
        interleaved = self.config.query_layout == "interleaved"
        if self.config.outer_vision_tokens:
            prefix.add_text(encode(VISION_START))
        for i, time_s in enumerate(times_s):
            prefix.add_text(encode(f"<{time_s:.1f} seconds>"))
            self._add_frame(prefix, encode)
            if with_queries and interleaved:
                prefix.add_queries([i])
        if self.config.outer_vision_tokens:
            prefix.add_text(encode(VISION_END))
        if with_queries and not interleaved:
            prefix.add_queries(range(len(times_s)))

    def add_image(self, prefix: Prefix, with_queries: bool, encode: Encode) -> None:
        self._add_frame(prefix, encode)
        if with_queries:
            prefix.add_queries([self.config.image_query])

    def _add_frame(self, prefix: Prefix, encode: Encode) -> None:
        rows, columns = prefix.grid
        prefix.add_text(encode(VISION_START))
        prefix.add(Kind.CELL, rows * columns)
        prefix.add_text(encode(VISION_END))

    def positions(self, prefix: Prefix) -> np.ndarray:
        rows, columns = prefix.grid
        in_frame = np.stack(  # (3, rows * columns)
            [np.zeros(rows * columns, int), np.arange(rows).repeat(columns), np.tile(np.arange(columns), rows)]
        )
        pieces, start, i = [np.zeros((3, 0), int)], 0, 0
        while i < len(prefix.kinds):
            if prefix.kinds[i] == Kind.CELL:
                pieces.append(start + in_frame)
                start, i = start + max(rows, columns), i + rows * columns
            else:
                pieces.append(np.full((3, 1), start))
                start, i = start + 1, i + 1
        return np.concatenate(pieces, axis=1)


class FrameConvolution(nn.Conv3d):
    """Over frames that come once, as a matrix product: (patches, C * p * p) → (patches, D)."""

    def forward(self, patches: Tensor) -> Tensor:
        return F.linear(patches.to(self.weight.dtype), self.weight.sum(2).flatten(1), self.bias)


class FramePatchEmbed(Qwen3VLVisionPatchEmbed):
    """The tower's first layer, with weights of the same names and shapes."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        kernel = (config.temporal_patch_size, config.patch_size, config.patch_size)
        self.proj = FrameConvolution(config.in_channels, config.hidden_size, kernel, kernel)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.proj(hidden_states)


class Qwen3VLBackbone(Qwen3VLForConditionalGeneration):
    """transformers' model with the methods of ``Backbone``."""

    def __init__(self, config: Any, whole: SpaceVLLMConfig) -> None:
        super().__init__(config)
        self.model.visual.patch_embed = FramePatchEmbed(config.vision_config)

    @property
    def language_model(self) -> Any:
        return self.model.language_model

    @property
    def separator(self) -> Tensor | None:
        return None

    def embed_words(self, input_ids: Tensor) -> Tensor:
        return self.get_input_embeddings()(input_ids)

    def blank(self, empty: Pixels) -> Pixels:
        """Of one cell."""
        merge = cast(Any, self.config.vision_config).spatial_merge_size
        values = empty.values.new_zeros(merge**2, empty.values.shape[1])
        return Pixels(values, empty.grids.new_full((1, 2), merge), empty.is_image.new_zeros(1))

    def read_pixels(self, pixels: Pixels) -> Cells:
        grids = F.pad(pixels.grids, (1, 0), value=1)  # (F, 3): each frame is one step of time
        out = self.model.visual(pixels.values, grid_thw=grids)
        return Cells(out.pooler_output, out.deepstack_features)

    def run(self, x: Tensor, positions: Tensor, cells: Cells | None, is_cell: Tensor | None, **attention: Any) -> Any:
        deepstack = {} if cells is None else {"visual_pos_masks": is_cell, "deepstack_visual_embeds": cells.deepstack}
        return self.model.language_model(inputs_embeds=x, position_ids=positions, **deepstack, **attention)

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        cos, sin = self.model.language_model.rotary_emb(x, positions)  # (Q, N, H)
        turned, _ = apply_rotary_pos_emb(x.unsqueeze(1), x.unsqueeze(1), cos, sin)
        return turned.squeeze(1)


def tower_size(config: SpaceVLLMConfig) -> TowerSize:
    vision = config.vision
    merged = vision.hidden_size * vision.spatial_merge_size**2  # what a merger reads of one cell
    merger = merged * (merged + vision.out_hidden_size) / vision.spatial_merge_size**2
    return TowerSize(
        layers=vision.depth,
        width=vision.hidden_size,
        mlp_width=vision.intermediate_size,
        patch_values=vision.in_channels * vision.patch_size**2,
        projector=merger * (1 + len(vision.deepstack_visual_indexes)),
    )


QWEN3_VL = Family(
    module=Qwen3VLBackbone,
    layout=Qwen3VLLayout,
    attention={"text_config": SHARED_PREFIX, "vision_config": "sdpa" if torch.cuda.is_available() else "eager"},
    names=NAMES,
    tower=("model.visual.",),
    projector=("model.visual.merger.", "model.visual.deepstack_merger_list."),
    tower_size=tower_size,
    special_tokens=(VISION_START, VISION_END),
)
