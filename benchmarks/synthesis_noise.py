"""How good are synthesised tubes when the detector is not? Moving Shapes through noise, against the truth.

    python -m benchmarks.synthesis_noise

The rough intervals end on multiples of five seconds, as DiDeMo's do. ``rough`` is what a tube scores whose box is right
but whose borders stay rough: what the refiner has to beat.
"""

from __future__ import annotations

import argparse
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from spacevllm.data.instance import Instance
from spacevllm.data.moving_shapes import MovingShapesConfig, Scene, make_scene
from spacevllm.data.moving_shapes.oracle import Noise, captions, detect, name_subject
from spacevllm.data.synthesis.analyzer import ask, parse_objects
from spacevllm.data.synthesis.annotator import annotated_count, rough_frames
from spacevllm.data.synthesis.filter import FilterOptions, keep_boxes
from spacevllm.data.synthesis.linking import link
from spacevllm.data.synthesis.refiner import RefinerOptions, refine
from spacevllm.data.synthesis.sample import Caption, Clip, Detections, Rejected, RoughTube
from spacevllm.evaluation.metrics import interval_iou, mean
from spacevllm.evaluation.prediction import Prediction, clean_track
from spacevllm.evaluation.protocols import dense, score_tube
from spacevllm.tube import interpolate_boxes
from spacevllm.video.sampling import uniform_indices

RATE = 2.0
WORLD = MovingShapesConfig(num_frames=161)  # 20 s, so that five-second borders are rough


class Level(NamedTuple):
    """One kind of noise, and what refined tubes made through it have to reach at least."""

    name: str
    noise: Noise
    least_refined: float
    least_tiou: float
    least_viou: float


LEVELS = (
    Level("none", Noise(), 0.98, 0.97, 0.96),
    Level("10 % missed", Noise(miss=0.1), 0.98, 0.97, 0.94),
    Level("30 % missed", Noise(miss=0.3), 0.98, 0.93, 0.88),
    Level("jitter 5 %", Noise(jitter=0.05), 0.98, 0.97, 0.84),
    Level("jitter 10 %", Noise(jitter=0.1), 0.98, 0.97, 0.74),
    Level("1 false box a frame", Noise(false_boxes=1.0), 0.98, 0.94, 0.92),
    Level("2 false boxes a frame", Noise(false_boxes=2.0), 0.98, 0.90, 0.87),
    Level("all: 10 %, 5 %, 0.5", Noise(miss=0.1, jitter=0.05, false_boxes=0.5), 0.98, 0.95, 0.82),
)


class Outcome(NamedTuple):
    """Means over the tubes that the refiner gives: share of the captions, tIoU with the rough and with the tight
    borders, vIoU. ``kept`` of the captions are left behind the filter, with vIoU ``kept_viou``."""

    captions: int
    refined: float
    rough: float
    tiou: float
    viou: float
    kept: float
    kept_viou: float


def run_level(level: Level, num_videos: int) -> Outcome:
    refined, kept, rough, count = [], [], [], 0
    for index in range(num_videos):
        scene = _scene(index)
        for caption, truth in captions(scene, f"media/train/{index:06d}.mp4"):
            count += 1
            tube = _refined(scene, caption, level.noise)
            if tube is None:
                continue
            rough.append(interval_iou((truth.begin_s or 0, truth.end_s or 0), (caption.begin_s, caption.end_s)))
            refined.append(score_tube(dense(truth), _prediction(truth, tube)))
            if _passes(tube):
                kept.append(refined[-1].viou)
    tiou, viou = mean(score.tiou for score in refined), mean(score.viou for score in refined)
    return Outcome(count, len(refined) / count, mean(rough), tiou, viou, len(kept) / count, mean(kept))


@lru_cache(maxsize=1000)
def _scene(index: int) -> Scene:
    """Making it costs more than all that is done with it."""
    return make_scene(WORLD, "train", index)


def _refined(scene: Scene, caption: Caption, noise: Noise) -> RoughTube | None:
    """What analyzer, annotator and refiner make of a caption."""
    config = scene.config
    clip = Clip(Fraction(config.fps), scene.num_frames, config.width, config.height, scene.num_frames / config.fps)
    [subject, *_] = parse_objects(name_subject(ask(caption.text)))
    begin, end = rough_frames(caption, clip)
    indices = begin + uniform_indices(end - begin, annotated_count(begin, end, clip.fps, RATE))
    boxes, scores = zip(*detect(scene, indices, subject, noise), strict=True)
    detections = Detections(indices, indices / config.fps, boxes, scores)
    try:
        return refine(detections, link(detections), (begin, end, caption.begin_s, caption.end_s), RefinerOptions())
    except Rejected:
        return None


def _passes(tube: RoughTube) -> bool:
    try:
        keep_boxes(tube, FilterOptions())
    except Rejected:
        return False
    return True


def _prediction(truth: Instance, rough: RoughTube) -> Prediction:
    """Between the annotated frames boxes are linear."""
    every = np.arange(rough.begin_frame, rough.end_frame)
    boxes = interpolate_boxes(rough.frames, rough.track.boxes, every)
    track = clean_track(every, boxes, truth.width, truth.height)
    return Prediction(rough.begin_frame, rough.end_frame, track, track)


def main() -> None:
    from benchmarks.common import RESULTS, facts, write_result

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=400)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    outcomes = {level.name: run_level(level, options.videos) for level in LEVELS}
    print(f"{'noise':<24} {'refined':>8} {'rough tIoU':>10} {'tIoU':>6} {'vIoU':>6} {'filtered':>8} {'vIoU':>6}")
    for name, o in outcomes.items():
        before = f"{o.refined:>8.1%} {o.rough:>10.3f} {o.tiou:>6.3f} {o.viou:>6.3f}"
        print(f"{name:<24} {before} {o.kept:>8.1%} {o.kept_viou:>6.3f}")
    levels = {name: {key: round(value, 4) for key, value in o._asdict().items()} for name, o in outcomes.items()}
    print(write_result("synthesis_noise", facts() | {"videos": options.videos, "levels": levels}, options.out))


if __name__ == "__main__":
    main()
