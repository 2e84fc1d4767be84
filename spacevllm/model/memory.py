"""A prefilled video, asked many times.

With the video first, everything up to the question is independent of it: prefill once, keep the KV cache and the
states of the visual tokens and queries, then answer K questions in one batch at the cost of their own tokens. The
memory of one answer is that of its own tokens, too: nothing of the prefix is copied (see ``attention``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, repeat

import torch
from torch import Tensor
from transformers import Cache, DynamicCache

from spacevllm.model.attention import SHARED_PREFIX, KeyValue
from spacevllm.model.backbones.base import Pixels
from spacevllm.model.modeling import SpaceVLLM
from spacevllm.model.presence_head import video_logit
from spacevllm.model.prompt import Prefix, Segment

_DECODED_AT_ONCE = 1 << 24  # states in one pass of the space decoder, which holds several copies of them


@dataclass(frozen=True)
class VideoMemory:
    """A read video; asking changes nothing in it, so that one memory serves many askers.

    Attributes:
        layers: keys and values of the prefix, (1, Hk, P, d) each. next_position: where a question starts.
        visual: (T, P, D), query: (T, D) last-layer states; T == 0 in ``query`` for a prefix without queries.
        caption: (M, D) states of the caption that stands in the prefix (``caption_first``), which then is the memory of
            one question.
    """

    layers: list[KeyValue]
    visual: Tensor
    query: Tensor
    next_position: int
    caption: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """What it holds, in bytes."""
        states = [self.visual, self.query, *([] if self.caption is None else [self.caption])]
        return sum(x.nbytes for x in (*chain.from_iterable(self.layers), *states))

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> VideoMemory:
        """The same on another device or in another precision; itself where nothing changes."""

        def move(x: Tensor) -> Tensor:
            return x.to(device, dtype)

        if self.visual is move(self.visual):
            return self
        caption = None if self.caption is None else move(self.caption)
        layers = [(move(key), move(value)) for key, value in self.layers]
        return VideoMemory(layers, move(self.visual), move(self.query), self.next_position, caption)


@dataclass
class Answer:
    """tokens: generated ids, without the end of turn. confidence: geometric mean of their probabilities, in [0, 1].
    boxes: (T, 4) cxcywh in [0, 1], one for each frame seen; None for a prefix without queries. presence: probability in
    [0, 1] that it is there; None for a prefix without queries and for a model without a presence head."""

    tokens: list[int]
    confidence: float
    boxes: Tensor | None
    presence: float | None = None


@torch.inference_mode()
def prefill(model: SpaceVLLM, prefix: Prefix, pixels: Pixels) -> VideoMemory:
    """Reads a video (or image) once."""
    device = model.device
    ids, kinds, queries = (torch.tensor(x, device=device) for x in (prefix.ids, prefix.kinds, prefix.query_ids))
    x, cells = model.embed(ids[None], kinds[None], queries.long(), pixels.to(device, model.dtype))  # (1, P, D)
    positions = torch.from_numpy(model.layout.positions(prefix)).to(device)[:, None]  # (A, 1, P)
    out = model.read(x, positions, cells, kinds[None], use_cache=True)
    states = out.last_hidden_state[0]  # (P, D)
    return VideoMemory(
        layers=[(layer.keys, layer.values) for layer in out.past_key_values.layers],
        visual=states[torch.from_numpy(prefix.visual_index(len(pixels))).to(device)],
        query=states[torch.from_numpy(prefix.query_index()).to(device)],
        next_position=model.layout.next_position(prefix),
        caption=states[slice(*prefix.caption)].clone() if prefix.caption else None,  # a view would hold all states
    )


@torch.inference_mode()
def ask(
    model: SpaceVLLM, memory: VideoMemory, segments: Sequence[Segment], end_of_turn: int, max_new_tokens: int = 32
) -> list[Answer]:
    """Greedy answers to K questions at once, boxes for every frame; all read the memory's one copy of the prefix.

    Raises:
        ValueError: the model's attention was changed, and would not look at the memory.
    """
    if model.config.text._attn_implementation != SHARED_PREFIX:
        raise ValueError(f"asking a memory needs attention {SHARED_PREFIX!r}: it is what build and Predictor.load set")
    ids, real = _pad(segments, model.device)  # (K, S)
    position = memory.next_position + torch.arange(ids.shape[1], device=ids.device).expand(len(ids), -1)
    causal = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool, device=ids.device).tril()
    tails = DynamicCache()
    states = _read(model, memory, tails, ids, (real[:, None] & causal)[:, None], position)  # (K, S, D)
    lengths = real.sum(1)  # (K,)
    last = states[torch.arange(len(ids), device=ids.device), lengths - 1]  # (K, D)
    places = _places(model, memory, states, segments) if len(memory.query) else [(None, None)] * len(ids)
    written = _Decoding(tails, real, memory.next_position + lengths)
    tokens, confidence = _generate(model, memory, last, written, end_of_turn, max_new_tokens)
    return [Answer(t, c, *place) for t, c, place in zip(tokens, confidence, places, strict=True)]


def _pad(segments: Sequence[Segment], device: torch.device) -> tuple[Tensor, Tensor]:
    """(K, S) token ids, padded on the right, and (K, S) bool, True where they are real."""
    rows = [torch.tensor(segment.ids) for segment in segments]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    lengths = torch.tensor([len(row) for row in rows])
    return ids.to(device), (torch.arange(ids.shape[1]) < lengths[:, None]).to(device)


def _read(model: SpaceVLLM, memory: VideoMemory, tails: Cache, ids: Tensor, mask: Tensor, position: Tensor) -> Tensor:
    """(K, S, D) last-layer states of K rows behind one prefix.

    Args:
        tails: what stands between the prefix and these tokens; they are added to it.
        ids, position: (K, S), the position the same on all axes. mask: (K, 1, S, N) bool, over tails and these tokens.
    """
    out = model.mllm.run(
        model.mllm.embed_words(ids),
        position.expand(model.layout.axes, -1, -1),
        None,
        None,
        attention_mask=mask,
        past_key_values=tails,
        use_cache=True,
        remembered=memory.layers,
    )
    return out.last_hidden_state


@dataclass
class _Decoding:
    """The rows that still write. tails: their keys and values behind the prefix. real: (K, N) bool, which of these are
    no padding. position: (K,) where the next token will stand."""

    tails: DynamicCache
    real: Tensor
    position: Tensor

    def keep(self, rows: Tensor) -> None:
        """Drops all but these rows, (K',) int."""
        self.tails.batch_select_indices(rows)
        self.real, self.position = self.real[rows], self.position[rows]


def _generate(
    model: SpaceVLLM, memory: VideoMemory, last: Tensor, decoding: _Decoding, end_of_turn: int, limit: int
) -> tuple[list[list[int]], list[float]]:
    """Tokens and confidence of each question; last: (K, D) states that predict the first token."""
    tokens: list[list[int]] = [[] for _ in last]
    scores: list[list[float]] = [[] for _ in last]
    open_rows = list(range(len(last)))
    for step in range(limit):
        log_p, chosen = model.mllm.lm_head(last).float().log_softmax(-1).max(-1)  # (K',), (K',)
        for k, token, score in zip(open_rows, chosen.tolist(), log_p.tolist(), strict=True):
            tokens[k].append(token)
            scores[k].append(score)
        still = [i for i, k in enumerate(open_rows) if tokens[k][-1] != end_of_turn]
        if not still or step == limit - 1:
            break
        if len(still) < len(open_rows):
            rows = torch.tensor(still, device=last.device)
            decoding.keep(rows)
            chosen, open_rows = chosen[rows], [open_rows[i] for i in still]
        last = _step(model, memory, decoding, chosen)
    ends = [row[:-1] if row and row[-1] == end_of_turn else row for row in tokens]
    return ends, [math.exp(sum(s) / max(len(s), 1)) for s in scores]


def _step(model: SpaceVLLM, memory: VideoMemory, decoding: _Decoding, chosen: Tensor) -> Tensor:
    """(K, D) states behind one more token each; chosen: (K,)."""
    decoding.real = torch.cat([decoding.real, decoding.real.new_ones(len(chosen), 1)], dim=1)
    mask, position = decoding.real[:, None, None], decoding.position[:, None]  # (K, 1, 1, N), (K, 1)
    decoding.position = decoding.position + 1
    return _read(model, memory, decoding.tails, chosen[:, None], mask, position)[:, 0]


def _places(
    model: SpaceVLLM, memory: VideoMemory, states: Tensor, segments: Sequence[Segment]
) -> list[tuple[Tensor, float | None]]:
    """Boxes and presence of each question; as many at once as their enhanced visual tokens take little memory."""
    captions = [_caption(memory, state, segment) for state, segment in zip(states, segments, strict=True)]
    step = max(1, _DECODED_AT_ONCE // memory.visual.numel())
    blocks = [captions[i : i + step] for i in range(0, len(captions), step)]
    return [place for block in blocks for place in _decode(model, memory, block)]


def _decode(model: SpaceVLLM, memory: VideoMemory, captions: Sequence[Tensor]) -> Iterable[tuple[Tensor, float | None]]:
    """captions: K times (M, D) → K times boxes (T, 4) on the CPU, and presence."""
    caption = torch.nn.utils.rnn.pad_sequence(list(captions), batch_first=True)  # (K, M, D)
    sizes = torch.tensor([len(c) for c in captions], device=caption.device)
    caption_mask = torch.arange(caption.shape[1], device=caption.device) < sizes[:, None]  # (K, M)
    visual, query = (x.expand(len(captions), *x.shape) for x in (memory.visual, memory.query))
    seen = torch.ones(visual.shape[:-1], dtype=torch.bool, device=caption.device)
    space = model.decode_boxes(visual, query, caption, seen, caption_mask)
    if space.presence_logits is None:
        return zip(space.boxes.cpu(), repeat(None))
    logits = video_logit(space.presence_logits, seen.any(-1))  # (K,)
    return zip(space.boxes.cpu(), logits.sigmoid().tolist(), strict=True)


def _caption(memory: VideoMemory, states: Tensor, segment: Segment) -> Tensor:
    """(M, D) states of the question's caption; states: (S, D) of its segment."""
    if segment.caption is not None:
        return states[slice(*segment.caption)]
    assert memory.caption is not None  # it stands in one of the two
    return memory.caption
