"""A record at a glance: some frames side by side, its box in each; beside it, where wanted, the box of an answer."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from functools import partial

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from spacevllm.data.instance import Instance
from spacevllm.tube import interpolate_boxes
from spacevllm.video.reader import SampledFrames

ACCENT, TRUTH, LABEL, EDGE = (255, 122, 41), (244, 244, 242), (222, 222, 218), (20, 20, 22)
HEIGHT, GAP, QUALITY = 150, 4, 82


BoxAt = Callable[[int], np.ndarray | None]  # frame → (4,) xyxy pixels of the record's media


def draw_strip(instance: Instance, sampled: SampledFrames) -> Image.Image:
    """The frames in a row, ``HEIGHT`` pixels high, with the box where the record has one inside its span.

    Args:
        sampled: frames of the record's video (or its image); boxes are scaled from the record's size to the frames'.
    """
    return _draw(instance, sampled, [(partial(box_at, instance), ACCENT)])


def draw_comparison(instance: Instance, sampled: SampledFrames, answer: BoxAt) -> Image.Image:
    """The same with the truth's box in white and the answer's in orange, each only inside its span, and the seconds."""
    strip = _draw(instance, sampled, [(partial(box_at, instance), TRUTH), (answer, ACCENT)])
    if instance.media_type == "video":
        draw, font = ImageDraw.Draw(strip), ImageFont.load_default(size=15)
        for left, time_s in zip(range(0, strip.width, _width(sampled) + GAP), sampled.times_s, strict=True):
            draw.text((left + 6, HEIGHT - 24), f"{time_s:.1f} s", LABEL, font, stroke_width=2, stroke_fill=EDGE)
    return strip


def _draw(instance: Instance, sampled: SampledFrames, marks: list[tuple[BoxAt, tuple[int, int, int]]]) -> Image.Image:
    width = _width(sampled)
    strip = Image.new("RGB", (len(sampled.indices) * (width + GAP) - GAP, HEIGHT), EDGE)
    size = (instance.width or sampled.info.width, instance.height or sampled.info.height)
    scale = np.tile([width / size[0], HEIGHT / size[1]], 2)
    for number, (index, frame) in enumerate(zip(sampled.indices.tolist(), sampled.frames, strict=True)):
        picture = Image.fromarray(frame).resize((width, HEIGHT), Image.Resampling.LANCZOS)
        for box_of, colour in marks:
            box = box_of(index)
            if box is not None:
                _outline(picture, box * scale, colour)
        strip.paste(picture, (number * (width + GAP), 0))
    return strip


def _width(sampled: SampledFrames) -> int:
    """Of one frame in the row."""
    return round(HEIGHT * sampled.info.width / sampled.info.height)


def box_at(instance: Instance, frame: int) -> np.ndarray | None:
    """(4,) xyxy pixels on ``frame``, linear between annotated frames; None outside the span or without boxes."""
    begin, end = instance.begin_frame, instance.end_frame
    inside = begin is None or end is None or begin <= frame < end
    if not instance.boxes or not inside:
        return None
    return interpolate_boxes(np.array(instance.box_frames), np.array(instance.boxes), np.array([frame]))[0]


def to_data_uri(picture: Image.Image) -> str:
    """A JPEG that a page holds in itself."""
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _outline(picture: Image.Image, box: np.ndarray, colour: tuple[int, int, int]) -> None:
    """Dark below light, so that it shows on any ground."""
    draw = ImageDraw.Draw(picture)
    low, high = box[:2].clip(0), np.minimum(box[2:], np.array(picture.size) - 1)
    corners = [*low.tolist(), *np.maximum(low, high).tolist()]
    draw.rectangle(corners, outline=EDGE, width=5)
    draw.rectangle(corners, outline=colour, width=3)
