"""Qwen3-VL as a backbone: the same numbers as transformers' own model, whose processor gives every frame twice."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import QWEN3_VL_FIELDS, clip, instance, make, text_clip, write_qwen3_vl
from transformers import Qwen3VLForConditionalGeneration

from spacevllm.frame_size import FrameBudget
from spacevllm.model.backbones.qwen3_vl import VISION_END, VISION_START
from spacevllm.model.checkpoints import load_model
from spacevllm.model.collate import Collator
from spacevllm.model.criterion import Criterion, CriterionConfig
from spacevllm.model.memory import ask, prefill
from spacevllm.model.processing import Question
from spacevllm.model.prompt import Kind
from spacevllm.predictor import Predictor

pytestmark = pytest.mark.filterwarnings("ignore:.*lacks weights of")
HEIGHT, WIDTH = 32, 48  # 2x3 cells


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A Qwen3-VL folder as it is published: config, tokenizer, shards; and transformers' model of it."""
    folder = write_qwen3_vl(tmp_path_factory.mktemp("qwen3-vl"))
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    return folder, Qwen3VLForConditionalGeneration.from_pretrained(folder).eval()


def theirs(hf, ids, kinds, frames):
    """transformers' logits, (L, V); frames: (T, H, W, 3) uint8, each given twice to its two-frame patches."""
    vision = hf.config.vision_config
    patch, merge, (count, height, width, _) = vision.patch_size, vision.spatial_merge_size, frames.shape
    x = torch.from_numpy(frames).float().permute(0, 3, 1, 2).repeat_interleave(2, 0) / 127.5 - 1  # (2T, 3, H, W)
    rows, columns = height // patch // merge, width // patch // merge
    x = x.view(count, 2, 3, rows, merge, patch, columns, merge, patch).permute(0, 3, 6, 4, 7, 2, 1, 5, 8)
    cell = torch.tensor(kinds) == Kind.CELL
    out = hf(
        input_ids=torch.where(cell, hf.config.video_token_id, torch.tensor(ids))[None],
        mm_token_type_ids=(2 * cell.int())[None],
        pixel_values_videos=x.reshape(-1, 3 * 2 * patch**2),
        video_grid_thw=torch.tensor([[count, height // patch, width // patch]]),
    )
    return out.logits[0]


@torch.no_grad()
@pytest.mark.parametrize("size", [(HEIGHT, WIDTH), (48, 32), (16, 96)])
@pytest.mark.parametrize("outer", [False, True])
def test_logits_are_transformers_own(released, size, outer):
    folder, hf = released
    fields = QWEN3_VL_FIELDS | {"queries_in_text_tasks": False, "outer_vision_tokens": outer}
    predictor = Predictor.load(folder, fields=fields)
    model, processor = predictor.model, predictor.processor
    batch = Collator(processor)([clip([instance(0, "qa")], size=size)])
    tokens = batch.tokens
    assert not (tokens.kinds == Kind.QUERY).any()
    real = (tokens.segments >= 0)[0]
    frames = clip([instance(0, "qa")], size=size).frames
    expected = theirs(hf, tokens.input_ids[0][real].tolist(), tokens.kinds[0][real].tolist(), frames)
    tokens.labels[0, 1:] = torch.where(real[:-1], 0, -100)  # of all positions but the last
    logits = model(batch).logits
    assert len(logits) == len(expected) - 1 and logits.std() > 0.5
    assert torch.allclose(logits, expected[:-1], atol=1e-5, rtol=1e-5)


def test_the_prompt_is_qwens(released):
    predictor = Predictor.load(released[0], fields=QWEN3_VL_FIELDS)
    prefix = predictor.processor.video_prefix([0.0, 1.26], 2.0, (2, 3))
    pieces = [predictor.processor.tokenizer.decode(i) if k == Kind.TEXT else f"({k})"
              for i, k in zip(prefix.ids, prefix.kinds, strict=True)]  # fmt: skip
    frame = f"{VISION_START}{f'({Kind.CELL})' * 6}{VISION_END}({Kind.QUERY})"
    expected = f"<|im_start|>user\n<0.0 seconds>{frame}<1.3 seconds>{frame}"
    assert "".join(pieces).replace(" ", "") == expected.replace(" ", "")
    assert prefix.query_ids == [0, 1]


def test_positions_are_transformers_own(released):
    _, hf = released
    _, processor = make(backbone="qwen3_vl")
    prefix = processor.video_prefix([0.0, 1.0, 2.0], 3.0, (2, 3))
    cell = torch.tensor(prefix.kinds) == Kind.CELL
    theirs, _ = hf.model.get_rope_index(
        torch.tensor([prefix.ids]), (2 * cell.int())[None], video_grid_thw=torch.tensor([[3, 4, 6]])
    )
    ours = processor.layout.positions(prefix)
    assert np.array_equal(ours, theirs[:, 0].numpy())
    assert processor.layout.next_position(prefix) == int(theirs.max()) + 1 < len(prefix.ids)


@torch.no_grad()
def test_dropping_deepstack_would_be_seen(released):
    model = load_model(released[0], fields=QWEN3_VL_FIELDS)
    _, processor = make(backbone="qwen3_vl")
    batch = Collator(processor)([clip([instance(0)], size=(HEIGHT, WIDTH))])
    whole = model(batch).logits
    model.backbone.model.visual.deepstack_merger_list.requires_grad_(False)
    for merger in model.backbone.model.visual.deepstack_merger_list:
        merger.linear_fc2.weight.zero_()
        merger.linear_fc2.bias.zero_()
    assert (model(batch).logits - whole).abs().max() > 0.1


def test_clips_of_several_shapes_share_a_batch():
    """Each as if it were alone: cells are padded, boxes' shares lie on each one's own grid."""
    model, processor = make(backbone="qwen3_vl")
    clips = [
        clip([instance(0), instance(1)], 0, (HEIGHT, WIDTH)),
        clip([instance(2)], 1, (48, 16)),
        clip([instance(0, "rec")], 2, (16, 64)),
        text_clip(1),
    ]
    criterion = Criterion(CriterionConfig(attention=1.0, pointer=1.0, box_frames="visible"))
    together = Collator(processor)(clips)
    assert (together.media.visual_index >= 0).sum((1, 2)).tolist() == [8 * 6, 8 * 3, 4, 0]
    sums = criterion.sums(model(together, pointer=True), together)
    apart = []
    for one in clips:
        batch = Collator(processor)([one])
        apart.append(criterion.sums(model(batch, pointer=True), batch))
    for name, value in sums.items():
        assert torch.allclose(value, sum(a[name] for a in apart), atol=1e-3, rtol=1e-5), name


def test_text_alone_touches_every_weight_that_a_video_does():
    model, processor = make(backbone="qwen3_vl")

    def without_gradient(clips):
        model.zero_grad(set_to_none=True)
        batch = Collator(processor)(clips)
        Criterion(CriterionConfig(pointer=1.0))(model(batch, pointer=True), batch)["loss"].backward()
        return {name for name, p in model.named_parameters() if p.grad is None}

    seen = without_gradient([clip([instance(0)], size=(HEIGHT, WIDTH))])
    assert without_gradient([text_clip(0)]) == seen == set()


def test_frames_keep_their_shape_within_the_budget():
    budget = FrameBudget(144, 32)
    assert budget.fit(1920, 1080) == budget.fit(640, 360) == (512, 288)
    assert budget.fit(1080, 1920) == (288, 512)
    assert budget.fit(100, 70) == (96, 64)  # not enlarged
    assert budget.fit(8, 8) == (32, 32)
    for width, height in ((5000, 20), (20, 5000), (7680, 4320), (33, 4001), (640, 640)):
        columns, rows = (side // 32 for side in budget.fit(width, height))
        assert 1 <= columns * rows <= 144
        assert budget.fit(columns * 32, rows * 32) == (columns * 32, rows * 32)


def test_a_video_is_asked_as_it_was_trained(make_mp4, tmp_path):
    """From a file in its own shape to boxes in its pixels."""
    model, processor = make(backbone="qwen3_vl")
    video = make_mp4(tmp_path / "wide.mp4", size=(128, 64))
    answers = Predictor(model, processor).ground(video, ["the red circle", "a blue square"])
    for answer in answers:
        assert answer.sampled_boxes.shape == (8, 4)
        assert (answer.sampled_boxes <= [128, 64, 128, 64]).all() and (answer.sampled_boxes >= 0).all()
    frames = Predictor(model, processor)._frames(video).frames
    assert frames.shape == (8, 16, 48, 3)
    sample = replace(clip([instance(1)]), frames=frames)
    trained = model(Collator(processor)([sample]))
    prefix = processor.video_prefix(sample.times_s.tolist(), sample.duration_s, (1, 3))
    memory = prefill(model, prefix, processor.pixels(frames))
    question = Question("stvg", sample.instances[0].question)
    [answer] = ask(model, memory, [processor.segment(question)], processor.end_of_turn, 2)
    assert torch.allclose(answer.boxes, trained.space.boxes[0], atol=1e-5)


def test_saved_and_loaded_it_is_the_same(tmp_path, released):
    model = load_model(released[0], fields=QWEN3_VL_FIELDS)
    Predictor(model, make(backbone="qwen3_vl")[1]).save(tmp_path / "own")
    names = set(load_file(tmp_path / "own" / "model.safetensors"))
    assert "backbone.model.visual.patch_embed.proj.weight" in names and "queries.embedding.weight" in names
    assert json.loads((tmp_path / "own" / "config.json").read_text())["backbone_config"]["model_type"] == "qwen3_vl"
    again = load_model(tmp_path / "own").state_dict()
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, again[name]), name
