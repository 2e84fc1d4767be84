"""Floating-point operations of a model, from its configuration: 2 for each weight and token, 4 for each attending pair.

As in PaLM (Chowdhery et al. 2022, appendix B): only what the model's definition needs is counted, so neither padding
nor what gradient checkpointing computes again. Left out, as they are below a thousandth at full size: norms,
softmaxes, pooling and the space decoder. (4: two products of head width, times channels of all heads.)
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass

import torch

from spacevllm.model.backbones import family_of
from spacevllm.model.batch import Batch
from spacevllm.model.configuration import SpaceVLLMConfig


@dataclass(frozen=True)
class Work:
    """What a pass is about. patches: read by the tower. patch_pairs: of patches of one frame, of which each reads the
    other. cells: visual tokens that are made of them. tokens: of the language model. pairs: of tokens of which one
    reads the other, itself included. answers: tokens that are predicted."""

    patches: int
    patch_pairs: int
    cells: int
    tokens: int
    pairs: int
    answers: int


class FlopsModel:
    """Args:
    trained: which of ``tower``, ``projector`` and ``llm`` have weights of their own that learn. Adapters are not the
        language model's own, and too small to count.
    """

    def __init__(self, config: SpaceVLLMConfig, trained: Collection[str] = ("tower", "projector", "llm")) -> None:
        self.config, self.trained, self.tower = config, trained, family_of(config).tower_size(config)

    def work(self, batch: Batch) -> Work:
        """Of the batch's real tokens; each question reads the prefix and itself."""
        segments, patches = batch.tokens.segments, batch.media.pixels.grids.prod(1)  # (B, L), (F,)
        lengths = torch.stack([(segments == k).sum(1) for k in range(int(segments.max()) + 1)])  # (1 + K, B)
        prefix, questions = lengths[0], lengths[1:]
        pairs = prefix * (prefix + 1) // 2 + (questions * prefix + questions * (questions + 1) // 2).sum(0)  # (B,)
        return Work(
            patches=int(patches.sum()),
            patch_pairs=int((patches**2).sum()),
            cells=int((batch.media.visual_index >= 0).sum()),
            tokens=int(lengths.sum()),
            pairs=int(pairs.sum()),
            answers=int((batch.tokens.labels >= 0).sum()),
        )

    def forward(self, work: Work) -> dict[str, float]:
        """FLOPs of one forward pass in each part."""
        return {
            "tower": self._tower(work),
            "projector": 2.0 * work.patches * self.tower.projector,
            "llm": self._language(work),
        }

    def training(self, work: Work, align: bool = False) -> float:
        """FLOPs of a forward and a backward pass: the gradients of the weights cost as much as the pass, and so do
        those of the activations, where something before has to learn."""
        total, upstream = 0.0, False
        for part, flops in self.forward(work).items():
            learns = part in self.trained
            upstream = upstream or learns or part == "llm"  # the queries enter there
            total += flops * (1 + learns + upstream) if not (align and part == "llm") else 0.0
        return total

    def _tower(self, work: Work) -> float:
        width, layers = self.tower.width, self.tower.layers
        layer = 4 * width**2 + 2 * width * self.tower.mlp_width
        weights = self.tower.patch_values * width + layers * layer
        return 2.0 * work.patches * weights + 4.0 * layers * work.patch_pairs * width

    def _language(self, work: Work) -> float:
        text = self.config.text
        head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        heads = 2 * (text.num_attention_heads + text.num_key_value_heads)  # of query, output, key, value
        layer = text.hidden_size * (head * heads + 3 * text.intermediate_size)
        attention = 4.0 * work.pairs * text.num_attention_heads * head
        vocabulary = 2.0 * work.answers * text.hidden_size * text.vocab_size
        return text.num_hidden_layers * (2.0 * work.tokens * layer + attention) + vocabulary


def measured_peak(device: torch.device | str, dtype: torch.dtype) -> float:
    """FLOP/s that a large matrix product reaches: what utilisation is a share of, where the data sheet is not given."""
    on_gpu = torch.device(device).type == "cuda"
    size = 8192 if on_gpu else 512
    a = torch.ones(size, size, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(4):  # the first one only warms up
        started = time.perf_counter()
        a @ a
        if on_gpu:
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - started)
    return 2.0 * size**3 / best
