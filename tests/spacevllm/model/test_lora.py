"""LoRA: nothing changes until it learns, only what should learn does, and merged equals unmerged."""

from __future__ import annotations

import json
import re
from copy import deepcopy

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tiny import BACKBONES, clip, instance, make

import spacevllm
from spacevllm.model.collate import Collator
from spacevllm.model.lora import add_lora, fold_lora, merge_lora, save_adapter
from spacevllm.model.weights import CheckpointError
from spacevllm.predictor import Predictor

LEARNED = r"backbone\.model\.language_model\.layers\.\d\.\w+\.(q|k|v|o|gate|up|down)_proj\.lora_[AB]\.default\.weight"


def outputs(model, processor):
    """Logits and boxes of two questions about a clip, computed in fp64: what differs then are the fp32 weights."""
    with torch.no_grad():
        out = deepcopy(model).double()(Collator(processor)([clip([instance(0), instance(1)])]))
    return torch.cat([out.logits.flatten(), out.space.boxes.flatten()])


def trained(rank=4, alpha=8, backbone="llava_onevision"):
    """A model whose adapter, queries and decoder are no longer what they were."""
    model, processor = make(backbone=backbone)
    add_lora(model, rank, alpha)
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return model, processor


def test_a_fresh_adapter_changes_nothing_and_keeps_the_class():
    model, processor = make()
    before = outputs(model, processor)
    assert add_lora(model, 4, 8) is model
    assert torch.equal(outputs(model, processor), before)
    assert model.peft_config["default"].r == 4 and model.peft_config["default"].lora_alpha == 8


@pytest.mark.parametrize(("backbone", "layers"), [("llava_onevision", 2), ("qwen3_vl", 4)])
def test_only_adapter_queries_and_decoder_learn(backbone, layers):
    model, _ = make(backbone=backbone)
    add_lora(model, 4, 8)
    learned = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    adapter = {name for name in learned if re.fullmatch(LEARNED, name)}
    assert len(adapter) == layers * 7 * 2  # layers, projections, A and B; SigLIP's q_proj is none of them
    assert {name.split(".")[0] for name in learned - adapter} == {"queries", "space_decoder"}
    assert len(learned - adapter) == 7


def test_the_recipes_default():
    model, _ = make()
    config = add_lora(model).peft_config["default"]
    assert (config.r, config.lora_alpha, config.lora_dropout, config.bias) == (128, 256, 0.0, "none")


@pytest.mark.parametrize("backbone", BACKBONES)
def test_folded_equals_unfolded_and_is_a_plain_model(backbone):
    model, processor = trained(backbone=backbone)
    plain, _ = make(backbone=backbone)
    names = set(plain.state_dict())
    expected = outputs(model, processor)
    assert not torch.allclose(outputs(plain, processor), expected, atol=1e-2)
    assert torch.allclose(outputs(fold_lora(model), processor), expected, atol=1e-5)
    assert set(model.state_dict()) == names and not hasattr(model, "peft_config")


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_saved_adapter_merges_into_a_plain_folder(tmp_path, backbone):
    base, processor = make(backbone=backbone)
    Predictor(base, processor).save(tmp_path / "base")
    model, _ = trained(backbone=backbone)
    save_adapter(model, tmp_path / "adapter")
    expected = outputs(model, processor)
    loaded = spacevllm.load(tmp_path / "base")
    merge_lora(loaded.model, tmp_path / "adapter")
    loaded.save(tmp_path / "merged")
    merged = spacevllm.load(tmp_path / "merged")
    assert torch.allclose(outputs(merged.model, merged.processor), expected, atol=1e-5)
    assert torch.equal(merged.model.queries.embedding.weight, model.queries.embedding.weight)


def test_peft_itself_reads_the_adapter_and_its_own_is_read(tmp_path):
    model, processor = trained()
    save_adapter(model, tmp_path / "ours")
    wrapped = PeftModel.from_pretrained(make()[0], tmp_path / "ours")
    wrapped.save_pretrained(tmp_path / "peft")
    ours, pefts = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("ours", "peft"))
    assert ours.keys() == pefts.keys() and all(torch.equal(weight, pefts[name]) for name, weight in ours.items())
    by_peft = wrapped.merge_and_unload()
    by_us = merge_lora(make()[0], tmp_path / "peft")
    assert torch.allclose(outputs(by_us, processor), outputs(by_peft.eval(), processor), atol=1e-5)
    assert torch.equal(by_us.queries.embedding.weight, make()[0].queries.embedding.weight)  # nothing lay beside it


def test_a_gathered_state_dict_can_be_saved_in_place_of_the_models(tmp_path):
    model, _ = trained()
    gathered = {name: weight.detach() + 1 for name, weight in model.state_dict().items()}
    save_adapter(model, tmp_path, gathered)
    beside = load_file(tmp_path / "non_lora_trainables.safetensors")
    assert torch.equal(beside["queries.embedding.weight"], model.queries.embedding.weight + 1)


def refused(folder, message, error=CheckpointError):
    with pytest.raises(error, match=message):
        merge_lora(make()[0], folder)


def test_adapters_that_do_not_fit_are_refused(tmp_path):
    save_adapter(trained()[0], tmp_path)
    file, config = tmp_path / "adapter_model.safetensors", tmp_path / "adapter_config.json"
    weights, tree = load_file(file), json.loads(config.read_text())
    some = next(iter(weights))
    save_file({n: w for n, w in weights.items() if n != some}, file)
    refused(tmp_path, rf"1 missing: {re.escape(some)}; was the adapter trained on this model\?")
    save_file(weights | {some: torch.zeros(2, 2)}, file)
    refused(tmp_path, r"1 of another shape: .* \[2, 2\] instead of")
    file.write_bytes(file.read_bytes()[:-9])
    refused(tmp_path, r"adapter_model\.safetensors is cut short or damaged")
    config.write_text(json.dumps(tree | {"peft_type": "IA3"}))
    save_file(weights, file)
    refused(tmp_path, "peft_type is 'IA3', not LORA")
    file.unlink()
    torch.save({}, tmp_path / "adapter_model.bin")
    refused(tmp_path, r"it has no adapter_model\.safetensors \(pickled weights are refused\)", FileNotFoundError)


def test_what_was_trained_beside_it_must_be_of_the_model(tmp_path):
    save_adapter(trained()[0], tmp_path)
    save_file({"classifier.weight": torch.zeros(3)}, tmp_path / "non_lora_trainables.safetensors")
    refused(tmp_path, r"non_lora_trainables\.safetensors: .* 1 unexpected: classifier\.weight")
