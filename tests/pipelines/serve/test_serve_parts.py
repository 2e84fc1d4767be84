"""The store of videos and the model's batches, each by itself: real files, an untrained model, no Ray."""

from __future__ import annotations

import io
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from serving import QUESTIONS, untrained
from starlette.testclient import TestClient

from pipelines.serve.kept_frames import KeptFrames
from pipelines.serve.model import answer_batch
from pipelines.serve.open_file import OpenFile
from pipelines.serve.service import Ask
from pipelines.serve.store import (
    ANSWERS_KEPT,
    CONTENT,
    DRAWINGS_KEPT,
    LEFT_S,
    Video,
    VideoStore,
    content_id,
    save_upload,
)
from spacevllm.memories import VideoMemories
from spacevllm.predictor import Predictor
from spacevllm.video.reader import sample_frames
from tests.conftest import write_mp4


def put(store, content, name="a.mp4"):
    with store.incoming() as folder:
        save_upload(io.BytesIO(content), folder / CONTENT)
        video = Video(content_id(folder / CONTENT), name, str(folder / CONTENT), "", {"fps": 8.0})
        added = store.add(folder, video)
    store.trim(keep=added.id)
    return added


def test_the_same_bytes_are_kept_once(tmp_path):
    store = VideoStore(tmp_path, 1000)
    first, again = put(store, b"x" * 100), put(store, b"x" * 100, "other.mp4")
    assert first.id == again.id and again.name == "a.mp4"
    assert Path(first.path).read_bytes() == b"x" * 100
    assert VideoStore(tmp_path, 1000).get(first.id) == first  # another process sees it
    assert not os.listdir(tmp_path / ".incoming")


def test_the_one_unused_for_longest_leaves(tmp_path):
    store = VideoStore(tmp_path, 1500)
    videos = [put(store, bytes([i]) * 400) for i in range(2)]
    for age, video in enumerate(videos):
        os.utime(tmp_path / video.id, (age, age))
    assert store.get(videos[0].id)  # used just now
    videos.append(put(store, b"c" * 400))
    assert [store.get(video.id) is not None for video in videos] == [True, False, True]
    large = put(store, b"d" * 5000)  # larger than all of the budget: for whoever just sent it
    assert store.get(large.id) and store.get(videos[0].id) is None


def test_what_was_asked_is_remembered_in_order(tmp_path):
    store = VideoStore(tmp_path, 1000)
    video = put(store, b"x")
    assert store.asked(video) is None and store.asked(video, "a") is None
    for question, answer in (("a", "1"), ("b", "2"), ("a", "3")):
        store.remember(video, question, answer)
        assert store.asked(video) == answer
    assert (store.asked(video, "a"), store.asked(video, "b")) == ("3", "2")
    for number in range(ANSWERS_KEPT):
        store.remember(video, f"{number} \ud800", str(number))
    assert store.asked(video, "0 \ud800") == "0" and store.asked(video, "a") is None
    assert len(list((tmp_path / video.id).glob("answer-*"))) == ANSWERS_KEPT


@pytest.mark.parametrize("name", ["video-" + "0" * 40, "../x", "", "video-" + "0" * 39 + "/", ".incoming"])
def test_ids_that_are_none(tmp_path, name):
    assert VideoStore(tmp_path, 10).get(name) is None


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    untrained().save(folder)
    return Predictor.load(folder, memories=VideoMemories(1 << 30))


@pytest.fixture(scope="module")
def clips(tmp_path_factory, predictor):
    root = tmp_path_factory.mktemp("clips")
    paths = [write_mp4(root / f"{i}.mp4", num_frames=12 + i, shade=90 * i) for i in range(2)]
    return [sample_frames(path, predictor.num_frames, size=predictor.image_size) for path in paths]


def test_a_batch_answers_each_as_alone(predictor, clips):
    asks = [Ask("0", QUESTIONS, clips[0]), Ask("1", QUESTIONS[:1], clips[1]), Ask("0", QUESTIONS[1:], clips[0])]
    answers = answer_batch(predictor, asks)
    for ask, answer in zip(asks, answers, strict=True):
        [alone] = answer_batch(predictor, [Ask(f"{ask.key} alone", ask.questions, ask.clip)])
        assert [tube.question for tube in answer] == list(ask.questions)
        for got, expected in zip(answer, alone, strict=True):
            assert got.answer == expected.answer
            np.testing.assert_allclose(got.sampled_boxes, expected.sampled_boxes, atol=0.05)


def test_what_is_remembered_needs_no_frames(predictor, clips):
    assert answer_batch(predictor, [Ask("new", QUESTIONS)]) == [None]
    [first] = answer_batch(predictor, [Ask("new", QUESTIONS, clips[0])])
    [again] = answer_batch(predictor, [Ask("new", QUESTIONS)])
    assert [tube.answer for tube in again] == [tube.answer for tube in first]
    assert Ask("new", QUESTIONS).cost == 1 and Ask("new", QUESTIONS, clips[0]).cost == predictor.num_frames


def test_what_is_not_worth_remembering_is_not_remembered(predictor, clips):
    before = predictor.memories.stats
    [[tube]] = answer_batch(predictor, [Ask("film@0.000", QUESTIONS[:1], clips[0], keep=False)])
    assert tube.question == QUESTIONS[0] and predictor.memories.stats == before


def test_what_cannot_be_recalled_is_asked_for_again(predictor, clips):
    """The device has no room left for a video that comes back from host memory."""

    class NoRoom(VideoMemories):
        lost: ClassVar[set] = set()

        def get(self, key):
            if key not in self.lost:
                self.lost.add(key)
                raise torch.OutOfMemoryError("no room on the device")
            return super().get(key)

    full = Predictor(predictor.model, predictor.processor, memories=NoRoom(1 << 30))
    unknown, known = answer_batch(full, [Ask("0", QUESTIONS), Ask("1", QUESTIONS, clips[1])])
    assert unknown is None and [tube.question for tube in known] == QUESTIONS


def test_one_bad_request_costs_itself(predictor, clips):
    bad = Ask("0", [None], clips[0])
    good = Ask("0", QUESTIONS, clips[0])
    answers = answer_batch(predictor, [good, bad, good])
    assert isinstance(answers[1], str) and len(answers[0]) == len(answers[2]) == 2


def test_what_was_removed_may_come_again(tmp_path):
    store = VideoStore(tmp_path, 1000)
    video = put(store, b"x" * 100)
    store.remember(video, "a", "{}")
    store.remove(video.id)
    store.remove(video.id)  # somebody else was faster
    assert store.get(video.id) is None and not Path(video.path).exists() and not os.listdir(tmp_path / ".incoming")
    store.remember(video, "a", "{}")  # answered while it was removed: nothing is left behind
    assert sorted(os.listdir(tmp_path)) == [".incoming"]
    (tmp_path / video.id).mkdir()
    (tmp_path / video.id / "answer-1.json").write_text("[]")  # half a video, as an interrupted removal leaves it
    again = put(store, b"x" * 100)
    assert store.get(again.id) == again and Path(again.path).read_bytes() == b"x" * 100


def drawn(store, video, key, content=b"x" * 100):
    with store.incoming() as folder:
        (folder / "a.mp4").write_bytes(content)
        return store.add_drawing(video, key, folder / "a.mp4")


def test_drawings_count_and_a_video_has_few(tmp_path):
    store = VideoStore(tmp_path, 2500)
    first, second = put(store, b"a" * 400), put(store, b"b" * 400)
    os.utime(tmp_path / first.id, (1, 1))
    for number in range(DRAWINGS_KEPT + 1):
        assert drawn(store, second, str(number)).read_bytes() == b"x" * 100
        os.utime(store.drawing(second, str(number)), (number, number))
    kept = [number for number in range(DRAWINGS_KEPT + 1) if store.drawing(second, str(number))]
    assert kept == list(range(1, DRAWINGS_KEPT + 1)) and store.get(first.id)
    os.utime(tmp_path / first.id, (1, 1))
    drawn(store, second, "large", b"x" * 1500)
    assert store.trim(keep=second.id) == [first.id]
    assert store.get(first.id) is None and store.get(second.id) == second
    store.remove(second.id)
    with pytest.raises(FileNotFoundError):
        drawn(store, second, "too late")
    assert sorted(os.listdir(tmp_path)) == [".incoming"] and not os.listdir(tmp_path / ".incoming")


def test_kept_frames_count_all_that_they_hold(clips):
    """An intra-only video of 54,000 frames: its times and keyframes are larger than what the model sees of it."""
    numbers = np.arange(54_000)
    long = replace(clips[0].info, times_s=numbers / 8, pts=numbers, keyframes=tuple(range(54_000)))
    clip = replace(clips[0], info=long)
    assert clip.nbytes > clip.frames.nbytes + 54_000 * (8 + 8 + 36)
    kept = KeptFrames(3 * clip.nbytes)
    for key in "abcd":
        kept.put(key, clip)
    assert list(kept.kept) == list("bcd") and kept.bytes == 3 * clip.nbytes
    for key in "abcd":
        kept.drop(key)
    assert kept.bytes == 0


def test_what_a_killed_process_left_is_swept_at_the_next_start(tmp_path):
    VideoStore(tmp_path, 1000)
    for name, age in (("left", LEFT_S + 60), ("at_work", 60)):
        (tmp_path / ".incoming" / name).mkdir()
        (tmp_path / ".incoming" / name / CONTENT).write_bytes(b"x")
        os.utime(tmp_path / ".incoming" / name, (time.time() - age,) * 2)
    VideoStore(tmp_path, 1000)
    assert os.listdir(tmp_path / ".incoming") == ["at_work"]


def test_many_threads_add_ask_and_remove(tmp_path):
    """Two stores on one folder, as two copies of the ingress; each video is whole or not there."""
    stores = [VideoStore(tmp_path, 1500) for _ in range(2)]

    def work(number):
        store, content = stores[number % 2], bytes([number % 5]) * 400
        video = put(store, content)
        store.remember(video, str(number), "{}")
        if number % 3 == 0:
            store.remove(video.id)
        return store.get(video.id)

    with ThreadPoolExecutor(8) as threads:
        seen = list(threads.map(work, range(200)))
    assert any(seen) and not os.listdir(tmp_path / ".incoming")
    for name in os.listdir(tmp_path):
        if name != ".incoming":
            video = stores[0].get(name)
            assert video is not None and len(Path(video.path).read_bytes()) == 400


def test_a_file_that_leaves_while_it_is_sent_is_sent_whole(tmp_path):
    """A video may leave the store between the look at it and each byte of the answer."""
    file = tmp_path / "video"

    async def app(scope, receive, send):
        answer = OpenFile(file, "video/mp4")
        file.unlink()
        await answer(scope, receive, send)

    def get(**headers):
        file.write_bytes(b"0123456789" * 20_000)
        return TestClient(app).get("/", headers=headers)

    assert get().content == b"0123456789" * 20_000
    part = get(range="bytes=15-18")
    assert (part.status_code, part.content) == (206, b"5678")
    assert part.headers["content-range"] == "bytes 15-18/200000"
    with pytest.raises(FileNotFoundError):
        OpenFile(file, "video/mp4")
