"""Which tubes are believed: frames with too many boxes go, and a tube whose box jumps in size goes as a whole."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from spacevllm.config import Config
from spacevllm.data.instance import Instance, instance_id
from spacevllm.data.synthesis.sample import Caption, Clip, Rejected, RoughTube


class FilterOptions(Config):
    """The paper's thresholds.

    Attributes:
        max_boxes: a frame on which the detector found more loses its box.
        max_area_ratio: of the boxes of neighbouring annotated frames, the larger over the smaller.
    """

    max_boxes: int = Field(default=3, ge=1)
    max_area_ratio: float = Field(default=2.0, ge=1)


def keep_boxes(tube: RoughTube, options: FilterOptions) -> tuple[np.ndarray, np.ndarray]:
    """Frames (N,) int64 and boxes (N, 4) xyxy pixels that pass.

    Raises:
        Rejected: ``crowded`` (no frame is left), ``area_jump``.
    """
    kept = tube.track.counts <= options.max_boxes  # (N,)
    if not kept.any():
        raise Rejected("crowded", f"each of {len(kept)} frames has more than {options.max_boxes} boxes")
    frames, boxes = tube.frames[kept], tube.track.boxes[kept]
    area = (boxes[:, 2:] - boxes[:, :2]).prod(-1).clip(min=1e-9)  # (N,)
    ratio = np.maximum(area[1:] / area[:-1], area[:-1] / area[1:])  # (N - 1,)
    if (ratio > options.max_area_ratio).any():
        at = int(ratio.argmax())
        raise Rejected("area_jump", f"{ratio[at]:.1f} times from frame {frames[at]} to frame {frames[at + 1]}")
    return frames, boxes


def to_instance(caption: Caption, clip: Clip, tube: RoughTube, options: FilterOptions) -> Instance:
    """The finished record: the caption asks, the tube answers. Boxes are cut to the picture, hundredths of a pixel.

    Raises:
        Rejected: as ``keep_boxes``.
    """
    frames, boxes = keep_boxes(tube, options)
    edge = np.tile([clip.width, clip.height], 2)
    return Instance(
        id=instance_id("synthesis", caption.id),
        task="stvg",
        source=caption.source,
        split=caption.split,
        media=caption.media,
        media_type="video",
        question=caption.text,
        begin_frame=tube.begin_frame,
        end_frame=tube.end_frame,
        begin_s=tube.begin_s,
        end_s=tube.end_s,
        box_frames=frames.tolist(),
        boxes=boxes.clip(0, edge).round(2).tolist(),
        fps_num=clip.fps.numerator,
        fps_den=clip.fps.denominator,
        num_frames=clip.num_frames,
        width=clip.width,
        height=clip.height,
        duration_s=clip.duration_s,
    )
