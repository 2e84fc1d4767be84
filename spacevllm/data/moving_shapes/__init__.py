"""Moving Shapes: the embedded data set. Real MP4 files with exact truth, from a seed.

Shapes move, stop, grow, shrink, enter, leave and cross; others share their attributes, so that a question needs both
the thing and the event. All four tasks: STVG, VTG and multiple choice on the videos, REC on still images::

    DIR/media/<split>/000000.mp4, 000000-0.png ...    DIR/annotations/<split>.jsonl    one ``Instance`` row a line
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from spacevllm.data.instance import Instance
from spacevllm.data.moving_shapes.draws import scene_seed
from spacevllm.data.moving_shapes.records import scene_instances, still_instances
from spacevllm.data.moving_shapes.render import render_frame, render_frames, write_image, write_video
from spacevllm.data.moving_shapes.sampling import make_scene, make_still
from spacevllm.data.moving_shapes.world import MovingShapesConfig, Scene

__all__ = [
    "MovingShapesConfig",
    "Scene",
    "make_scene",
    "make_still",
    "render_frame",
    "render_frames",
    "scene_instances",
    "scene_seed",
    "split_sizes",
    "still_instances",
    "write_annotations",
    "write_data_set",
    "write_image",
    "write_one",
    "write_video",
]


def split_sizes(num_videos: int, test_share: float = 0.1) -> dict[str, int]:
    """Videos of each split, ``num_videos`` together; at least one is for testing."""
    test = max(1, round(num_videos * test_share))
    if not 0 < test < num_videos:
        raise ValueError(f"{num_videos} videos with a test share of {test_share} leave none to train on")
    return {"train": num_videos - test, "test": test}


def write_data_set(
    out: str | Path,
    num_videos: int,
    seed: int = 0,
    config: MovingShapesConfig | None = None,
    test_share: float = 0.1,
    progress: Callable[[], object] = lambda: None,
) -> dict[str, int]:
    """Writes media and annotations under ``out`` in this process; media that is there already is kept.

    Args:
        config: its seed gives way to ``seed``.
        progress: called once a video.

    Returns:
        Number of instances of each split.
    """
    config = (config or MovingShapesConfig()).model_copy(update={"seed": seed})
    counts = {}
    for split, number in split_sizes(num_videos, test_share).items():
        rows: list[Instance] = []
        for index in range(number):
            rows += write_one(out, config, split, index)
            progress()
        write_annotations(out, split, rows)
        counts[split] = len(rows)
    return counts


def write_one(out: str | Path, config: MovingShapesConfig, split: str, index: int) -> list[Instance]:
    """Writes one video and its images, unless they are there, and returns what is asked about them.

    Any number of processes may do this at once for different videos; a file appears only when it is complete.
    """
    folder = Path(out) / "media" / split
    folder.mkdir(parents=True, exist_ok=True)
    scene = make_scene(config, split, index)
    instances = _on_file(scene, folder / f"{index:06d}.mp4", write_video, scene_instances)
    for number in range(config.images_per_video):
        still = make_still(config, split, index, number)
        instances += _on_file(still, folder / f"{index:06d}-{number}.png", write_image, still_instances)
    return instances


def write_annotations(out: str | Path, split: str, instances: list[Instance]) -> Path:
    """Writes ``annotations/<split>.jsonl``, one row of the record's schema a line."""
    path = Path(out) / "annotations" / f"{split}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(instance.to_row()) + "\n" for instance in instances))
    return path


def _on_file(
    scene: Scene,
    path: Path,
    write: Callable[[Scene, Path], None],
    ask: Callable[[Scene, str], list[Instance]],
) -> list[Instance]:
    if not path.exists():
        write(scene, path)
    return ask(scene, path.relative_to(path.parents[2]).as_posix())
