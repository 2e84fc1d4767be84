"""Stand-ins for the two models of the synthesis pipeline that know the truth of Moving Shapes and see it through noise.

With them the pipeline runs without any download, and what it makes can be held against what is true.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import yaml
from pydantic import Field

from spacevllm.config import Config
from spacevllm.data.instance import Instance, instance_id
from spacevllm.data.moving_shapes.draws import scene_rng
from spacevllm.data.moving_shapes.language import VERBS, descriptions, single_out
from spacevllm.data.moving_shapes.sampling import make_scene
from spacevllm.data.moving_shapes.world import SHAPES, MovingShapesConfig, Scene
from spacevllm.data.synthesis.sample import Caption

SOURCE = "moving_shapes"
_HIDDEN = 0.05  # a thing of which less is visible has no box
_BORDER_S = 5  # rough intervals are annotated in steps of so many seconds, as in DiDeMo
_SUBJECT = re.compile(rf"\b(?:the|a|an) (?:\w+ )*?(?:{'|'.join(SHAPES)}|shape)\b", re.IGNORECASE)


class Noise(Config):
    """What is wrong with the detections.

    Attributes:
        miss: chance that a thing that is seen is not found on a frame.
        jitter: standard deviation of every border of a box, in shares of the box's side.
        false_boxes: mean number of boxes a frame that show nothing (Poisson).
        seed: of all of it.
    """

    miss: float = Field(default=0.0, ge=0, le=1)
    jitter: float = Field(default=0.0, ge=0)
    false_boxes: float = Field(default=0.0, ge=0)
    seed: int = 0


def captions(scene: Scene, media: str) -> Iterator[tuple[Caption, Instance]]:
    """One caption for each thing that words can single out, and the truth: where that thing is seen.

    The rough interval holds the truth and ends on multiples of five seconds (or at the end of the video).
    """
    rng = scene_rng(scene.config, scene.split, scene.index, 4)
    for who, thing in enumerate(scene.things):
        description = single_out(rng, thing, scene.things)
        frames = np.flatnonzero(scene.visible[who] >= _HIDDEN)
        if description is None or not len(frames):
            continue
        text = f"{description.text()} {VERBS[thing.phases[0].action][0][0]}"
        fps, duration = scene.config.fps, scene.num_frames / scene.config.fps
        begin, end = int(frames[0]), int(frames[-1]) + 1
        rough_begin = math.floor(begin / fps / _BORDER_S) * _BORDER_S
        rough_end = min(math.ceil(end / fps / _BORDER_S) * _BORDER_S, duration)
        name = instance_id(SOURCE, "caption", scene.config.seed, media, who)
        truth = Instance(
            id=name, task="stvg", source=SOURCE, split=scene.split, media=media, media_type="video", question=text,
            begin_frame=begin, end_frame=end, begin_s=begin / fps, end_s=end / fps, box_frames=frames.tolist(),
            boxes=scene.boxes[who, frames].tolist(), fps_num=fps, num_frames=scene.num_frames,
            width=scene.config.width, height=scene.config.height, duration_s=duration,
        )  # fmt: skip
        yield Caption(name, SOURCE, scene.split, media, text, rough_begin, rough_end), truth


def name_subject(messages: Sequence[dict[str, str]]) -> str:
    """Answers the analyzer's question as a language model would: JSON with the things that the caption names."""
    caption = messages[-1]["content"]
    return json.dumps({"objects": [found.lower() for found in _SUBJECT.findall(caption)]})


class TruthDetector:
    """Finds a phrase among the things of a scene; every thing that the phrase fits has a box."""

    def __init__(self, config: MovingShapesConfig, noise: Noise) -> None:
        self.config, self.noise = config, noise

    @classmethod
    def of_folder(cls, folder: str | Path, noise: Noise) -> TruthDetector:
        """For the videos of a data set that ``spacevllm moving-shapes`` wrote."""
        tree = yaml.safe_load(Path(folder, "moving_shapes.yaml").read_text())
        return cls(MovingShapesConfig.model_validate(tree), noise)

    def detect(self, media: str, indices: np.ndarray, phrase: str) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each of (T,) frames: boxes (K, 4) xyxy pixels and scores (K,), as a detector gives them.

        Args:
            media: ``.../<split>/<index>.mp4``.
        """
        path = Path(media)
        scene = make_scene(self.config, path.parent.name, int(path.stem))
        return detect(scene, indices, phrase, self.noise)


def detect(scene: Scene, indices: np.ndarray, phrase: str, noise: Noise) -> list[tuple[np.ndarray, np.ndarray]]:
    """The same for a scene that is at hand; a pure function of its arguments, whatever else is asked for."""
    fitting = [n for n, thing in enumerate(scene.things) if phrase in {d.text() for d in descriptions(thing)}]
    return [_see(scene, int(frame), fitting, phrase, noise) for frame in indices]


def _see(scene: Scene, frame: int, who: list[int], phrase: str, noise: Noise) -> tuple[np.ndarray, np.ndarray]:
    key = instance_id(noise.seed, scene.config.seed, scene.split, scene.index, frame, phrase)
    rng = np.random.default_rng(int(key, 16))
    canvas = np.array([scene.config.width, scene.config.height] * 2)
    boxes, scores = [], []
    for n in who:
        if scene.visible[n, frame] >= _HIDDEN and rng.random() >= noise.miss:
            box = scene.boxes[n, frame]
            side = np.tile(box[2:] - box[:2], 2)
            boxes.append((box + rng.normal(0, noise.jitter, 4) * side).clip(0, canvas))
            scores.append(rng.uniform(0.45, 0.9))
    for _ in range(rng.poisson(noise.false_boxes)):
        side, corner = rng.uniform(0.1, 0.5, 2) * canvas[:2], rng.random(2)
        low = corner * (canvas[:2] - side)
        boxes.append(np.concatenate([low, low + side]))
        scores.append(rng.uniform(0.3, 0.6))
    return np.array(boxes).reshape(-1, 4), np.array(scores)
