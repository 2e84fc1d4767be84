"""Saved in the Hugging Face way, loaded back bit-equal; pickles are refused."""

from __future__ import annotations

import pytest
import torch
from tiny import clip, instance, make

import spacevllm
from spacevllm.model.backbones import layout_of
from spacevllm.model.checkpoints import load_model
from spacevllm.model.collate import Collator
from spacevllm.model.configuration import SpaceVLLMConfig, tiny_config
from spacevllm.model.modeling import SpaceVLLM
from spacevllm.model.processing import SpaceVLLMProcessor
from spacevllm.predictor import Predictor


def test_save_and_load_are_bit_equal(tmp_path):
    model, processor = make()
    batch = Collator(processor)([clip([instance(0)])])
    Predictor(model, processor).save(tmp_path / "model")
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    loaded = spacevllm.load(tmp_path / "model")
    assert loaded.digest and loaded.model_id == "model"
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, loaded.model.state_dict()[name]), name
    again = Collator(loaded.processor)([clip([instance(0)])])
    assert torch.equal(again.tokens.input_ids, batch.tokens.input_ids)
    assert torch.equal(loaded.model(again).space.boxes, model(batch).space.boxes)


def test_other_code_can_load_it_too(tmp_path):
    model, processor = make()
    Predictor(model, processor).save(tmp_path)
    plain = SpaceVLLM.from_pretrained(tmp_path)
    assert torch.equal(plain.queries.embedding.weight, model.queries.embedding.weight)


def test_pickles_are_refused(tmp_path):
    model, processor = make()
    Predictor(model, processor).save(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="pickled weights are refused"):
        spacevllm.load(tmp_path)


def test_modules_that_other_fields_add_are_fresh_and_the_rest_is_kept(tmp_path):
    model, processor = make()
    Predictor(model, processor).save(tmp_path)
    with pytest.warns(UserWarning, match=r"lacks weights of space_decoder: they start at random \(seed 3\)"):
        other = load_model(tmp_path, seed=3, fields={"decoder_attention": "learned"})
    added = other.state_dict().keys() - model.state_dict().keys()
    assert added and all(name.startswith("space_decoder.") for name in added)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, other.state_dict()[name]), name


def test_a_folder_that_is_no_model_says_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        spacevllm.load(tmp_path)


def test_the_defaults_are_the_papers():
    config = SpaceVLLMConfig()
    layout = layout_of(config)
    assert (config.num_frames, config.num_queries, layout.frame_size) == (64, 65, 384)
    assert layout.grid(384, 384, is_image=False) == (14, 14) and layout.grid(384, 384, is_image=True) == (27, 27)
    assert config.decoder_attention == "parameter_free" and config.time_encoding == "list"
    assert (
        config.backbone.vision_feature_layer == -1 and config.vision.num_hidden_layers == 26
    )  # SigLIP's 26th of 27 layers
    assert config.tower_frames == 1
    assert (config.text.hidden_size, config.text.num_hidden_layers, config.text.vocab_size) == (3584, 28, 152064)


def test_a_frame_costs_210_tokens_and_its_query_at_full_size():
    _, processor = make()
    processor = SpaceVLLMProcessor(processor.tokenizer, SpaceVLLMConfig())
    one, two = (len(processor.video_prefix([0.0] * n, 9.0, (14, 14)).ids) for n in (63, 64))
    times = len(processor.encode(",0.00s"))
    assert two - one == 210 + 1 + times


def test_num_frames_beyond_the_queries_is_an_error():
    with pytest.raises(ValueError, match="queries exist for 1 to 64"):
        tiny_config(300, num_frames=65)
