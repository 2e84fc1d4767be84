"""A prefilled video, asked many times.

With the video first, everything up to the question is independent of it: prefill once, keep the KV cache and the
states of the visual tokens and queries, then answer K questions in one batch at the cost of their own tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import Cache

from spacevllm.model.modeling import SpaceVLLM
from spacevllm.model.processing import Prefix, Segment


@dataclass
class VideoMemory:
    """cache: keys and values of the prefix, one row. visual: (T, P, D), query: (T, D) last-layer states; T == 0
    in ``query`` for a prefix without queries. length: tokens of the prefix. caption: (M, D) states of the caption that
    stands in the prefix (``caption_first``), which then is the memory of one question."""

    cache: Cache
    visual: Tensor
    query: Tensor
    length: int
    caption: Tensor | None = None


@dataclass
class Answer:
    """tokens: generated ids, without the end of turn. confidence: geometric mean of their probabilities, in [0, 1].
    boxes: (T, 4) cxcywh in [0, 1], one for each frame seen; None for a prefix without queries."""

    tokens: list[int]
    confidence: float
    boxes: Tensor | None


@torch.inference_mode()
def prefill(model: SpaceVLLM, prefix: Prefix, pixels: Tensor, is_image: bool) -> VideoMemory:
    """Reads a video (or image) once; pixels (T, C, S, S)."""
    device = model.device
    ids, kinds, queries = (torch.tensor(x, device=device) for x in (prefix.ids, prefix.kinds, prefix.query_ids))
    pixels, none = pixels.to(device, model.dtype), pixels[:0].to(device, model.dtype)
    videos, images = (none, pixels) if is_image else (pixels, none)
    x = model.embed(ids[None], kinds[None], queries.long(), videos, images)  # (1, P, D)
    out = model.model.language_model(inputs_embeds=x, use_cache=True)
    states = out.last_hidden_state[0]  # (P, D)
    return VideoMemory(
        cache=out.past_key_values,
        visual=states[torch.from_numpy(prefix.visual_index(len(pixels))).to(device)],
        query=states[torch.from_numpy(prefix.query_index()).to(device)],
        length=len(prefix.ids),
        caption=states[slice(*prefix.caption)] if prefix.caption else None,
    )


@torch.inference_mode()
def ask(
    model: SpaceVLLM, memory: VideoMemory, segments: Sequence[Segment], end_of_turn: int, max_new_tokens: int = 32
) -> list[Answer]:
    """Greedy answers to K questions in one batch, boxes for every frame at once."""
    count, longest = len(segments), max(len(s.ids) for s in segments)
    ids = torch.zeros(count, longest, dtype=torch.long, device=model.device)
    real = torch.zeros(count, longest, dtype=torch.long, device=model.device)
    for k, segment in enumerate(segments):
        ids[k, : len(segment.ids)] = torch.tensor(segment.ids)
        real[k, : len(segment.ids)] = 1
    cache = copy.deepcopy(memory.cache)
    cache.batch_repeat_interleave(count)
    mask = torch.cat([real.new_ones(count, memory.length), real], dim=1)  # (K, P + S)
    position = memory.length + torch.arange(longest, device=model.device).expand(count, -1)
    out = model.model.language_model(
        input_ids=ids, attention_mask=mask, position_ids=position, past_key_values=cache, use_cache=True
    )
    states = out.last_hidden_state  # (K, S, D)
    last = states[torch.arange(count), real.sum(1) - 1]  # (K, D)
    tokens, confidence = _generate(model, last, mask, memory.length + real.sum(1), cache, end_of_turn, max_new_tokens)
    boxes = _boxes(model, memory, states, segments) if len(memory.query) else [None] * count
    return [Answer(*answer) for answer in zip(tokens, confidence, boxes, strict=True)]


def _generate(
    model: SpaceVLLM, last: Tensor, mask: Tensor, position: Tensor, cache: Cache, end_of_turn: int, limit: int
) -> tuple[list[list[int]], list[float]]:
    """last: (K, D) states that predict the first token; position: (K,) where it will stand."""
    tokens: list[list[int]] = [[] for _ in last]
    log_p = [0.0] * len(tokens)
    open_rows = set(range(len(tokens)))
    for _ in range(limit):
        scores, chosen = model.lm_head(last).float().log_softmax(-1).max(-1)  # (K,), (K,)
        for k, (token, score) in enumerate(zip(chosen.tolist(), scores.tolist(), strict=True)):
            if k not in open_rows:
                continue
            log_p[k] += score
            if token == end_of_turn:
                open_rows.discard(k)
            else:
                tokens[k].append(token)
        if not open_rows:
            break
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        out = model.model.language_model(
            input_ids=chosen[:, None],
            attention_mask=mask,
            position_ids=position[:, None],
            past_key_values=cache,
            use_cache=True,
        )
        last, position = out.last_hidden_state[:, -1], position + 1
    written = [len(t) + (k not in open_rows) for k, t in enumerate(tokens)]
    return tokens, [float(torch.tensor(p / max(n, 1)).exp()) for p, n in zip(log_p, written, strict=True)]


def _boxes(model: SpaceVLLM, memory: VideoMemory, states: Tensor, segments: Sequence[Segment]) -> list[Tensor]:
    captions = [_caption(memory, state, segment) for state, segment in zip(states, segments, strict=True)]
    caption = torch.nn.utils.rnn.pad_sequence(captions, batch_first=True)  # (K, M, D)
    sizes = torch.tensor([len(c) for c in captions], device=states.device)
    caption_mask = torch.arange(caption.shape[1], device=states.device) < sizes[:, None]  # (K, M)
    count = len(segments)
    visual, query = memory.visual.expand(count, -1, -1, -1), memory.query.expand(count, -1, -1)
    seen = torch.ones(visual.shape[:-1], dtype=torch.bool, device=states.device)
    return list(model.decode_boxes(visual, query, caption, seen, caption_mask).boxes.cpu())


def _caption(memory: VideoMemory, states: Tensor, segment: Segment) -> Tensor:
    """(M, D) states of the question's caption; states: (S, D) of its segment."""
    if segment.caption is not None:
        return states[slice(*segment.caption)]
    assert memory.caption is not None  # it stands in one of the two
    return memory.caption
