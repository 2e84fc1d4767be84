"""What a model folder says of itself, read without torch: enough to plan a run and to refuse a folder that is none."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

from spacevllm import calibration
from spacevllm.model.weights import CheckpointError, read_json, read_table, weight_files

_PAPERS = {"num_frames": 64, "image_size": 384}  # what SpaceVLLMConfig fills in where config.json says nothing


class ModelFacts(NamedTuple):
    """model_id: name of the folder. digest: see ``digest_of``. num_frames: that it samples from a video. image_size:
    side of the square they are resized to, in pixels."""

    model_id: str
    digest: str
    num_frames: int
    image_size: int


def read_facts(path: str | Path) -> ModelFacts:
    """The facts of a model folder; no weight is read into memory.

    Raises:
        FileNotFoundError: not a model folder; the message says what is missing.
        CheckpointError: another kind of model, or a damaged file. Whether weights and configuration belong together is
            seen only when the model is loaded. ConfigError: a calibration that is none.
    """
    folder = Path(path)
    tree = read_tree(folder)
    for file in weight_files(folder):
        read_table(file)
    need_tokenizer(folder)
    calibration.Calibration.load(folder)
    size = tree.get("vision_config", {}).get("image_size", _PAPERS["image_size"])
    num_frames = tree.get("num_frames", _PAPERS["num_frames"])
    return ModelFacts(folder.resolve().name, digest_of(folder), int(num_frames), int(size))


def read_tree(folder: Path) -> dict[str, Any]:
    """``config.json`` of a SpaceVLLM or LLaVA-OneVision folder.

    Raises:
        CheckpointError: another kind of model, or not JSON. FileNotFoundError: no ``config.json``.
    """
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} is not a model folder: it has no config.json")
    tree = read_json(folder / "config.json")
    if "mm_vision_tower" in tree:
        raise CheckpointError(f"{folder} is in LLaVA-NeXT's format: `spacevllm import-llava-video {folder} OUT` first")
    if tree.get("model_type") not in ("spacevllm", "llava_onevision"):
        raise CheckpointError(
            f"{folder}: model_type {tree.get('model_type')!r} is neither spacevllm nor llava_onevision"
        )
    return tree


def need_tokenizer(folder: Path) -> None:
    """Raises FileNotFoundError where there is no ``tokenizer.json``."""
    if not (folder / "tokenizer.json").is_file():
        raise FileNotFoundError(f"{folder} is not a model folder: it has no tokenizer.json")


def digest_of(folder: Path) -> str:
    """16 hex digits of the SHA-256 of weights and calibration: answers change with either."""
    sha = hashlib.sha256()
    for file in [*weight_files(folder), *folder.glob(calibration.FILE)]:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                sha.update(block)
    return sha.hexdigest()[:16]
