"""Does a Qwen3-VL of random weights learn boxes here? Referring expressions in Moving Shapes' still images.

    python -m benchmarks.qwen3_vl_stills --data runs/demo/data

A Qwen3-VL of a million weights goes through ``spacevllm init`` and ``train`` (visual tokens against captions first,
then boxes, as ``tiny.yaml`` does it), then held-out stills are scored beside a box in the middle of the picture.
"""

from __future__ import annotations

import argparse
import json
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

import spacevllm
from benchmarks.common import RESULTS, facts, write_result
from jobs.cli import main as command
from pipelines.train.data import read_instances
from spacevllm.evaluation.scoring import evaluate
from spacevllm.model.backbones.qwen3_vl import VISION_END, VISION_START
from spacevllm.model.tokenizer import build_tiny_tokenizer, prompt_texts

ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [8, 4, 4], "mrope_interleaved": True}
TEXT: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 320,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "initializer_range": 0.04,
    "rope_parameters": ROPE,
    "tie_word_embeddings": True,
}
TOWER: dict[str, Any] = {
    "depth": 3,
    "hidden_size": 96,
    "intermediate_size": 256,
    "num_heads": 4,
    "patch_size": 8,
    "out_hidden_size": 128,
    "num_position_embeddings": 64,
    "deepstack_visual_indexes": [0, 1],
}
FIELDS = {"num_frames": 8, "frame_tokens": 20, "decoder_hidden_size": 256, "wordings": "one", "system_prompt": ""}


def recipe(align: int, stills: int) -> dict[str, Any]:
    """Steps of the two phases → a training configuration; the rates are ``tiny.yaml``'s."""
    source = {"media": "image", "tasks": ["rec"], "questions": 5}
    captions = {"sources": "captions", "objective": "align", "steps": align, "batch_size": 32, "learning_rate": 2.0}
    return {
        "sources": {"captions": source, "stills": source},
        "phases": {"align": captions, "stills": {"sources": "stills", "steps": stills, "batch_size": 16}},
        "criterion": {"attention": 1.0, "pointer": 1.0, "box_frames": "visible"},
        "train": {
            "optimizer": "muon",
            "learning_rate": 1e-3,
            "learning_rates": {"queries": 2e-3, "decoder": 2e-3},
            "muon_lr_scale": 2.0,
            "weight_decay": 0.01,
            "warmup": 0.04,
            "final_lr": 0.02,
            "keep_clips": True,
        },
        "workers": {"num_workers": 2, "zero_stage": 0},
    }


def write_backbone(folder: Path, data: str) -> None:
    """Random weights in Qwen3-VL's published layout, with a tokenizer of the data's words."""
    words = build_tiny_tokenizer(prompt_texts(read_instances(data, "train")[::20]), 640, (VISION_START, VISION_END))
    text = TEXT | {"vocab_size": len(words)}
    config = Qwen3VLConfig(text_config=text, vision_config=TOWER, tie_word_embeddings=True)
    torch.manual_seed(0)
    Qwen3VLForConditionalGeneration(config).save_pretrained(folder)
    words.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="runs/demo/data", help="a Moving Shapes data set with images")
    parser.add_argument("--work", type=Path, default=Path("runs/qwen3_vl_stills"))
    parser.add_argument("--align", type=int, default=500, help="steps")
    parser.add_argument("--stills", type=int, default=600, help="steps")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    work = options.work
    if not (work / "start" / "config.json").exists():
        write_backbone(work / "backbone", options.data)
        fields = [f"fields.{name}={json.dumps(value)}" for name, value in FIELDS.items()]
        run("init", "--backbone", work / "backbone", "--out", work / "start", *fields)
    config = recipe(options.align, options.stills) | {"model": {"init": str(work / "start")}}
    (work / "train.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    run("train", "--config", work / "train.yaml", "--data", options.data, "--out", work / "training")
    steps = {"align_steps": options.align, "stills_steps": options.stills}
    result = facts("cpu") | steps | {"scores": held_out(work / "training/model", options.data)}
    print(write_result("qwen3_vl_stills", result, options.out))


def held_out(model: Path, data: str) -> dict[str, Any]:
    """Scores of expressions about images of the split ``test``, beside the baselines'."""
    predictor = spacevllm.load(model)
    instances = [instance for instance in read_instances(data, "test") if instance.task == "rec"]
    answers: dict[str, Any] = {}
    for media, group in groupby(sorted(instances, key=lambda i: i.media), key=lambda i: i.media):
        about = list(group)
        boxes = predictor.locate(Path(data, media), [instance.question for instance in about])
        answers |= {instance.id: box for instance, box in zip(about, boxes, strict=True)}
    scores, _ = evaluate(instances, answers)
    return scores["rec"]


def run(*arguments: object) -> None:
    if status := command([str(argument) for argument in arguments]):
        sys.exit(status)


if __name__ == "__main__":
    main()
