"""From an MP4 on disk to tubes, with an untrained model: shapes, ranges and errors, not scores."""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from spacevllm.data.moving_shapes import MovingShapesConfig, write_one
from spacevllm.model.processing import Question
from spacevllm.predictor import Predictor, clamp_span, place_span, span_boxes
from spacevllm.span import Span
from spacevllm.video import SampledFrames, sample_frames
from spacevllm.video.errors import MissingVideo, StillImage
from spacevllm.words.answers import MOST_SPANS

sys.path.insert(0, str(Path(__file__).parent / "model"))
from tiny import make


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("shapes")
    write_one(str(out), MovingShapesConfig(), "train", 0)
    return out / "media" / "train"


@pytest.fixture(scope="module")
def predictor():
    return Predictor(*make())


def test_one_tube_a_question(folder, predictor):
    tubes = predictor.ground(folder / "000000.mp4", ["the red circle", "what grows?"])
    assert [t.question for t in tubes] == ["the red circle", "what grows?"]
    for tube in tubes:
        assert (tube.width, tube.height, tube.num_frames, tube.fps) == (160, 120, 57, 8.0)
        assert tube.sampled_boxes.shape == (8, 4) and tube.sampled_frames.tolist() == list(range(0, 57, 8))
        assert (tube.sampled_boxes >= 0).all() and (tube.sampled_boxes <= [160, 120, 160, 120]).all()
        assert len(tube.boxes) == tube.end_frame - tube.begin_frame
        assert 0 <= tube.confidence <= 1


def saying(*pieces: str) -> Predictor:
    """A model whose language model says these pieces, one token each, to everything; its boxes are its own.

    Layers pass on what they get, and each token's embedding is a direction that the head of the next one looks for.
    """
    model, processor = make()
    processor.tokenizer.add_tokens(list(pieces))
    model.resize_token_embeddings(len(processor.tokenizer))
    last = processor.segment(Question("stvg", "x")).ids[-1]
    said = [last, *processor.tokenizer.convert_tokens_to_ids(list(pieces)), processor.end_of_turn]
    with torch.no_grad():
        for layer in model.mllm.language_model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        embedding = model.get_input_embeddings().weight
        model.mllm.lm_head.weight = torch.nn.Parameter(torch.zeros_like(embedding))
        for place, (token, following) in enumerate(pairwise(said)):
            embedding[token] = torch.eye(embedding.shape[1])[place]
            model.mllm.lm_head.weight[following, place] = 1
    return Predictor(model, processor)


def test_a_tube_a_span_that_the_model_writes(folder):
    said = "From 1.00s to 2.00s; from 5.00s to 6.00s; from 8.00s to 9.00s; from 50.00s to 60.00s."
    [answer] = saying(said).ground(folder / "000000.mp4", ["the red circle"])
    assert answer.answer == said
    assert [(tube.begin_frame, tube.end_frame, tube.track) for tube in answer] == [(8, 16, 0), (40, 48, 0), (56, 57, 0)]
    assert len({tube.confidence for tube in answer}) == 1 and all(tube.present for tube in answer)
    for tube in answer:
        frame = next(n for n, frame in enumerate(tube.sampled_frames) if frame >= tube.begin_frame)
        assert np.allclose(tube.boxes[0], tube.sampled_boxes[frame], atol=0.01)  # all from the same boxes


def test_an_answer_of_many_spans_is_not_cut_off(folder):
    spans = [f"From {n / 10:.2f}s to {n / 10 + 0.1:.2f}s{'' if n % 3 else ';'}" for n in range(40)]
    [answer] = saying(*spans).ground(folder / "000000.mp4", ["the red circle"])
    assert answer.answer.endswith("From 3.90s to 4.00s;") and len(answer) == MOST_SPANS


def test_a_presence_head_says_how_sure_it_is_and_not_the_words(folder):
    with_head = Predictor(*make(presence_head=True))
    head = with_head.model.presence_head
    head.mlp[-1].weight.data.zero_()
    for bias, expected in ((-9.0, 8 / (8 + np.exp(9))), (-np.log(8), 0.5)):  # a soft maximum over eight frames
        head.mlp[-1].bias.data.fill_(bias)
        [tube] = with_head.ground(folder / "000000.mp4", ["the red circle"])
        assert tube.confidence == pytest.approx(expected, rel=1e-4)


def test_frames_at_hand_give_the_same_as_a_path(folder, predictor):
    clip = sample_frames(folder / "000000.mp4", predictor.num_frames, size=predictor.image_size)
    [a], [b] = (predictor.ground(video, ["the red circle"]) for video in (clip, folder / "000000.mp4"))
    assert a.answer == b.answer and np.array_equal(a.sampled_boxes, b.sampled_boxes)


def test_a_part_is_asked_like_a_video_of_its_own_and_answered_in_the_video_s_seconds(folder, predictor):
    video = sample_frames(folder / "000000.mp4", predictor.num_frames, part=Span(3, 5))
    alone = SampledFrames(  # the same frames as a clip that begins with them
        replace(video.info, num_frames=16, duration_s=2.0, times_s=np.arange(16) / 8),
        video.indices - 24, video.times_s - 3, video.frames,
    )  # fmt: skip
    [tube], [own] = (predictor.ground(clip, ["the red circle"]) for clip in (video, alone))
    assert tube.answer == own.answer and np.array_equal(tube.sampled_boxes, own.sampled_boxes)
    assert place_span(Span(0.5, 9), video.info.times_s, Span(3, 5)) == Span(3.5, 5)
    assert place_span(Span(7, 9), video.info.times_s, Span(3, 5)) == Span(4.875, 5)  # its last frame
    assert place_span(None, video.info.times_s, Span(3, 5)) is None


@pytest.mark.parametrize("fields", [{"prompt_order": "caption_first"}, {"space_head": "text_coordinates"}])
def test_other_layouts_answer_every_task(folder, fields):
    predictor = Predictor(*make(**fields))
    tubes = predictor.ground(folder / "000000.mp4", ["the red circle", "what grows?"])
    assert [tube.sampled_boxes.shape for tube in tubes] == [(8, 4)] * 2
    [alone] = predictor.ground(folder / "000000.mp4", ["what grows?"])
    assert alone.answer == tubes[1].answer and np.allclose(alone.sampled_boxes, tubes[1].sampled_boxes, atol=1e-3)
    [box] = predictor.locate(next(folder.glob("*.png")), ["the circle"])
    assert box.shape == (4,)
    assert len(predictor.answer(folder / "000000.mp4", ["how many?", "what?"], [["one", "two"], []])) == 2
    assert predictor.ground(folder / "000000.mp4", []) == []


def test_an_image_has_no_time(folder, predictor):
    with pytest.raises(StillImage, match=r"\.png: an image has no time; ground needs videos"):
        predictor.ground(next(folder.glob("*.png")), ["the circle"])


def test_images_and_free_text(folder, predictor):
    [box] = predictor.locate(next(folder.glob("*.png")), ["the circle"])
    assert box.shape == (4,) and (box >= 0).all() and box[2] >= box[0] and box[3] >= box[1]
    [text] = predictor.answer(folder / "000000.mp4", ["how many?"], [["one", "two"]])
    assert isinstance(text, str)


def test_a_missing_video_is_a_typed_error(predictor, tmp_path):
    with pytest.raises(MissingVideo):
        predictor.ground(tmp_path / "none.mp4", ["the red circle"])


def test_span_boxes_use_the_sampled_frames_from_begin_to_end():
    indices, times = np.arange(8) * 8, np.arange(8.0)
    boxes = np.repeat(np.arange(8.0)[:, None], 4, axis=1).astype(np.float32)
    inside = span_boxes(indices, boxes, times, Span(2.0, 5.0), 16, 40)
    assert inside.shape == (24, 4) and inside[0, 0] == 2.0 and np.isclose(inside[-1, 0], 2 + 23 / 8)
    assert len(span_boxes(indices, boxes, times, None, 0, 0)) == 0


def test_answers_beyond_the_video_end_with_it():
    times = np.arange(24) / 8  # 3 s
    assert clamp_span(Span(1.0, 9.0), times, 3.0) == Span(1.0, 3.0)
    assert clamp_span(Span(5.0, 9.0), times, 3.0) == Span(times[-1], 3.0)
    assert clamp_span(Span(0.5, 2.0), times, 3.0) == Span(0.5, 2.0)
    assert clamp_span(None, times, 3.0) is None


def test_a_long_file_is_looked_at_window_by_window(predictor, tmp_path, make_mp4):
    path = make_mp4(tmp_path / "long.mp4", num_frames=60, fps=1)
    [tube] = predictor.ground(path, ["the red circle"])
    [at_once] = predictor.ground(path, ["the red circle"], windows="off")
    assert tube.windows == 7 and at_once.windows == 1
    assert len(tube.sampled_frames) >= len(at_once.sampled_frames) == 8
    assert tube.span is None or len(tube.boxes) == tube.end_frame - tube.begin_frame > 0
