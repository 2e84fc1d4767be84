"""Where the subject is: Grounding DINO on two frames a second of the rough interval."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from pydantic import Field

from spacevllm.config import Config, ConfigError
from spacevllm.data.synthesis.sample import Caption, Clip, Rejected

Found = list[tuple[np.ndarray, np.ndarray]]  # a frame: boxes (K, 4) xyxy pixels, scores (K,)


class AnnotatorOptions(Config):
    """How subjects are looked for.

    Attributes:
        rate: annotated frames a second. The paper does not tell its own.
        threshold: least confidence of a box.
        batch_frames: frames that go through the detector, and are held in memory, at a time.
    """

    rate: float = Field(default=2.0, gt=0)
    threshold: float = Field(default=0.3, ge=0, le=1)
    batch_frames: int = Field(default=8, ge=1)


class Annotator(Protocol):
    """Finds a phrase on frames. ``frames`` is (T, H, W, 3) uint8 RGB, ``indices`` (T,) their numbers in ``media``."""

    def __call__(self, media: str, indices: np.ndarray, frames: np.ndarray, phrase: str) -> Found: ...


def rough_frames(caption: Caption, clip: Clip) -> tuple[int, int]:
    """The rough interval in frames, half-open, cut to the video.

    Raises:
        Rejected: ``outside``: it begins after the video ends.
    """
    begin = round(caption.begin_s * clip.fps)
    end = min(round(caption.end_s * clip.fps), clip.num_frames)
    if begin >= end:
        told, there = f"[{caption.begin_s:g}, {caption.end_s:g}) s", f"{clip.duration_s:.2f} s"
        raise Rejected("outside", f"interval {told} in a video of {there}")
    return begin, end


def annotated_count(begin: int, end: int, fps: Fraction, rate: float) -> int:
    """Frames to look at, ``rate`` a second and both ends included."""
    return min(end - begin, math.ceil((end - begin) / fps * rate) + 1)


class GroundingDino:
    """Grounding DINO (Liu et al. 2023) as transformers has it.

    Args:
        model: folder or hub name, such as ``IDEA-Research/grounding-dino-tiny``.
        device: torch's name; ``""`` takes a GPU if there is one.
        threshold: least confidence of a box.

    Raises:
        ConfigError: the model cannot be loaded.
    """

    def __init__(self, model: str | Path, device: str = "", threshold: float = 0.3) -> None:
        import torch
        from transformers import AutoTokenizer, GroundingDinoForObjectDetection

        # by its module: the name without "Pil" needs torchvision, which has no build for every machine
        from transformers.models.grounding_dino.image_processing_pil_grounding_dino import (
            GroundingDinoImageProcessorPil,
        )

        self.threshold = threshold
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(model)
            self.images: Any = GroundingDinoImageProcessorPil.from_pretrained(model)
            loaded: Any = GroundingDinoForObjectDetection.from_pretrained(model)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ConfigError(f"annotator.model {model}: no Grounding DINO there: {reason}") from None
        self.model = loaded.to(self.device).eval()

    def __call__(self, media: str, indices: np.ndarray, frames: np.ndarray, phrase: str) -> Found:
        import torch

        text = f"{phrase.lower().strip().rstrip('.')}."  # lower case and a full stop: how the model was trained
        words = self.tokenizer([text] * len(frames), return_tensors="pt", return_token_type_ids=True)
        pixels = self.images(images=list(frames), return_tensors="pt")
        with torch.inference_mode():
            output = self.model(**words.to(self.device), **pixels.to(self.device))
        # a box is as likely as its best word: the largest logit is its score
        sizes = torch.tensor([frames.shape[1:3]] * len(frames))  # (T, 2) height, width
        results = self.images.post_process_object_detection(output, self.threshold, sizes)
        return [(r["boxes"].float().cpu().numpy(), r["scores"].float().cpu().numpy()) for r in results]
