"""SpaceVLLM: LLaVA-OneVision's parts, interleaved queries, the Query-Guided Space Decoder.

Composed, not rewritten: the vision tower, projector, pooling, newline, language model and LM head are transformers'
``LlavaOnevisionForConditionalGeneration``, so its checkpoints load under their own names; this file only lays out
the row (cells, newlines, queries) and reads the last-layer states back. One device; parallelism lives elsewhere.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlavaOnevisionForConditionalGeneration
from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb

from spacevllm.model.attention import SHARED_PREFIX
from spacevllm.model.batch import Batch, Kind
from spacevllm.model.configuration import SpaceVLLMConfig
from spacevllm.model.outputs import AlignOutput, GroundingOutput
from spacevllm.model.presence_head import PresenceHead
from spacevllm.model.queries import InterleavedQueries
from spacevllm.model.space_decoder import QueryGuidedSpaceDecoder, SpaceOutput

NEW_MODULES = ("queries", "space_decoder", "presence_head")  # what SpaceVLLM adds to LLaVA-OneVision
# the tower: torch's fused CPU kernel takes six times as long as two matmuls in bf16 at 64 tokens
ATTENTION = {"text_config": SHARED_PREFIX, "vision_config": "eager" if not torch.cuda.is_available() else "sdpa"}


class SpaceVLLM(LlavaOnevisionForConditionalGeneration):
    """Text answers from the LM head, boxes from the space decoder (paper section 3)."""

    config_class = SpaceVLLMConfig
    config: SpaceVLLMConfig

    def __init__(self, config: SpaceVLLMConfig) -> None:
        super().__init__(config)
        width = config.text.hidden_size
        self.queries = InterleavedQueries(width, std=config.text.initializer_range)
        self.space_decoder = QueryGuidedSpaceDecoder(
            width,
            config.decoder_hidden_size,
            config.decoder_attention,
            config.decoder_layers,
            dual=config.decoder_cross_attention == "dual",
        )
        self.presence_head = PresenceHead(width, config.decoder_hidden_size) if config.presence_head else None
        self.post_init()

    def visual_features(self, pixels: Tensor, pooled: bool) -> Tensor:
        """(F, C, S, S) frames → (F, P, D) language-model inputs, row by row; F == 0 is allowed."""
        features = self._projected(pixels)
        return self.model.apply_pooling(features) if pooled else features

    def _projected(self, pixels: Tensor) -> Tensor:
        """(F, C, S, S) → (F, side², D)"""
        layer = self.config.vision_feature_layer
        hidden = self.model.vision_tower(pixels, output_hidden_states=True).hidden_states[layer]  # (F, side², Dv)
        return self.model.multi_modal_projector(hidden)

    def embed(
        self, input_ids: Tensor, kinds: Tensor, query_ids: Tensor, video_pixels: Tensor, image_pixels: Tensor
    ) -> Tensor:
        """(B, L, D): token embeddings with cells, newlines and queries in their places; arguments as in ``Batch``.

        Raises:
            ValueError: pixels and cells of the rows do not match in number.
        """
        x = self.get_input_embeddings()(input_ids * (kinds == Kind.TEXT))  # (B, L, D)
        # videos and images pass the tower together: ZeRO-3 gathers its weights at every call, and ranks whose batches
        # hold other media must call it equally often
        pixels = torch.cat([video_pixels, image_pixels])  # (F, C, S, S)
        features = self._projected(pixels if len(pixels) else pixels.new_zeros(1, *pixels.shape[1:]))  # (F, side², D)
        if not len(pixels):
            x = x + 0 * features.sum()  # text alone: a blank frame without weight keeps the tower in the graph
        for kind, part, pooled in (
            (Kind.VIDEO_CELL, features[: len(video_pixels)], True),
            (Kind.IMAGE_CELL, features[len(video_pixels) : len(pixels)], self.config.image_pooling),
        ):
            if len(part):
                cells = self.model.apply_pooling(part) if pooled else part
                x = _place(x, kinds == kind, cells.flatten(0, 1))
        newline = kinds == Kind.NEWLINE
        x = _place(x, newline, self.model.image_newline.expand(int(newline.sum()), -1))
        return _place(x, kinds == Kind.QUERY, self.queries(query_ids))

    def forward(self, batch: Batch, pointer: bool = False, align: bool = False) -> GroundingOutput | AlignOutput:
        """A packed batch in one pass.

        Args:
            batch: see ``Batch``.
            pointer: also return the pointer head's logits.
            align: only ``self.align(batch)`` (DeepSpeed's engine knows no other entry).
        """
        if align:
            return self.align(batch)
        out = self.model.language_model(
            inputs_embeds=self.embed(
                batch.input_ids, batch.kinds, batch.query_ids, batch.video_pixels, batch.image_pixels
            ),
            **self._attention(batch),
            position_ids=batch.position_ids,
            use_cache=False,
            output_hidden_states=pointer,
        )
        states = out.last_hidden_state  # (B, L, D)
        learned = batch.labels[:, 1:] >= 0  # (B, L - 1): position t predicts the token at t + 1
        space, valid = self._space(batch, states)
        return GroundingOutput(
            logits=self.lm_head(states[:, :-1][learned]).float(),
            labels=batch.labels[:, 1:][learned],
            label_weights=batch.label_weights[:, 1:][learned],
            space=space,
            space_valid=valid,
            pointer_logits=self._pointer(batch, out.hidden_states[-2]) if pointer else None,
        )

    def align(self, batch: Batch) -> AlignOutput:
        """What every visual token and caption have in common, without the language model between them.

        For a tower that starts from random weights: what SigLIP's own pre-training gives the full-size one, and where
        in its cell a thing lies, which boxes need.
        """
        is_cell = (batch.kinds == Kind.VIDEO_CELL) | (batch.kinds == Kind.IMAGE_CELL)
        x = self.embed(batch.input_ids, batch.kinds, batch.query_ids, batch.video_pixels, batch.image_pixels)
        x = F.layer_norm(x.float(), x.shape[-1:])
        rows, visual_index = batch.question_row, batch.visual_index[batch.question_row]  # (Q, T, P)
        cells = _gather(x * is_cell.unsqueeze(-1), rows, visual_index)  # (Q, T, P, D)
        words = self.get_input_embeddings()(batch.input_ids)
        caption = _gather(words, rows, batch.caption_index).sum(1)  # (Q, D): its mean, up to the normalisation
        caption = F.layer_norm(caption.float(), caption.shape[-1:])
        logits = torch.einsum("qtpd,qd->qtp", cells, caption) * x.shape[-1] ** -0.5
        logits = logits.masked_fill(visual_index < 0, float("-inf"))
        with torch.autocast(x.device.type, enabled=False):
            share = logits.float().nan_to_num(neginf=-1e9).softmax(-1)  # (Q, T, P), of each frame alone
            boxes = self.space_decoder.read_box(torch.einsum("qtp,qtpd->qtd", share, cells))  # (Q, T, 4)
        return AlignOutput(logits.flatten(1), boxes)

    def _attention(self, batch: Batch) -> dict[str, Any]:
        mask = batch.attention_mask()
        if self.config.text._attn_implementation == SHARED_PREFIX:
            return {"attention_mask": mask, "layout": batch.layout()}
        return {"attention_mask": mask}

    def decode_boxes(
        self, visual: Tensor, query: Tensor, caption: Tensor, visual_mask: Tensor, caption_mask: Tensor
    ) -> SpaceOutput:
        """The space decoder (and the presence head) in fp32, whatever the language model runs in; shapes as there."""
        with torch.autocast(visual.device.type, enabled=False):
            width = next(self.space_decoder.box_head.parameters()).dtype
            visual, query, caption = (x.to(width) for x in (visual, query, caption))
            space: SpaceOutput = self.space_decoder(visual, query, caption, visual_mask, caption_mask)
            if self.presence_head is None:
                return space
            return space._replace(presence_logits=self.presence_head(space.states, caption, caption_mask))

    def _space(self, batch: Batch, states: Tensor) -> tuple[SpaceOutput, Tensor]:
        rows = batch.question_row  # (Q,)
        visual_index, query_index = batch.visual_index[rows], batch.query_index[rows]  # (Q, T, P), (Q, T)
        visual = _gather(states, rows, visual_index)  # (Q, T, P, D)
        query = _gather(states, rows, query_index)  # (Q, T, D)
        caption = _gather(states, rows, batch.caption_index)  # (Q, M, D)
        valid = query_index >= 0
        # a frame that is only padding would softmax over nothing: let it read its (zero) cells instead
        mask = (visual_index >= 0) | ~valid.unsqueeze(-1)
        return self.decode_boxes(visual, query, caption, mask, batch.caption_index >= 0), valid

    def _pointer(self, batch: Batch, hidden: Tensor) -> Tensor:
        """Logits of one head of the last layer, from the positions that write the times to the visual tokens.

        Args:
            hidden: (B, L, D), what enters the last layer.
        """
        layer = self.model.language_model.layers[-1]
        attention, head = layer.self_attn, self.config.pointer_head
        x, rows = layer.input_layernorm(hidden), batch.question_row
        visual_index = batch.visual_index.flatten(1)[rows]  # (Q, T * P)
        group = head // attention.num_key_value_groups
        query = _rotated(attention.q_proj, head, self, x, batch, rows, batch.pointer_index)  # (Q, 2, H)
        key = _rotated(attention.k_proj, group, self, x, batch, rows, visual_index)  # (Q, T * P, H)
        logits = (query @ key.transpose(-1, -2)).float() * attention.scaling  # (Q, 2, T * P)
        return logits.masked_fill(visual_index.unsqueeze(1) < 0, float("-inf"))


def _rotated(
    projection: torch.nn.Module, head: int, model: SpaceVLLM, x: Tensor, batch: Batch, rows: Tensor, index: Tensor
) -> Tensor:
    """One head of ``projection`` at (row, index), rotated to its position: (Q, N, H)."""
    picked = _gather(x, rows, index)  # (Q, N, D)
    position = batch.position_ids[rows.unsqueeze(-1), index.clamp(min=0)]  # (Q, N)
    width = model.model.language_model.layers[-1].self_attn.head_dim
    one = projection(picked)[..., head * width : (head + 1) * width]  # (Q, N, H)
    cos, sin = model.model.language_model.rotary_emb(one, position)  # (Q, N, H)
    turned, _ = apply_rotary_pos_emb(one.unsqueeze(1), one.unsqueeze(1), cos, sin)
    return turned.squeeze(1)


def _place(x: Tensor, where: Tensor, values: Tensor) -> Tensor:
    """x (B, L, D) with values (N, D) at the N true positions of where (B, L), in row order."""
    if int(where.sum()) != len(values):
        raise ValueError(f"the prompt has {int(where.sum())} places for {len(values)} vectors")
    return x.masked_scatter(where.unsqueeze(-1), values.to(x.dtype))


def _gather(states: Tensor, rows: Tensor, index: Tensor) -> Tensor:
    """states (B, L, D) at [rows[q], index[q, ...]] → (Q, ..., D); index -1 gives zeros."""
    row = rows.view(-1, *[1] * (index.dim() - 1))
    return states[row, index.clamp(min=0)] * (index >= 0).unsqueeze(-1)


def build(config: SpaceVLLMConfig) -> SpaceVLLM:
    """A model with random weights."""
    return SpaceVLLM._from_config(config, attn_implementation=ATTENTION)
