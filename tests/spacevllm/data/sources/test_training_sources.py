"""DiDeMo, TACoS, InternVid and LLaVA conversations: what their numbers and turns become."""

from __future__ import annotations

import pytest
from published_files import DIDEMO, LLAVA, TACOS, put

from spacevllm.data.sources import SourceFiles, read
from spacevllm.data.sources.didemo import agreed
from spacevllm.data.sources.internvid import seconds


def test_didemo_takes_the_moment_most_people_mean(tmp_path):
    assert agreed([[1, 4], [1, 4], [0, 0], [2, 4]]) == [1, 4]
    assert agreed([[5, 5], [0, 0]]) == [0, 0]
    record = next(read("didemo", DIDEMO.write(tmp_path, DIDEMO.rows)))
    assert (record.id, record.begin_s, record.end_s) == ("didemo/train/0", 5.0, 25.0)
    assert (record.media, record.duration_s) == ("media/12090392@N02_13482799053_87ef417396.mov", 0.0)


def test_tacos_counts_frames(tmp_path):
    row = put(1, "timestamps", [[224, 358], [224, 358]])(TACOS.rows[0])
    row = put(1, "sentences", ["He took out a pan", "He took out a pan", "He left"])(row)
    first, second, unmarked = read("tacos", TACOS.write(tmp_path, [row]))
    assert (first.id, second.id) == ("tacos/s17-d69.avi/0", "tacos/s17-d69.avi/1")
    assert (first.begin_frame, first.end_frame, first.fps) == (224, 358, second.fps)
    assert first.begin_s == pytest.approx(224 / 29.4) and first.duration_s == pytest.approx(12438 / 29.4)
    assert "timestamp" in unmarked.reason


@pytest.mark.parametrize(("text", "value"), [("00:07:33.689", 453.689), ("01:02:03.500", 3723.5), ("0:0:5", 5.0)])
def test_internvid_timestamps(text, value):
    assert seconds(text) == value


def test_llava_turns_become_questions(tmp_path):
    turns = [
        {"from": "human", "value": "What is it?\n<image>"},
        {"from": "gpt", "value": "A dog."},
        {"from": "human", "value": "Which colour?"},
        {"from": "gpt", "value": "Brown."},
        {"from": "human", "value": "And then?"},
    ]
    video = {"id": 3, "video": "activitynet/v_1.mp4", "conversations": turns[:2]}
    files = LLAVA.write(tmp_path, [LLAVA.rows[0] | {"conversations": turns}, video])
    first, second, unanswered, of_video = read("llava", files)
    assert (first.id, second.id) == ("llava/llava_v1_5_mix665k/0/0", "llava/llava_v1_5_mix665k/0/1")
    assert [(x.question, x.answer) for x in (first, second)] == [("What is it?", "A dog."), ("Which colour?", "Brown.")]
    assert (first.task, first.media_type, first.media) == ("qa", "image", "media/coco/train2017/000000033471.jpg")
    assert unanswered.key == "0/2"
    assert (of_video.media_type, of_video.media, of_video.num_frames) == ("video", "media/activitynet/v_1.mp4", 0)


@pytest.mark.parametrize(("split", "records", "past_the_end"), [("train", 9_790, 43), ("val", 4_436, 0)])
def test_published_tacos(real, split, records, past_the_end):
    found = list(read("tacos", SourceFiles(real(f"tacos/{split}.json"), split)))
    assert (len(found), sum(x.ends_after_media for x in found)) == (records, past_the_end)


def test_a_conversation_about_no_picture_is_text(tmp_path):
    turns = [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi"}]
    [record] = read("llava", LLAVA.write(tmp_path, [{"id": 1, "conversations": turns}]))
    assert (record.task, record.media_type, record.media, record.num_frames) == ("qa", "text", "", 0)


def test_a_later_turn_of_a_lost_picture_is_no_text(tmp_path):
    turns = [{"from": "human", "value": text} for text in ("<image>\nWhat is it?", "Which colour?")]
    pairs = [turn for asked in turns for turn in (asked, {"from": "gpt", "value": "…"})]
    found = list(read("llava", LLAVA.write(tmp_path, [{"id": 1, "conversations": pairs}])))
    assert len(found) == 2 and all("the record names none" in dropped.reason for dropped in found)
