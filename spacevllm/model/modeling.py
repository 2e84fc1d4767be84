"""SpaceVLLM: a video MLLM, interleaved queries, the Query-Guided Space Decoder.

Composed, not inherited: the backbone (``spacevllm.model.backbones``) reads pixels and runs the language model; this
file only lays out the row (cells, separators, queries) and reads the last-layer states back. One device; parallelism
lives elsewhere.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from spacevllm.model.attention import SHARED_PREFIX
from spacevllm.model.backbones import family_of, layout_of
from spacevllm.model.backbones.base import Backbone, Cells, Pixels, input_of, place
from spacevllm.model.batch import Batch, Tokens
from spacevllm.model.configuration import SpaceVLLMConfig
from spacevllm.model.outputs import AlignOutput, GroundingOutput
from spacevllm.model.presence_head import PresenceHead
from spacevllm.model.prompt import Kind
from spacevllm.model.queries import InterleavedQueries
from spacevllm.model.space_decoder import QueryGuidedSpaceDecoder, SpaceOutput

NEW_MODULES = ("queries", "space_decoder", "presence_head")  # what SpaceVLLM adds to its backbone


class SpaceVLLM(PreTrainedModel):
    """Text answers from the LM head, boxes from the space decoder (paper section 3)."""

    config_class = SpaceVLLMConfig
    config: SpaceVLLMConfig
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    def __init__(self, config: SpaceVLLMConfig) -> None:
        super().__init__(config)
        width = config.text.hidden_size
        self.layout = layout_of(config)
        self.backbone = make_backbone(config)
        self.queries = InterleavedQueries(config.num_queries, width, std=config.text.initializer_range)
        self.space_decoder = QueryGuidedSpaceDecoder(
            width,
            config.decoder_hidden_size,
            config.decoder_attention,
            config.decoder_layers,
            dual=config.decoder_cross_attention == "dual",
        )
        self.presence_head = PresenceHead(width, config.decoder_hidden_size) if config.presence_head else None
        self.post_init()

    @property
    def mllm(self) -> Backbone:
        """The backbone, typed."""
        return cast(Backbone, self.backbone)

    def get_input_embeddings(self) -> nn.Module:
        return cast(PreTrainedModel, self.backbone).get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        cast(PreTrainedModel, self.backbone).set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return cast(PreTrainedModel, self.backbone).get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        cast(PreTrainedModel, self.backbone).set_output_embeddings(new_embeddings)

    def embed(self, input_ids: Tensor, kinds: Tensor, query_ids: Tensor, pixels: Pixels) -> tuple[Tensor, Cells]:
        """(B, L, D): token embeddings with cells, separators and queries in their places; and the cells.

        Args:
            input_ids, kinds: (B, L), as in ``Tokens``. query_ids: (N,). pixels: of the rows' frames, in order.

        Raises:
            ValueError: pixels and cells of the rows do not match in number.
        """
        x = self.mllm.embed_words(input_ids * (kinds == Kind.TEXT))  # (B, L, D)
        # all frames pass the tower together: ZeRO-3 gathers its weights at every call, and ranks whose batches hold
        # other media must call it equally often
        cells = self.mllm.read_pixels(pixels if len(pixels) else self.mllm.blank(pixels))
        if not len(pixels):
            # text alone: a blank frame without weight keeps the tower in the graph
            x = x + 0 * sum(part.sum() for part in (cells.states, *cells.deepstack))
            cells = Cells(cells.states[:0], [part[:0] for part in cells.deepstack])
        x = place(x, kinds == Kind.CELL, cells.states)
        if self.mllm.separator is not None:
            between = kinds == Kind.SEPARATOR
            x = place(x, between, self.mllm.separator.expand(int(between.sum()), -1))
        return place(x, kinds == Kind.QUERY, self.queries(query_ids)), cells

    def forward(self, batch: Batch, pointer: bool = False, align: bool = False) -> GroundingOutput | AlignOutput:
        """A packed batch in one pass.

        Args:
            batch: see ``Batch``.
            pointer: also return the pointer head's logits.
            align: only ``self.align(batch)`` (DeepSpeed's engine knows no other entry).
        """
        if align:
            return self.align(batch)
        tokens = batch.tokens
        x, cells = self.embed(tokens.input_ids, tokens.kinds, tokens.query_ids, batch.media.pixels)
        with input_of(self.mllm.language_model.layers[-1]) as entered:
            states = self.read(x, tokens.position_ids, cells, tokens.kinds, **self._attention(tokens)).last_hidden_state
        learned = tokens.labels[:, 1:] >= 0  # (B, L - 1): position t predicts the token at t + 1
        space, valid = self._space(batch, states)
        return GroundingOutput(
            logits=self.mllm.lm_head(states[:, :-1][learned]).float(),
            labels=tokens.labels[:, 1:][learned],
            label_weights=tokens.label_weights[:, 1:][learned],
            space=space,
            space_valid=valid,
            pointer_logits=self._pointer(batch, entered[0]) if pointer else None,
        )

    def read(self, x: Tensor, positions: Tensor, cells: Cells, kinds: Tensor, **attention: Any) -> Any:
        """The language model's output on the embeddings x (B, L, D) at positions (A, B, L)."""
        attention.setdefault("use_cache", False)
        return self.mllm.run(x, positions, cells, kinds == Kind.CELL, **attention)

    def align(self, batch: Batch) -> AlignOutput:
        """What every visual token and caption have in common, without the language model between them.

        For a tower that starts from random weights: what SigLIP's own pre-training gives the full-size one, and where
        in its cell a thing lies, which boxes need.
        """
        tokens, rows = batch.tokens, batch.tokens.question_row
        x, _ = self.embed(tokens.input_ids, tokens.kinds, tokens.query_ids, batch.media.pixels)
        x = F.layer_norm(x.float(), x.shape[-1:])
        visual_index = batch.media.visual_index[rows]  # (Q, T, P)
        cells = _gather(x * (tokens.kinds == Kind.CELL).unsqueeze(-1), rows, visual_index)  # (Q, T, P, D)
        words = self.mllm.embed_words(tokens.input_ids)
        caption = _gather(words, rows, tokens.caption_index).sum(1)  # (Q, D): its mean, up to the normalisation
        caption = F.layer_norm(caption.float(), caption.shape[-1:])
        logits = torch.einsum("qtpd,qd->qtp", cells, caption) * x.shape[-1] ** -0.5
        logits = logits.masked_fill(visual_index < 0, float("-inf"))
        with torch.autocast(x.device.type, enabled=False):
            share = logits.float().nan_to_num(neginf=-1e9).softmax(-1)  # (Q, T, P), of each frame alone
            boxes = self.space_decoder.read_box(torch.einsum("qtp,qtpd->qtd", share, cells))  # (Q, T, 4)
        return AlignOutput(logits.flatten(1), boxes)

    def _attention(self, tokens: Tokens) -> dict[str, Any]:
        mask = tokens.attention_mask()
        if self.config.text._attn_implementation == SHARED_PREFIX:
            return {"attention_mask": mask, "layout": tokens.layout()}
        return {"attention_mask": mask}

    def decode_boxes(
        self, visual: Tensor, query: Tensor, caption: Tensor, visual_mask: Tensor, caption_mask: Tensor
    ) -> SpaceOutput:
        """The space decoder (and the presence head) outside autocast, in its own weights' precision; shapes as
        there."""
        with torch.autocast(visual.device.type, enabled=False):
            width = next(self.space_decoder.box_head.parameters()).dtype
            visual, query, caption = (x.to(width) for x in (visual, query, caption))
            space: SpaceOutput = self.space_decoder(visual, query, caption, visual_mask, caption_mask)
            if self.presence_head is None:
                return space
            return space._replace(presence_logits=self.presence_head(space.states, caption, caption_mask))

    def _space(self, batch: Batch, states: Tensor) -> tuple[SpaceOutput, Tensor]:
        rows, caption_index = batch.tokens.question_row, batch.tokens.caption_index  # (Q,), (Q, M)
        visual_index, query_index = batch.media.visual_index[rows], batch.media.query_index[rows]  # (Q, T, P), (Q, T)
        visual = _gather(states, rows, visual_index)  # (Q, T, P, D)
        query = _gather(states, rows, query_index)  # (Q, T, D)
        caption = _gather(states, rows, caption_index)  # (Q, M, D)
        valid = query_index >= 0
        # a frame that is only padding would softmax over nothing: let it read its (zero) cells instead
        mask = (visual_index >= 0) | ~valid.unsqueeze(-1)
        return self.decode_boxes(visual, query, caption, mask, caption_index >= 0), valid

    def _pointer(self, batch: Batch, hidden: Tensor) -> Tensor:
        """Logits of one head of the last layer, from the positions that write the times to the visual tokens.

        Args:
            hidden: (B, L, D), what enters the last layer.
        """
        layer = self.mllm.language_model.layers[-1]
        attention, head = layer.self_attn, self.config.pointer_head
        x, rows = layer.input_layernorm(hidden), batch.tokens.question_row
        visual_index = batch.media.visual_index.flatten(1)[rows]  # (Q, T * P)
        query = self._head(x, attention, "q", head, batch.tokens, batch.targets.pointer_index)  # (Q, 2, H)
        key = self._head(x, attention, "k", head // attention.num_key_value_groups, batch.tokens, visual_index)
        logits = (query @ key.transpose(-1, -2)).float() * attention.scaling  # (Q, 2, T * P)
        return logits.masked_fill(visual_index.unsqueeze(1) < 0, float("-inf"))

    def _head(self, x: Tensor, attention: nn.Module, side: str, head: int, tokens: Tokens, index: Tensor) -> Tensor:
        """Queries (``q``) or keys (``k``) of one head at index (Q, N), rotated to their positions: (Q, N, H)."""
        rows, width = tokens.question_row, cast(int, attention.head_dim)
        picked = _gather(x, rows, index)  # (Q, N, D)
        positions = tokens.position_ids[:, rows.unsqueeze(-1), index.clamp(min=0)]  # (A, Q, N)
        states = getattr(attention, f"{side}_proj")(picked)[..., head * width : (head + 1) * width]  # (Q, N, H)
        norm = getattr(attention, f"{side}_norm", None)  # of each head, in Qwen3
        return self.mllm.rotate(states if norm is None else norm(states), positions)


def _gather(states: Tensor, rows: Tensor, index: Tensor) -> Tensor:
    """states (B, L, D) at [rows[q], index[q, ...]] → (Q, ..., D); index -1 gives zeros."""
    row = rows.view(-1, *[1] * (index.dim() - 1))
    return states[row, index.clamp(min=0)] * (index >= 0).unsqueeze(-1)


def make_backbone(config: SpaceVLLMConfig) -> PreTrainedModel:
    """With random weights, in the attention that packed rows and memories need, in the precision of ``config``."""
    family, backbone = family_of(config), config.backbone
    for part in (backbone, config.text, config.vision):
        part.dtype = config.dtype
    backbone._attn_implementation = dict(family.attention)
    return family.module(backbone, config)


def build(config: SpaceVLLMConfig) -> SpaceVLLM:
    """A model with random weights."""
    return SpaceVLLM._from_config(config)
