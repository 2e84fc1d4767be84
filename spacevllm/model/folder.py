"""What a model folder says of itself, read without torch: enough to plan a run and to refuse a folder that is none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from spacevllm import calibration
from spacevllm.frame_size import FrameBudget, FrameSize
from spacevllm.model.digest import digest_of
from spacevllm.model.weights import CheckpointError, read_json, read_table, weight_files

BACKBONES = ("llava_onevision", "qwen3_vl")  # folders to start from
_NUM_FRAMES, _SQUARE, _FRAME_TOKENS, _CELL = 64, 384, 144, 32  # what configurations fill in where config.json is silent


class ModelFacts(NamedTuple):
    """model_id: name of the folder. digest: see ``digest_of``. num_frames: that it samples from a video. image_size:
    that they are resized to."""

    model_id: str
    digest: str
    num_frames: int
    image_size: FrameSize


def read_facts(path: str | Path) -> ModelFacts:
    """The facts of a model folder; no weight is read into memory.

    Raises:
        FileNotFoundError: not a model folder; the message says what is missing.
        CheckpointError: another kind of model, or a damaged file. Whether weights and configuration belong together is
            seen only when the model is loaded. ConfigError: a calibration that is none.
    """
    folder = need_local(path)
    tree = read_tree(folder)
    for file in weight_files(folder):
        read_table(file)
    need_tokenizer(folder)
    calibration.Calibration.load(folder)
    num_frames = int(tree.get("num_frames", _NUM_FRAMES))
    return ModelFacts(folder.resolve().name, digest_of(folder), num_frames, frame_size(tree))


def need_local(path: str | Path) -> Path:
    """``path`` itself; raises FileNotFoundError where it names no folder of this machine."""
    if "://" in str(path) or str(path).startswith("models:/"):
        raise FileNotFoundError(
            f"{path} is no folder of this machine: spacevllm.load(pipelines.core.models.local_model({str(path)!r})) "
            f"fetches it once"
        )
    return Path(path)


def frame_size(tree: Mapping[str, Any]) -> FrameSize:
    """That a model sees, from its ``config.json``: what the ``frame_size`` of its layout is."""
    backbone = tree.get("backbone_config") or tree
    vision = backbone.get("vision_config") or {}
    if backbone.get("model_type") != "qwen3_vl":
        return int(vision.get("image_size", _SQUARE))
    cell = vision.get("patch_size", _CELL // 2) * vision.get("spatial_merge_size", 2)
    return FrameBudget(int(tree.get("frame_tokens", _FRAME_TOKENS)), int(cell))


def read_tree(folder: Path) -> dict[str, Any]:
    """``config.json`` of a SpaceVLLM folder, or of a backbone's.

    Raises:
        CheckpointError: another kind of model, or not JSON. FileNotFoundError: no ``config.json``.
    """
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} is not a model folder: it has no config.json")
    tree = read_json(folder / "config.json")
    if "mm_vision_tower" in tree:
        raise CheckpointError(f"{folder} is in LLaVA-NeXT's format: `spacevllm import-llava-video {folder} OUT` first")
    if tree.get("model_type") not in ("spacevllm", *BACKBONES):
        raise CheckpointError(
            f"{folder}: model_type {tree.get('model_type')!r} is neither spacevllm nor a backbone's: "
            f"{' or '.join(BACKBONES)}"
        )
    return tree


def need_tokenizer(folder: Path) -> None:
    """Raises FileNotFoundError where there is no ``tokenizer.json``."""
    if not (folder / "tokenizer.json").is_file():
        raise FileNotFoundError(f"{folder} is not a model folder: it has no tokenizer.json")
