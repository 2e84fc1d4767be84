"""What SpaceVLLM asks of a backbone: a video MLLM in two halves, one without weights and one with.

``Layout`` says how frames become tokens and pixels, and where these stand; the processor needs nothing else. The module
half reads the pixels and runs the language model. A family is one file here and one line in ``backbones.FAMILIES``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from spacevllm.frame_size import FrameSize
from spacevllm.model.configuration import SpaceVLLMConfig
from spacevllm.model.prompt import Prefix

Encode = Callable[[str], list[int]]


@dataclass(frozen=True)
class Pixels:
    """What the tower reads: F frames of videos and images, in row order.

    Attributes:
        values: a family's own form, frame by frame along the first dimension.
        grids: (F, 2) int, rows and columns of each frame's patches.
        is_image: (F,) bool.
    """

    values: Tensor
    grids: Tensor
    is_image: Tensor

    def __len__(self) -> int:
        """Frames."""
        return len(self.grids)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Pixels:
        """The same on another device, ``values`` in another precision."""
        return Pixels(self.values.to(device, dtype), self.grids.to(device), self.is_image.to(device))


def join_pixels(parts: Sequence[Pixels]) -> Pixels:
    """The frames of all parts, in order; at least one part."""
    return Pixels(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Pixels)))


class Cells(NamedTuple):
    """Visual tokens of all frames, frame by frame, row by row.

    states: (N, D), the language model's inputs. deepstack: (N, D) each, added behind its first layers.
    """

    states: Tensor
    deepstack: Sequence[Tensor] = ()


class Layout(ABC):
    """Tokens, positions and pixels of a family's prompts; no weights.

    Attributes:
        axes: numbers that make up a position: 1, or 3 (time, row, column) with M-RoPE.
        frame_size: to which frames are resized.
    """

    axes: int = 1

    def __init__(self, config: SpaceVLLMConfig) -> None:
        self.config = config

    @property
    @abstractmethod
    def frame_size(self) -> FrameSize: ...

    @abstractmethod
    def grid(self, height: int, width: int, is_image: bool) -> tuple[int, int]:
        """Rows and columns of a frame's cells; height, width: of the resized frame, in pixels."""

    @abstractmethod
    def patch_grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the patches that the tower reads of a resized frame."""

    @abstractmethod
    def pixels(self, frames: np.ndarray, is_image: bool) -> Pixels:
        """Frames of one clip, (T, H, W, 3) uint8, already resized; T == 0 is allowed."""

    @abstractmethod
    def add_video(
        self, prefix: Prefix, times_s: Sequence[float], duration_s: float, with_queries: bool, encode: Encode
    ) -> None:
        """Appends the frames at ``times_s``, each of ``prefix.grid``, and what is said about their time."""

    @abstractmethod
    def add_image(self, prefix: Prefix, with_queries: bool, encode: Encode) -> None:
        """Appends one image of ``prefix.grid`` and its query."""

    def positions(self, prefix: Prefix) -> np.ndarray:
        """(A, L) int, of the prefix's tokens; one after another, unless a family says otherwise."""
        return np.arange(len(prefix.ids))[None]  # (1, L)

    def next_position(self, prefix: Prefix) -> int:
        """Where every question about the prefix starts, on all axes."""
        positions = self.positions(prefix)
        return int(positions.max()) + 1 if positions.size else 0


class Backbone(Protocol):
    """The module half: transformers' model of a family with these methods beside its own.

    ``attention`` in ``run`` is what ``spacevllm.model.attention`` takes: a mask, a layout, a remembered prefix.
    """

    config: Any
    lm_head: nn.Module

    @property
    def language_model(self) -> Any: ...

    def embed_words(self, input_ids: Tensor) -> Tensor:
        """(B, L) int → (B, L, D)"""
        ...

    def blank(self, empty: Pixels) -> Pixels:
        """One frame of zeros like those that ``empty`` has none of: what a batch without pixels passes through the
        tower, so that every rank calls it."""
        ...

    def read_pixels(self, pixels: Pixels) -> Cells:
        """Of at least one frame."""
        ...

    @property
    def separator(self) -> Tensor | None:
        """(D,) between cells; None for a family without any."""
        ...

    def run(self, x: Tensor, positions: Tensor, cells: Cells | None, is_cell: Tensor | None, **attention: Any) -> Any:
        """The language model on embeddings.

        Args:
            x: (B, L, D). positions: (A, B, L) int. cells: whose ``deepstack`` is added at the N true positions of
                ``is_cell`` (B, L) bool; None: nothing is.

        Returns:
            transformers' output: ``last_hidden_state`` (B, L, D), ``past_key_values`` if asked for.
        """
        ...

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        """(Q, N, H) states of one head, rotated to positions (A, Q, N)."""
        ...


@dataclass(frozen=True)
class TowerSize:
    """What a vision tower costs. Layers of ``width`` and ``mlp_width``; ``patch_values`` numbers make a patch;
    ``projector``: weights that each patch passes on its way to the language model."""

    layers: int
    width: int
    mlp_width: int
    patch_values: int
    projector: float


@dataclass(frozen=True)
class Family:
    """A line in the table of backbones.

    Attributes:
        module: the module half, made of a backbone's configuration and of the whole one. layout: the other half.
        attention: transformers' attention of each sub-configuration.
        names: (pattern, replacement), in order: a tensor's name in any known file → in the module's ``state_dict()``.
        tower, projector: prefixes of parameter names; the rest is the language model's. Projector first: it may lie
            inside the tower.
        tower_size: for FLOPs and memory. special_tokens: that its prompts need.
    """

    module: Callable[[Any, SpaceVLLMConfig], PreTrainedModel]
    layout: type[Layout]
    attention: Mapping[str, str]
    names: Sequence[tuple[str, str]]
    tower: tuple[str, ...]
    projector: tuple[str, ...]
    tower_size: Callable[[SpaceVLLMConfig], TowerSize]
    special_tokens: tuple[str, ...] = ()


def place(x: Tensor, where: Tensor, values: Tensor) -> Tensor:
    """x (B, L, D) with values (N, D) at the N true positions of where (B, L), in row order.

    Raises:
        ValueError: there are not N of them.
    """
    if int(where.sum()) != len(values):
        raise ValueError(f"the prompt has {int(where.sum())} places for {len(values)} vectors")
    return x.masked_scatter(where.unsqueeze(-1), values.to(x.dtype))


@contextmanager
def input_of(layer: nn.Module) -> Iterator[list[Tensor]]:
    """Catches the (B, L, D) states that enter ``layer``, one a call."""
    caught: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, arguments: caught.append(arguments[0]))
    try:
        yield caught
    finally:
        handle.remove()
