"""A prefilled video answers as every question alone does, in one pass over prefix and question without any cache."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import BACKBONES, clip, instance, make
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from spacevllm.model import attention
from spacevllm.model.attention import attend_in_pieces
from spacevllm.model.collate import Collator
from spacevllm.model.memory import Answer, ask, prefill
from spacevllm.model.processing import Question

SAMPLE = clip([instance(0)])
WORDS = ("the red circle", "moves left", "a blue square", "what grows?", "stands still")
NO_END = -1


def questions(count):
    """Sentences of many lengths, no two alike."""
    return [" ".join(WORDS[(k + i) % 5] for i in range(1 + k % 7)) + f" {k}" for k in range(count)]


def remember(model, processor, with_queries=True):
    grid = processor.grid(SAMPLE.frames)
    prefix = processor.video_prefix(SAMPLE.times_s.tolist(), SAMPLE.duration_s, grid, with_queries)
    pixels = processor.pixels(SAMPLE.frames)
    return prefix, pixels, prefill(model, prefix, pixels)


def segments(processor, texts):
    return [processor.segment(Question("stvg", text)) for text in texts]


@torch.inference_mode()
def uncached(model, prefix, pixels, segment, limit):
    """The plain way: for every token the whole row once more."""
    ids, kinds, query_ids = torch.tensor([prefix.ids]), torch.tensor([prefix.kinds]), torch.tensor(prefix.query_ids)
    seen, cells = model.embed(ids, kinds, query_ids, pixels.to(model.device, model.dtype))
    before, start = torch.from_numpy(model.layout.positions(prefix)), model.layout.next_position(prefix)
    tokens, log_p = [], []
    for _ in range(limit):
        written = torch.tensor([segment.ids + tokens])
        row = torch.cat([seen, model.mllm.embed_words(written)], dim=1)
        behind = (start + torch.arange(written.shape[1])).expand(len(before), -1)
        positions = torch.cat([before, behind], dim=1)[:, None]
        states = model.read(row, positions, cells, torch.cat([kinds, 0 * written], 1)).last_hidden_state[0]
        score, token = model.mllm.lm_head(states[-1]).float().log_softmax(-1).max(-1)
        tokens.append(int(token))
        log_p.append(float(score))
    begin, end = (len(prefix.ids) + offset for offset in segment.caption)
    visual = states[torch.from_numpy(prefix.visual_index(len(pixels)))][None]  # (1, T, P, D)
    query = states[torch.from_numpy(prefix.query_index())][None]  # (1, T, D)
    caption = states[None, begin:end]  # (1, M, D)
    masks = (torch.ones(x.shape[:-1], dtype=torch.bool) for x in (visual, caption))
    boxes = model.decode_boxes(visual, query, caption, *masks).boxes[0]
    return Answer(tokens, float(torch.tensor(log_p).mean().exp()), boxes)


def assert_same(got, expected, atol=1e-4):
    assert got.tokens == expected.tokens
    assert abs(got.confidence - expected.confidence) < atol
    assert torch.allclose(got.boxes, expected.boxes, atol=atol)


@pytest.fixture(scope="module", params=BACKBONES)
def asked(request):
    """70 questions with their uncached answers."""
    model, processor = make(backbone=request.param)
    prefix, pixels, memory = remember(model, processor)
    parts = segments(processor, questions(70))
    return model, memory, parts, [uncached(model, prefix, pixels, part, 2) for part in parts]


@pytest.mark.parametrize("count", [1, 2, 7, 70])
def test_questions_at_once_equal_each_alone_without_a_cache(asked, count):
    model, memory, parts, expected = asked
    for got, alone in zip(ask(model, memory, parts[:count], NO_END, 2), expected[:count], strict=True):
        assert_same(got, alone)


def test_order_grouping_and_what_was_asked_before_do_not_matter(asked):
    model, memory, parts, expected = asked
    before = [x.clone() for layer in memory.layers for x in layer]
    order = torch.randperm(70, generator=torch.Generator().manual_seed(0)).tolist()
    for group in (order[:1], order[1:6], order[6:40], order[:1], order[40:]):
        answers = ask(model, memory, [parts[k] for k in group], NO_END, 2)
        for k, got in zip(group, answers, strict=True):
            assert_same(got, expected[k])
    assert all(torch.equal(a, b) for a, b in zip(before, (x for layer in memory.layers for x in layer), strict=True))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_packed_row_gives_the_same_boxes_and_first_token(backbone):
    """What training sees is what the memory answers."""
    model, processor = make(backbone=backbone)
    sample = clip([instance(k) for k in range(3)])
    batch = Collator(processor)([sample])
    whole = model(batch)
    _, _, memory = remember(model, processor)
    answers = ask(model, memory, segments(processor, [i.question for i in sample.instances]), processor.end_of_turn, 3)
    for k, answer in enumerate(answers):
        assert torch.allclose(answer.boxes, whole.space.boxes[k], atol=1e-4)
    # the first token written is the arg max at the position of the first label
    starts = (batch.tokens.labels[0, 1:] >= 0) & (batch.tokens.labels[0, :-1] < 0)
    offsets = (batch.tokens.labels[0, 1:] >= 0).cumsum(0)[starts] - 1
    assert [a.tokens[0] for a in answers] == whole.logits[offsets].argmax(-1).tolist()


def test_long_answers_and_questions_that_finish_early():
    model, processor = make()
    prefix, pixels, memory = remember(model, processor)
    parts = segments(processor, questions(6))
    free = ask(model, memory, parts, NO_END, 200)
    assert free[3].tokens == uncached(model, prefix, pixels, parts[3], 200).tokens
    end = next(t for t in free[0].tokens if len({a.tokens.index(t) if t in a.tokens else 200 for a in free}) > 2)
    for got, whole in zip(ask(model, memory, parts, end, 200), free, strict=True):
        assert got.tokens == whole.tokens[: whole.tokens.index(end) if end in whole.tokens else 200]
        assert 0 <= got.confidence <= 1


def test_no_new_tokens_are_no_text_but_boxes():
    model, processor = make()
    _, _, memory = remember(model, processor)
    [answer] = ask(model, memory, segments(processor, questions(1)), NO_END, 0)
    assert answer.tokens == [] and answer.confidence == 1 and answer.boxes.shape == (8, 4)


def test_bf16_is_as_close_to_fp32_as_the_uncached_path_in_bf16():
    model, processor = make()
    prefix, pixels, _ = remember(model, processor)
    parts = segments(processor, questions(4))
    exact = torch.stack([uncached(model, prefix, pixels, part, 1).boxes for part in parts])
    model = model.bfloat16()
    plain = torch.stack([uncached(model, prefix, pixels, part, 1).boxes for part in parts])
    _, _, memory = remember(model, processor)
    got = torch.stack([answer.boxes for answer in ask(model, memory, parts, NO_END, 20)])
    error = (plain - exact).square().mean().sqrt()
    assert (got - exact).square().mean().sqrt() < 1.5 * error
    assert (got - plain).square().mean().sqrt() < 1.5 * error


def test_the_prefix_is_not_copied_for_the_questions():
    """No tensor made while 20 questions are answered is as large as one layer's prefix keys for all of them."""
    model, processor = make()
    times_s = [i / 8 for i in range(48)]
    frames = np.random.default_rng(0).integers(0, 255, (48, 32, 32, 3), np.uint8)
    prefix = processor.video_prefix(times_s, 6.0, processor.grid(frames), with_queries=False)
    memory = prefill(model, prefix, processor.pixels(frames))
    parts = segments(processor, WORDS[:2] * 10)
    largest = 0

    class Largest(TorchDispatchMode):
        def __torch_dispatch__(self, op, types, args=(), kwargs=None):
            nonlocal largest
            out = op(*args, **(kwargs or {}))
            own = {x.untyped_storage().data_ptr() for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
            made = (x.untyped_storage() for x in tree_leaves(out) if isinstance(x, torch.Tensor))
            largest = max([largest, *(x.nbytes() for x in made if x.data_ptr() not in own)])
            return out

    with Largest():
        ask(model, memory, parts, NO_END, 4)
    assert 0 < largest < len(parts) * memory.layers[0][0].nbytes / 4


def test_without_a_fused_kernel_the_prefix_is_read_in_pieces(monkeypatch):
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, 2, n, 16) for n in (31, 50, 50))
    expected = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, scale=0.3)
    for pieces in (1 << 26, 700):
        monkeypatch.setattr(attention, "_LOGITS_AT_ONCE", pieces)
        out, weight = attend_in_pieces(query, key, value, 0.3)
        assert torch.allclose(out, expected[0], atol=1e-6)
        assert torch.allclose(weight.squeeze(-1), expected[1], atol=1e-5)


def test_bytes_and_precision_of_a_memory(asked):
    model, memory, parts, expected = asked
    kv = 2 * len(memory.layers) * memory.layers[0][0].numel() * 4
    assert memory.nbytes == kv + (memory.visual.numel() + memory.query.numel()) * 4
    assert memory.to("cpu") is memory
    half = memory.to("cpu", torch.bfloat16)
    assert half.nbytes * 2 == memory.nbytes
    [answer] = ask(model, half.to("cpu", torch.float32), parts[:1], NO_END, 2)
    assert torch.allclose(answer.boxes, expected[0].boxes, atol=0.05)


def test_a_prefix_without_queries_has_no_boxes():
    model, processor = make(queries_in_text_tasks=False)
    _, _, memory = remember(model, processor, with_queries=False)
    question = processor.segment(Question("qa", "how many?", ["one", "two"]))
    [answer] = ask(model, memory, [question], processor.end_of_turn, 4)
    assert answer.boxes is None and 0 <= answer.confidence <= 1


def test_a_model_that_would_not_look_at_the_memory_is_refused(asked, monkeypatch):
    model, memory, parts, _ = asked
    monkeypatch.setattr(model.config.text, "_attn_implementation", "sdpa")
    with pytest.raises(ValueError, match="shared_prefix"):
        ask(model, memory, parts[:1], NO_END)
