"""Videos remembered within a byte budget: what is kept, what leaves, and that answers stay the same."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from spacevllm.data.moving_shapes import MovingShapesConfig, write_one
from spacevllm.memories import RememberedClip, VideoMemories, file_key
from spacevllm.predictor import Predictor
from spacevllm.video import sample_frames
from spacevllm.video.errors import MissingVideo

sys.path.insert(0, str(Path(__file__).parent / "model"))
from tiny import make

MIB = 1 << 20
QUESTIONS = ["the red circle", "what grows?"]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    out = tmp_path_factory.mktemp("shapes")
    for k in range(3):
        write_one(str(out), MovingShapesConfig(), "train", k)
    return sorted((out / "media" / "train").glob("*.mp4"))


@pytest.fixture(scope="module")
def model():
    return make(queries_in_text_tasks=False)


@pytest.fixture(scope="module")
def plain(model, videos):
    """Tubes of every video from a predictor that remembers nothing."""
    return [Predictor(*model).ground(video, QUESTIONS) for video in videos]


@pytest.fixture(scope="module")
def clips(model, videos):
    """What is remembered of every video; all are of one size."""
    memories = VideoMemories(MIB)
    predictor = Predictor(*model, memories=memories)
    for video in videos:
        predictor.ground(video, QUESTIONS)
    return [predictor.recall(file_key(video)) for video in videos]


def counts(memories):
    stats = memories.stats
    return stats.hits, stats.misses, stats.evictions


def assert_same(tubes, expected, atol=1e-3):
    for tube, other in zip(tubes, expected, strict=True):
        assert (tube.answer, tube.span) == (other.answer, other.span)
        assert np.allclose(tube.sampled_boxes, other.sampled_boxes, atol=atol)
        assert np.allclose(tube.boxes, other.boxes, atol=atol)


def test_a_video_is_decoded_and_read_once(model, videos, plain, monkeypatch):
    memories = VideoMemories(MIB)
    predictor = Predictor(*model, memories=memories)
    assert_same(predictor.ground(videos[0], QUESTIONS), plain[0])
    monkeypatch.setattr(predictor, "_sampler", None)  # decoding would fail now
    monkeypatch.setattr("spacevllm.predictor.prefill", None)
    assert_same(predictor.ground(videos[0], QUESTIONS[::-1]), plain[0][::-1])
    assert_same(predictor.ground(str(videos[0]), QUESTIONS[:1], task="stvg"), plain[0][:1])
    assert counts(memories) == (2, 1, 0)
    assert memories.stats.videos == 1 and 0 < memories.stats.bytes < MIB


def test_a_file_that_changed_is_read_again(model, videos, plain, tmp_path):
    video = tmp_path / "video.mp4"
    video.write_bytes(videos[0].read_bytes())
    predictor = Predictor(*model, memories=VideoMemories(MIB))
    assert_same(predictor.ground(video, QUESTIONS), plain[0])
    before = video.stat()
    video.write_bytes(videos[1].read_bytes())
    os.utime(video, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert_same(predictor.ground(video, QUESTIONS), plain[1])
    assert counts(predictor.memories) == (0, 2, 0)


def test_frames_at_hand_are_remembered_under_a_key(model, videos, plain):
    predictor = Predictor(*model, memories=VideoMemories(MIB))
    clip = sample_frames(videos[0], predictor.num_frames, size=predictor.image_size)
    assert predictor.recall("a") is None
    assert_same(predictor.ground(clip, QUESTIONS), plain[0])  # no key: not kept
    assert predictor.memories.stats.videos == 0
    assert_same(predictor.ground(clip, QUESTIONS, key="a"), plain[0])
    remembered = predictor.recall("a")
    assert remembered.frames.size == 0 and len(remembered.frames) == len(clip.frames)
    assert_same(predictor.ground(remembered, QUESTIONS, key="a"), plain[0])
    assert counts(predictor.memories) == (1, 1, 0)


def test_tasks_with_another_prefix_have_a_memory_of_their_own(model, videos):
    predictor = Predictor(*model, memories=VideoMemories(MIB))
    predictor.ground(videos[0], QUESTIONS)
    predictor.ground(videos[0], QUESTIONS, task="vtg")
    text = predictor.answer(videos[0], QUESTIONS)
    assert text == Predictor(*model).answer(videos[0], QUESTIONS) == predictor.answer(videos[0], QUESTIONS)
    assert counts(predictor.memories) == (2, 2, 0)


def test_a_question_before_the_video_shares_nothing(videos):
    predictor = Predictor(*make(prompt_order="caption_first"), memories=VideoMemories(MIB))
    assert predictor.memories is None and predictor.recall("a") is None
    assert len(predictor.ground(videos[0], QUESTIONS, key="a")) == 2


def test_a_missing_video_is_still_a_typed_error(model, tmp_path):
    with pytest.raises(MissingVideo):
        Predictor(*model, memories=VideoMemories(MIB)).ground(tmp_path / "none.mp4", QUESTIONS)
    assert file_key(tmp_path / "none.mp4") == ""


def test_the_least_recently_asked_leaves_first(clips):
    size = clips[0].nbytes
    memories = VideoMemories(2 * size)
    memories.put("a", clips[0])
    memories.put("b", clips[1])
    assert memories.get("a").memory is clips[0].memory
    memories.put("c", clips[2])
    assert memories.get("b") is None
    assert memories.get("a") and memories.get("c")
    assert counts(memories) == (3, 3, 1)
    assert memories.stats.bytes == 2 * size and memories.stats.videos == 2
    memories.put("a", clips[0])  # again: not counted twice
    assert memories.stats.bytes == 2 * size


def test_a_memory_larger_than_the_budget_is_used_but_not_kept(model, videos, plain, clips):
    memories = VideoMemories(clips[0].nbytes - 1, host_bytes=MIB)
    predictor = Predictor(*model, memories=memories)
    for _ in range(2):
        assert_same(predictor.ground(videos[0], QUESTIONS), plain[0])
    assert counts(memories) == (0, 2, 0)
    assert memories.stats.bytes == memories.stats.host_bytes == 0


def test_what_leaves_the_device_comes_back_from_host_memory(model, plain, videos, clips):
    size = clips[0].nbytes
    memories = VideoMemories(size, host_bytes=size)
    for key, clip in zip("abc", clips, strict=True):
        memories.put(key, clip)
    stats = memories.stats
    assert (stats.videos, stats.bytes, stats.host_videos, stats.host_bytes, stats.evictions) == (1, size, 1, size, 1)
    assert memories.get("a") is None
    assert_same(Predictor(*model).ground(memories.get("b"), QUESTIONS), plain[1])  # c goes to the host in its place
    assert_same(Predictor(*model).ground(memories.get("c"), QUESTIONS), plain[2])
    assert counts(memories) == (2, 3, 1) and memories.stats.host_bytes == size


def test_half_precision_takes_half_the_bytes(model, videos, plain, clips):
    memories = VideoMemories(MIB, dtype=torch.bfloat16)
    predictor = Predictor(*model, memories=memories)
    predictor.ground(videos[0], QUESTIONS)
    assert memories.stats.bytes < 0.55 * clips[0].nbytes
    remembered = predictor.recall(file_key(videos[0]))
    assert remembered.memory.visual.dtype == torch.float32
    [tube, _] = predictor.ground(remembered, QUESTIONS)
    assert np.allclose(tube.sampled_boxes, plain[0][0].sampled_boxes, atol=0.05 * 160)


def test_threads_never_see_another_video_nor_break_the_budget(clips):
    size = clips[0].nbytes
    memories = VideoMemories(2 * size, host_bytes=size)
    wrong = []

    def work(seed):
        for k in np.random.default_rng(seed).integers(0, 3, 300):
            kept = memories.get(k)
            if kept is None:
                memories.put(k, RememberedClip.of(clips[k], clips[k].memory))
            elif kept.memory is not clips[k].memory:
                wrong.append(k)
            stats = memories.stats
            if stats.bytes > 2 * size or stats.host_bytes > size or stats.bytes != stats.videos * size:
                wrong.append(stats)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert memories.stats.hits + memories.stats.misses == 8 * 300
