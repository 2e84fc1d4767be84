"""The conversion itself: configuration, tokenizer, files streamed, and a result that is whole or not there."""

from __future__ import annotations

import json
import tracemalloc

import pytest
import torch
from foreign import onevision, tokenizer, write_llava_video
from safetensors.torch import load_file, save_file

import spacevllm
from spacevllm.model.configuration import SpaceVLLMConfig
from spacevllm.model.initial import write_initial
from spacevllm.model.llava_video import config_from_llava_video, plan_import
from spacevllm.model.weights import CheckpointError, copy_renamed, read_table

# config.json of lmms-lab/llava-onevision-qwen2-7b-ov (huggingface.co; PaddleMIX's tests of LLaVA quote it), with what
# LLaVA-Video-7B-Qwen2 sets otherwise as it continues it (LLaVA-NeXT, SO400M_Qwen2_7B_ov_to_video_am9.sh): one newline
# after each row, pooling by 2.
PUBLISHED = {
    "architectures": ["LlavaQwenForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "hidden_act": "silu",
    "hidden_size": 3584,
    "initializer_range": 0.02,
    "intermediate_size": 18944,
    "max_position_embeddings": 32768,
    "max_window_layers": 28,
    "mm_hidden_size": 1152,
    "mm_newline_position": "grid",
    "mm_patch_merge_type": "spatial_unpad",
    "mm_projector_type": "mlp2x_gelu",
    "mm_resampler_type": None,
    "mm_spatial_pool_mode": "bilinear",
    "mm_spatial_pool_stride": 2,
    "mm_use_im_patch_token": False,
    "mm_use_im_start_end": False,
    "mm_vision_select_feature": "patch",
    "mm_vision_select_layer": -2,
    "mm_vision_tower": "google/siglip-so400m-patch14-384",
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "sliding_window": 131072,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_sliding_window": False,
    "vocab_size": 152064,
}


@pytest.fixture
def source(tmp_path):
    return write_llava_video(tmp_path / "llava-video", onevision())


@pytest.mark.filterwarnings("error")
def test_the_published_configuration_is_our_default(tmp_path):
    config, default = config_from_llava_video(PUBLISHED, tmp_path), SpaceVLLMConfig()
    changed = {"dtype", "max_window_layers"}  # of storage, and of the sliding window that is off

    def numbers(part):
        return {key: value for key, value in part.to_dict().items() if key not in changed}

    assert numbers(config.text) == numbers(default.text)
    assert numbers(config.vision) == numbers(default.vision)
    skipped = changed | {"text_config", "vision_config"}
    ours, theirs = config.to_dict(), default.to_dict()
    assert {k: v for k, v in ours.items() if k not in skipped} == {k: v for k, v in theirs.items() if k not in skipped}
    assert config.dtype == torch.bfloat16


def test_the_published_weights_have_the_published_size():
    """The four shards of lmms-lab/LLaVA-Video-7B-Qwen2 are listed with 4.88, 4.93, 4.99 and 1.26 GB."""
    from spacevllm.model.checkpoints import expected_shapes
    from spacevllm.model.modeling import NEW_MODULES

    shapes = {n: s for n, s in expected_shapes(SpaceVLLMConfig()).items() if n.split(".")[0] not in NEW_MODULES}
    size = 2 * sum(torch.Size(shape).numel() for shape in shapes.values())
    assert round(size / 1e9, 2) == 4.88 + 4.93 + 4.99 + 1.26
    one_layer = 2 * sum(torch.Size(s).numel() for n, s in shapes.items() if "vision_tower.encoder.layers.0." in n)
    assert one_layer > 0.03e9  # with SigLIP's 27th layer it would be 16.09


@pytest.mark.parametrize(
    ("key", "value"),
    [("mm_projector_type", "linear"), ("mm_resampler_type", "qformer"), ("add_faster_video", True)],
)
def test_other_architectures_are_refused(tmp_path, key, value):
    with pytest.raises(CheckpointError, match=rf"config\.json: {key} is {value!r}, only"):
        config_from_llava_video(PUBLISHED | {key: value}, tmp_path)


def test_an_unknown_tower_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="mm_vision_tower 'openai/clip' is neither google/siglip-so400m"):
        config_from_llava_video(PUBLISHED | {"mm_vision_tower": "openai/clip"}, tmp_path)


def test_another_layout_is_a_warning(tmp_path):
    with pytest.warns(
        UserWarning, match="mm_newline_position is 'one_token'; SpaceVLLM lays frames out as with 'grid'"
    ):
        config_from_llava_video(PUBLISHED | {"mm_newline_position": "one_token"}, tmp_path)


def test_the_result_is_a_model_that_answers(tmp_path, source):
    out = tmp_path / "new" / "out"
    write_initial(plan_import(source), out)
    assert sorted(p.name for p in out.glob("model*")) == [
        *(f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)),
        "model.safetensors.index.json",
    ]
    assert json.loads((out / "config.json").read_text())["model_type"] == "spacevllm"
    index = json.loads((out / "model.safetensors.index.json").read_text())
    stored = {name for file in out.glob("*.safetensors") for name in read_table(file)}
    assert index["weight_map"].keys() == stored
    model = spacevllm.load(out)
    text = "the red circle, from 1.00s"
    assert model.processor.tokenizer(text).input_ids == tokenizer()(text).input_ids
    assert not list(out.parent.glob("*.partial"))


def test_the_seed_decides_the_fresh_modules_and_nothing_else(tmp_path, source):
    plan = plan_import(source)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_initial(plan, tmp_path / name, seed)
    bytes_of = {n: [f.read_bytes() for f in sorted((tmp_path / n).glob("*.safetensors"))] for n in "abc"}
    assert bytes_of["a"] == bytes_of["b"] and bytes_of["a"][:2] == bytes_of["c"][:2]
    assert bytes_of["a"][2] != bytes_of["c"][2]


def test_what_is_there_is_not_overwritten_and_what_is_half_done_is(tmp_path, source):
    plan, out = plan_import(source), tmp_path / "out"
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "model-00001-of-00003.safetensors").write_bytes(b"cut short")

    def killed(count):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_initial(plan, out, advance=killed)
    assert not out.exists()
    write_initial(plan, out)
    spacevllm.load(out)
    with pytest.raises(CheckpointError, match="out is there already: choose another folder or remove it"):
        write_initial(plan, out)


def test_streaming_holds_a_few_pieces_whatever_the_file(tmp_path):
    big = {f"x{i}": torch.full((4, 1 << 20), i, dtype=torch.float32) for i in range(8)}  # 128 MiB
    save_file(big, tmp_path / "in.safetensors")
    tracemalloc.start()
    copy_renamed(tmp_path / "in.safetensors", tmp_path / "out.safetensors", {f"x{i}": f"y{i}" for i in range(0, 8, 2)})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40 << 20
    copied = load_file(tmp_path / "out.safetensors")
    assert copied.keys() == {"y0", "y2", "y4", "y6"}
    assert all(torch.equal(copied[f"y{i}"], big[f"x{i}"]) for i in range(0, 8, 2))


def test_a_tokenizer_of_vocab_and_merges_becomes_one_file(tmp_path, source):
    tree = json.loads((source / "tokenizer.json").read_text())
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in tree["model"]["merges"]]
    special = {token["content"]: token["id"] for token in tree["added_tokens"]}
    (source / "vocab.json").write_text(json.dumps(tree["model"]["vocab"]))
    (source / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    (source / "added_tokens.json").write_text(json.dumps(special))
    (source / "tokenizer.json").unlink()
    write_initial(plan_import(source), tmp_path / "out")
    loaded = spacevllm.load(tmp_path / "out").processor
    text = "<|im_start|>user\nthe red circle, from 1.00s<|im_end|>"
    assert loaded.encode(text) == tokenizer()(text).input_ids
    assert loaded.end_of_turn == special["<|im_end|>"]


def test_a_tokenizer_that_does_not_fit_is_refused(source):
    (source / "tokenizer.json").rename(source / "kept")
    with pytest.raises(FileNotFoundError, match=r"has no tokenizer: neither tokenizer\.json nor vocab\.json"):
        plan_import(source)
    (source / "tokenizer.json").write_text((source / "kept").read_text().replace("<|im_end|>", "</s>"))
    (source / "tokenizer_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"the tokenizer has no <\|im_end\|>"):
        plan_import(source)
