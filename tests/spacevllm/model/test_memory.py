"""A prefilled video answers as the whole row in one pass does."""

from __future__ import annotations

import torch
from tiny import clip, instance, make

from spacevllm.data.collate import Collator
from spacevllm.model.memory import ask, prefill
from spacevllm.model.processing import Question


def test_boxes_and_text_equal_the_uncached_path():
    model, processor = make()
    sample = clip([instance(k) for k in range(3)])
    batch = Collator(processor)([sample])
    whole = model(batch)
    memory = prefill(
        model, processor.video_prefix(sample.times_s.tolist(), sample.duration_s), batch.video_pixels, False
    )
    segments = [processor.segment(Question("stvg", i.question)) for i in sample.instances]
    answers = ask(model, memory, segments, processor.end_of_turn, max_new_tokens=3)
    for k, answer in enumerate(answers):
        assert torch.allclose(answer.boxes, whole.space.boxes[k], atol=1e-4)
    # the first token written is the arg max at the position of the first label
    starts = (batch.labels[0, 1:] >= 0) & (batch.labels[0, :-1] < 0)
    offsets = (batch.labels[0, 1:] >= 0).cumsum(0)[starts] - 1
    assert [a.tokens[0] for a in answers] == whole.logits[offsets].argmax(-1).tolist()


def test_asking_together_or_apart_and_twice_is_the_same():
    model, processor = make()
    sample = clip([instance(0)])
    memory = prefill(
        model,
        processor.video_prefix(sample.times_s.tolist(), sample.duration_s),
        processor.pixel_values(sample.frames),
        False,
    )
    questions = ("the red circle", "what grows while the cow stands still?")
    segments = [processor.segment(Question("stvg", q)) for q in questions]
    together = ask(model, memory, segments, processor.end_of_turn, 6)
    apart = [ask(model, memory, [s], processor.end_of_turn, 6)[0] for s in segments]
    for a, b in zip(together, apart, strict=True):
        assert a.tokens == b.tokens
        assert abs(a.confidence - b.confidence) < 1e-5
        assert torch.allclose(a.boxes, b.boxes, atol=1e-5)


def test_a_prefix_without_queries_has_no_boxes():
    model, processor = make(queries_in_text_tasks=False)
    sample = clip([instance(0)])
    prefix = processor.video_prefix(sample.times_s.tolist(), sample.duration_s, with_queries=False)
    memory = prefill(model, prefix, processor.pixel_values(sample.frames), False)
    question = processor.segment(Question("qa", "how many?", ["one", "two"]))
    [answer] = ask(model, memory, [question], processor.end_of_turn, 4)
    assert answer.boxes is None and 0 <= answer.confidence <= 1
