"""Grounding DINO and a local language model: the real classes, tiny and untrained."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from synthesis_models import save_tiny_dino, save_tiny_llm

from spacevllm.config import ConfigError
from spacevllm.data.synthesis.analyzer import AnalyzerOptions, find_objects
from spacevllm.data.synthesis.annotator import GroundingDino, annotated_count, rough_frames
from spacevllm.data.synthesis.chat import LocalChat
from spacevllm.data.synthesis.sample import Caption, Clip, Rejected


@pytest.fixture(scope="module")
def dino(tmp_path_factory):
    return save_tiny_dino(tmp_path_factory.mktemp("dino"))


def test_grounding_dino_gives_boxes_in_pixels_above_the_threshold(dino):
    frames = np.random.default_rng(0).integers(0, 255, (3, 48, 64, 3), dtype=np.uint8)
    every = GroundingDino(dino, threshold=0.0)("a.mp4", np.arange(3), frames, "The red circle.")
    assert len(every) == 3
    for boxes, scores in every:
        assert boxes.shape == (12, 4) and scores.shape == (12,) and ((scores > 0) & (scores < 1)).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all() and boxes.max() > 2  # not in [0, 1]
    best = max(scores.max() for _, scores in every)
    few = GroundingDino(dino, threshold=float(best) - 1e-6)("a.mp4", np.arange(3), frames, "The red circle.")
    assert sum(len(scores) for _, scores in few) == 1
    one = GroundingDino(dino, threshold=0.0)
    halves = [one("a.mp4", np.arange(1), frames[i : i + 1], "the red circle") for i in (0, 1)]
    for (boxes, _), [(alone, _)] in zip(every, halves, strict=False):  # batching and spelling change nothing
        np.testing.assert_allclose(boxes, alone, atol=1e-3)


def test_an_untrained_language_model_answers_garbage_and_is_asked_again(tmp_path):
    chat = LocalChat(save_tiny_llm(tmp_path), max_new_tokens=8)
    with pytest.raises(Rejected, match="bad_answer"):
        find_objects("a red circle", chat, AnalyzerOptions(attempts=2))
    said = chat([{"role": "user", "content": "Caption: a red circle"}])
    assert said == chat([{"role": "user", "content": "Caption: a red circle"}])


def test_a_model_that_is_not_there_is_the_users_error(tmp_path):
    with pytest.raises(ConfigError, match=r"annotator\.model .*no Grounding DINO there"):
        GroundingDino(tmp_path)
    with pytest.raises(ConfigError, match=r"analyzer\.model .*no language model there"):
        LocalChat(tmp_path)


def test_annotated_frames_hold_both_ends():
    assert annotated_count(0, 80, Fraction(8), 2.0) == 21
    assert annotated_count(0, 3, Fraction(30), 2.0) == 2
    assert annotated_count(5, 6, Fraction(30), 2.0) == 1
    clip = Clip(Fraction(30000, 1001), 300, 64, 48, 10.01)
    assert rough_frames(Caption("a", "s", "train", "m", "text", 5.0, 15.0), clip) == (150, 300)
    with pytest.raises(Rejected, match="outside: interval"):
        rough_frames(Caption("a", "s", "train", "m", "text", 10.1, 15.0), clip)
