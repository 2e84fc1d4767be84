"""Pixels: scenes to RGB frames, MP4 files and PNG files.

A thing is an antialiased sprite placed with a quarter of a pixel's precision; sprites are drawn once and kept.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw

from spacevllm.data.moving_shapes.world import COLOURS, OUTLINES, Scene, Thing

_FINE = 4  # sub-pixels per pixel
_WHITE = (245, 245, 245)
_BANDS = 5  # of a striped thing: colour, white, colour, white, colour
_ENCODER = {"preset": "veryfast", "crf": "18", "g": "16", "bf": "0", "threads": "1"}  # one thread: the same bytes again


def render_frame(scene: Scene, frame: int) -> Image.Image:
    """The RGB picture of one frame, ``config.width`` x ``config.height``."""
    picture = _background(scene.background, scene.config.width, scene.config.height).copy()
    for thing, state in zip(scene.things, scene.states[:, frame], strict=True):
        if np.isfinite(state[0]):
            _paste(picture, thing, state)
    return picture


def render_frames(scene: Scene) -> np.ndarray:
    """(frames, height, width, 3) uint8 RGB."""
    return np.stack([np.asarray(render_frame(scene, frame)) for frame in range(scene.num_frames)])


def write_video(scene: Scene, path: str | Path) -> None:
    """Writes ``scene`` as an H.264 MP4 file; ``path`` appears only when it is complete."""
    part = Path(f"{path}.part")
    with av.open(str(part), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=scene.config.fps, options=_ENCODER)
        stream.width, stream.height, stream.pix_fmt = scene.config.width, scene.config.height, "yuv420p"
        for frame in range(scene.num_frames):
            container.mux(stream.encode(av.VideoFrame.from_image(render_frame(scene, frame))))
        container.mux(stream.encode(None))
    os.replace(part, path)


def write_image(scene: Scene, path: str | Path) -> None:
    """Writes the first frame of ``scene`` as a PNG file; ``path`` appears only when it is complete."""
    part = Path(f"{path}.part")
    render_frame(scene, 0).save(part, format="PNG")
    os.replace(part, path)


def _paste(picture: Image.Image, thing: Thing, state: np.ndarray) -> None:
    x, y, diameter = np.rint(state * _FINE).astype(int)
    left, offset_x = divmod(int(x) - int(diameter) // 2, _FINE)
    top, offset_y = divmod(int(y) - int(diameter) // 2, _FINE)
    mask = _mask(thing.shape, int(diameter), offset_x, offset_y)
    striped = thing.texture == "striped"
    fill = _stripes(thing.colour, int(diameter), offset_y, mask.width) if striped else COLOURS[thing.colour]
    picture.paste(fill, (left, top, left + mask.width, top + mask.height), mask)


@lru_cache(maxsize=64)
def _background(colours: tuple[tuple[int, int, int], ...], width: int, height: int) -> Image.Image:
    share = np.linspace(0, 1, height)[:, None]
    column = np.rint((1 - share) * colours[0] + share * np.array(colours[1])).astype(np.uint8)  # (H, 3)
    return Image.fromarray(np.ascontiguousarray(np.broadcast_to(column[:, None], (height, width, 3))))


@lru_cache(maxsize=1024)
def _mask(shape: str, diameter: int, offset_x: int, offset_y: int) -> Image.Image:
    """Coverage of a shape; ``diameter`` and offsets in sub-pixels."""
    side = -(-(diameter + _FINE) // _FINE)
    fine = Image.new("L", (side * _FINE, side * _FINE))
    corners = (OUTLINES[shape] + 0.5) * (diameter - 1) + (offset_x, offset_y)  # Pillow fills up to the edge's pixel
    ImageDraw.Draw(fine).polygon([(float(x), float(y)) for x, y in corners], fill=255)
    return fine.reduce(_FINE)


@lru_cache(maxsize=1024)
def _stripes(colour: str, diameter: int, offset_y: int, side: int) -> Image.Image:
    height = (np.arange(side) + 0.5) * _FINE - offset_y
    white = np.floor(height * _BANDS / diameter) % 2 == 1
    rows = np.where(white[:, None], _WHITE, COLOURS[colour]).astype(np.uint8)  # (side, 3)
    return Image.fromarray(np.ascontiguousarray(np.broadcast_to(rows[:, None], (side, side, 3))))
