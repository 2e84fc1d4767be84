"""Weights from elsewhere: the same numbers as transformers' own model, and one clear error where they do not fit."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from foreign import llava_next, onevision, released, siglip, state, tokenizer, write_llava_video, write_onevision
from safetensors.torch import load_file, save_file
from tiny import clip, instance

import spacevllm
from spacevllm.model.backbones.base import Pixels
from spacevllm.model.backbones.llava_onevision import NAMES
from spacevllm.model.checkpoints import canonical, load_model
from spacevllm.model.collate import Collator
from spacevllm.model.initial import write_initial
from spacevllm.model.llava_video import config_from_llava_video, plan_import
from spacevllm.model.modeling import NEW_MODULES, SpaceVLLM
from spacevllm.model.processing import SpaceVLLMProcessor
from spacevllm.model.prompt import Kind
from spacevllm.model.weights import CheckpointError
from spacevllm.predictor import Predictor

pytestmark = pytest.mark.filterwarnings("ignore:.*lacks weights of")


@pytest.fixture(scope="module")
def hf():
    return onevision()


@pytest.fixture
def llava_video(tmp_path, hf):
    return write_llava_video(tmp_path / "llava-video", hf, torch.float32)


def convert(source, out):
    write_initial(plan_import(source), out)
    return out


def asked(model):
    """A question about a clip without queries, its answer to be learned."""
    processor = SpaceVLLMProcessor(tokenizer(), model.config)
    frames = np.random.default_rng(3).integers(0, 255, (8, 58, 58, 3), np.uint8)
    return Collator(processor)([replace(clip([instance(0, "qa")]), frames=frames)])


@torch.no_grad()
def assert_same_numbers(ours, hf):
    """Features against transformers' own, then the language model on transformers' features in LLaVA-Video's layout."""
    batch = asked(ours)
    pixels = batch.media.pixels
    values = pixels.values
    video = hf.model.get_video_features(values[None]).pooler_output[0, :-1]  # (T * P, D); its last is the newline
    features = ours.mllm.read_pixels(pixels).states
    assert features.shape == (8 * 16, 48) and features.std() > 0.1
    assert torch.allclose(features, video, atol=1e-5)
    tiles = values[:1].repeat(2, 1, 1, 1)[None]  # the base view and one tile
    image = hf.model.get_image_features(tiles, torch.tensor([[58, 58]])).pooler_output[0][:49]
    one = Pixels(values[:1], pixels.grids[:1], torch.tensor([True]))
    assert torch.allclose(ours.mllm.read_pixels(one).states, image, atol=1e-5)

    assert not (batch.tokens.kinds == Kind.QUERY).any()
    newlines = (batch.tokens.kinds == Kind.SEPARATOR)[0]
    assert newlines.sum() == 8 * 4  # after each row of each frame
    x = hf.get_input_embeddings()(batch.tokens.input_ids)[0]
    x[(batch.tokens.kinds == Kind.CELL)[0]] = video
    x[newlines] = hf.model.image_newline
    real = (batch.tokens.segments >= 0)[0]
    expected = hf(inputs_embeds=x[real][None]).logits[0, : int(real[:-1].sum())]  # (L - 1, V)
    batch.tokens.labels[0, 1:] = torch.where(real[:-1], 0, -100)  # of all positions but the last
    logits = ours(batch).logits
    assert len(logits) == len(expected) > 8 * 20 and logits.std() > 0.5
    assert torch.allclose(logits, expected, atol=1e-5)


@pytest.mark.parametrize("names", ["released", "saved", "module"])
def test_onevision_gives_transformers_own_numbers(tmp_path, hf, names):
    assert_same_numbers(spacevllm.load(write_onevision(tmp_path, hf, names)).model, hf)


def test_llava_video_gives_transformers_own_numbers(tmp_path, hf, llava_video):
    out = convert(llava_video, tmp_path / "out")
    assert_same_numbers(spacevllm.load(out).model, hf)
    plain = SpaceVLLM.from_pretrained(out, dtype=torch.float32).state_dict()
    for name, weight in load_model(out).state_dict().items():
        assert torch.equal(plain[name], weight), name


@torch.no_grad()
def test_visual_features_are_siglips_second_to_last_layer(tmp_path, llava_video):
    """Against the whole SigLIP, all three layers of it, not against another cut one."""
    model = load_model(convert(llava_video, tmp_path / "out"))
    pixels = torch.randn(2, 3, 58, 58, generator=torch.manual_seed(4))
    layers = siglip()(pixels, output_hidden_states=True).hidden_states
    assert len(layers) == 4  # what enters each layer, and what leaves the last
    expected = model.backbone.model.multi_modal_projector(layers[-2])
    images = Pixels(pixels, torch.full((2, 2), 7), torch.tensor([True, True]))
    assert torch.allclose(model.mllm.read_pixels(images).states, expected.flatten(0, 1), atol=1e-5)


def test_imported_tensors_are_bit_equal_in_bf16_and_exact_in_fp32(tmp_path, hf):
    out = convert(write_llava_video(tmp_path / "bf16", hf), tmp_path / "out")
    for dtype in (torch.bfloat16, torch.float32):
        weights = load_model(out, dtype).state_dict()
        for name, weight in hf.state_dict().items():
            assert weights[f"backbone.{name}"].dtype == dtype
            assert torch.equal(weights[f"backbone.{name}"], weight.bfloat16().to(dtype)), name


def test_what_was_loaded_is_saved_and_loaded_bit_equal(tmp_path, llava_video):
    once = spacevllm.load(convert(llava_video, tmp_path / "out"))
    once.save(tmp_path / "again")
    again = spacevllm.load(tmp_path / "again").model.state_dict()
    assert again.keys() == once.model.state_dict().keys()
    for name, weight in once.model.state_dict().items():
        assert torch.equal(again[name], weight), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bf16_onevision_loads_as_asked(tmp_path, hf, dtype):
    folder = write_onevision(tmp_path, hf)
    halved = {name: weight.bfloat16() for name, weight in load_file(folder / "model.safetensors").items()}
    save_file(halved, folder / "model.safetensors")
    model = Predictor.load(folder, dtype=dtype).model
    assert {weight.dtype for weight in model.parameters()} == {dtype}
    assert torch.equal(model.backbone.lm_head.weight, hf.lm_head.weight.bfloat16().to(dtype))


def test_tied_embeddings_need_no_lm_head_and_mind_no_copy(tmp_path):
    hf = onevision(tie=True)
    assert_same_numbers(load_model(write_onevision(tmp_path / "hf", hf)), hf)
    source = write_llava_video(tmp_path / "llava", hf, torch.float32)
    shard = source / "model-00001-of-00002.safetensors"
    weights = load_file(shard)
    save_file(weights | {"lm_head.weight": hf.lm_head.weight.clone()}, shard)
    assert_same_numbers(load_model(convert(source, tmp_path / "out")), hf)


def test_fresh_modules_come_from_the_seed_and_are_named(tmp_path, hf):
    folder = write_onevision(tmp_path / "base", hf)
    with pytest.warns(UserWarning, match=r"queries and space_decoder: they start at random \(seed 5\)"):
        model = load_model(folder, seed=5)
    again, other = load_model(folder, seed=5).state_dict(), load_model(folder, seed=6).state_dict()
    fresh = {n: w for n, w in model.state_dict().items() if n.startswith(NEW_MODULES)}
    assert len(fresh) == 7
    for name, weight in fresh.items():
        assert torch.equal(weight, again[name])
        assert name.endswith("bias") != bool(weight.any())
        assert name.endswith("bias") or not torch.equal(weight, other[name])
    assert abs(float(fresh["queries.embedding.weight"].std()) - 0.1) < 0.01  # initializer_range
    model.save_pretrained(tmp_path / "own")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_model(tmp_path / "own")


def test_fields_that_differ_from_the_folder(tmp_path, hf):
    folder = write_onevision(tmp_path, hf)
    model = load_model(folder, fields={"prompt_order": "caption_first", "decoder_attention": "learned"})
    assert model.config.prompt_order == "caption_first"
    assert "space_decoder.read_frame.0.query.weight" in model.state_dict()


def test_all_known_names_meet_in_the_modules_own(hf):
    for name in state(hf):
        spellings = (name, released(name), llava_next(name), f"backbone.{name}")
        assert {canonical(spelled, NAMES) for spelled in spellings} == {f"backbone.{name}"}
    assert canonical("model.language_model.model.norm.weight", NAMES) == "backbone.model.language_model.norm.weight"
    assert canonical("model.layers.0.self_attn.rotary_emb.inv_freq", NAMES) is None
    assert canonical("space_decoder.box_head.0.weight", NAMES) == "space_decoder.box_head.0.weight"


def edit(folder, change):
    file = folder / "model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file)


MISFITS = {
    "missing": (lambda w: w.pop("image_newline"), "1 missing: backbone.model.image_newline;"),
    "unexpected": (
        lambda w: w.update({"model.fast": torch.zeros(3)}),
        "1 unexpected: backbone.model.fast;",
    ),
    "shape": (lambda w: w.update({"image_newline": torch.zeros(7)}), r"newline \[7\] instead of \[48\];"),
    "many": (lambda w: [w.pop(n) for n in list(w) if "layers" in n], r"56 missing: (\S+, ){9}\S+ and 46 more;"),
    "twice": (lambda w: w.update({"model.image_newline": torch.zeros(48)}), "image_newline is also in"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_weights_that_do_not_fit_are_listed(tmp_path, hf, case):
    folder = write_onevision(tmp_path, hf)
    change, message = MISFITS[case]
    edit(folder, change)
    with pytest.raises(CheckpointError, match=message) as error:
        spacevllm.load(folder)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


def test_a_trained_model_without_its_decoder_is_refused(tmp_path, hf):
    load_model(write_onevision(tmp_path / "base", hf)).save_pretrained(tmp_path / "own")
    edit(tmp_path / "own", lambda w: [w.pop(n) for n in list(w) if n.startswith("space_decoder")])
    with pytest.raises(CheckpointError, match="6 missing: space_decoder"):
        load_model(tmp_path / "own")


@pytest.mark.parametrize("damage", [lambda b: b[:-100], lambda b: b[:5], lambda b: b"\xff" * 8 + b[8:], lambda b: b""])
def test_damaged_files_are_named(tmp_path, llava_video, damage):
    shard = llava_video / "model-00002-of-00002.safetensors"
    shard.write_bytes(damage(shard.read_bytes()))
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002\.safetensors is cut short or damaged"):
        plan_import(llava_video)


def test_a_missing_shard_is_named(llava_video):
    (llava_video / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks model-00001-of-00002\.safetensors"):
        plan_import(llava_video)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.pth"])
def test_pickles_are_refused_with_the_reason(tmp_path, hf, llava_video, name):
    for folder in (write_onevision(tmp_path / "hf", hf), llava_video):
        for file in folder.glob("model*"):
            file.unlink()
        torch.save({}, folder / name)
    for read in (plan_import, load_model):
        with pytest.raises(FileNotFoundError, match=rf"{name}: pickled weights are refused, since opening one runs"):
            read(llava_video if read is plan_import else tmp_path / "hf")


def test_llava_next_folders_are_to_be_imported_first(llava_video):
    with pytest.raises(CheckpointError, match=r"`spacevllm import-llava-video .* OUT` first"):
        spacevllm.load(llava_video)


def test_other_models_are_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "qwen2_vl"}')
    with pytest.raises(CheckpointError, match="'qwen2_vl' is neither spacevllm nor a backbone's: llava_onevision"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json is not valid JSON"):
        load_model(tmp_path)
    with pytest.raises(CheckpointError, match="not that of a LLaVA-NeXT model on Qwen2: no vocab_size"):
        config_from_llava_video({}, tmp_path)
