"""SpaceVLLM: when and where, in plain words, in any video.

model = spacevllm.load("runs/demo/model")
[tube] = model.ground("clip.mp4", ["the small red circle while it moves left"])
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from spacevllm.imports import no_garbage

if TYPE_CHECKING:
    from spacevllm.predictor import Predictor

__version__ = "0.1.0"


def load(path: str | Path, device: str = "cpu") -> Predictor:
    """The predictor in a model folder; see ``Predictor.load``."""
    with no_garbage():
        from spacevllm.predictor import Predictor  # torch takes seconds, and scoring does not need it

    return Predictor.load(path, device)
