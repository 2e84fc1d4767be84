"""A video with marks drawn in: captions above the picture, a box inside each span, a timeline below.

Frames stream through (decode → draw → encode), so memory does not grow with the clip. The output plays in browsers:
H.264, yuv420p, index in front. Small videos are enlarged until text is legible.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import Colorspace, VideoReformatter
from PIL import Image, ImageDraw, ImageFont

from spacevllm.span import Span
from spacevllm.video.errors import UndecodableFrames
from spacevllm.video.guard import GuardedSampler
from spacevllm.video.limits import Limits
from spacevllm.video.packets import decode_packet, packets_from
from spacevllm.video.probe import VideoInfo, open_video, probe

MIN_WIDTH, MAX_SIDE = 480, 960  # pixels of the picture in the output
MAX_HEIGHT = 4096  # of a narrow picture that is enlarged: encoders and players take no more
COLOURS = (
    "#ff8a3d",
    "#35b6f2",
    "#c58bff",
    "#ffd23f",
    "#ff6fa5",
    "#5ad1a0",
)  # answers, in order; told apart on any footage
INK, QUIET, GROUND, TRACK = "#f4f4f2", "#9aa0a6", "#15171a", "#2b2f34"
CLOCK = Fraction(1, 90_000)
_DRAW_TIMEOUT_S, _DRAW_MB = 4 * 3600.0, 4096  # a whole film may be drawn


@dataclass(frozen=True)
class Mark:
    """One thing to draw: a line of caption, a box on frames ``[first_frame, first_frame + K)``, a bar in the strip.

    ``more``: further spans of the same thing, of which only bar and boxes are drawn.
    """

    text: str
    detail: str
    colour: str
    span_s: tuple[float, float] | None
    first_frame: int
    boxes: np.ndarray  # (K, 4) xyxy pixels of the upright video
    is_truth: bool = False
    more: tuple[Mark, ...] = ()

    def box_on(self, frame: int) -> np.ndarray | None:
        for mark in (self, *self.more):
            if 0 <= frame - mark.first_frame < len(mark.boxes):
                return mark.boxes[frame - mark.first_frame]
        return None

    @property
    def spans_s(self) -> list[tuple[float, float]]:
        return [mark.span_s for mark in (self, *self.more) if mark.span_s]


def draw_marks(
    video: str | Path,
    marks: Sequence[Mark],
    out: str | Path,
    part: Span | None = None,
    max_pixels: int | None = None,
) -> Path:
    """Writes ``video`` with ``marks`` drawn in as an MP4 without sound.

    Args:
        video: local path.
        out: the MP4 to write; its folder is made. It appears only when complete.
        part: what to show of it, in its seconds; the clip begins there. None: all of it.
        max_pixels: largest width × height accepted; a larger frame half-way is left out.

    Returns:
        ``out`` as a Path.

    Raises:
        VideoError: the video cannot be read.
    """
    info, out = probe(str(video), max_pixels), Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        _write(info, Canvas(info, marks), unfinished, part or Span(0.0, info.duration_s), Limits(max_pixels))
        unfinished.replace(out)
    finally:
        unfinished.unlink(missing_ok=True)
    return out


def draw_guarded(video: str | Path, marks: Sequence[Mark], out: str | Path) -> Path:
    """``draw_marks`` of a whole video in a process that can do nothing else, see ``guard``."""
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix=".drawing-", dir=out.parent) as canvas,
        GuardedSampler(_DRAW_TIMEOUT_S, _DRAW_MB, writes_to=Path(canvas).resolve()) as drawer,
    ):
        drawn = Path(canvas).resolve() / "overlay.mp4"
        drawer.run(draw_marks, video, marks, drawn)
        drawn.replace(out)
    return out


class Canvas:
    """Sizes and the parts that never change; ``paint`` puts one frame into them."""

    def __init__(self, info: VideoInfo, marks: Sequence[Mark]) -> None:
        self.duration_s = max(info.duration_s, 1e-3)
        self.marks = marks
        fitting = min(1.0, MAX_SIDE / max(info.width, info.height))
        self.scale = min(MIN_WIDTH / info.width, MAX_HEIGHT / info.height) if info.width < MIN_WIDTH else fitting
        self.picture = _even(info.width * self.scale), _even(info.height * self.scale)  # (w, h)
        width = max(self.picture[0], MIN_WIDTH)
        self.left = (width - self.picture[0]) // 2  # of a narrow picture
        self.unit = width / MIN_WIDTH  # 1 at the smallest width
        self.letter = round(15 * self.unit**0.7)
        self.font = _font(self.letter, (mark.text for mark in marks))
        self.line = round(self.letter * 1.4)
        self.pad = round(12 * self.unit**0.7)
        self.room = width - 3 * self.pad - self.letter  # for text
        lines = [self._wrap(mark) for mark in marks]
        self.top = self.pad + self.line * sum(map(len, lines)) + self.pad // 2 if marks else 0
        self.bars = [round(4 * self.unit) if mark.is_truth else round(8 * self.unit) for mark in marks]
        strip = self.pad + sum(self.bars) + len(marks) * self.pad // 2 + self.line + self.pad // 2
        self.size = width, _even(self.top + self.picture[1] + strip)
        self.template = Image.new("RGB", self.size, GROUND)
        self._paint_caption(lines)
        self._paint_strip()

    def _wrap(self, mark: Mark) -> list[str]:
        """The question in at most three lines; its time follows on the last one, or below it where that is full."""
        room = self.room
        lines = [""]
        for word in mark.text.split():
            longer = f"{lines[-1]} {word}".strip()
            if self.font.getlength(longer) <= room:
                lines[-1] = longer
            else:
                lines += self._pieces(word, room)
        lines = [line for line in lines if line] or ["-"]
        lines = lines if len(lines) <= 3 else [*lines[:2], lines[2] + " ..."]
        fits = self.font.getlength(f"{lines[-1]}   {mark.detail}") <= room
        return lines if fits or not mark.detail else [*lines, ""]

    def _pieces(self, word: str, room: float) -> list[str]:
        """A word as it is, or cut where even a line of its own is too short for it (some scripts have no spaces)."""
        pieces = [""]
        for letter in word:
            if self.font.getlength(pieces[-1] + letter) > room:
                pieces.append("")
            pieces[-1] += letter
        return pieces

    def _paint_caption(self, captions: Sequence[Sequence[str]]) -> None:
        draw, x, y = ImageDraw.Draw(self.template), 2 * self.pad + self.letter, self.pad
        for mark, lines in zip(self.marks, captions, strict=True):
            chip = self.pad, y + self.line * 0.18
            draw.rounded_rectangle((*chip, chip[0] + self.letter, chip[1] + self.letter), 3, fill=mark.colour)
            for text in lines:
                draw.text((x, y), text, fill=INK, font=self.font)
                y += self.line
            after = x + (self.font.getlength(lines[-1] + "   ") if lines[-1] else 0)
            draw.text((after, y - self.line), mark.detail, fill=QUIET, font=self.font)

    def _paint_strip(self) -> None:
        draw, y = ImageDraw.Draw(self.template), self.top + self.picture[1] + self.pad
        for mark, height in zip(self.marks, self.bars, strict=True):
            draw.rounded_rectangle((self.pad, y, self.size[0] - self.pad, y + height), height // 2, fill=TRACK)
            for span_s in mark.spans_s:
                begin, end = (self._x(seconds) for seconds in span_s)
                draw.rounded_rectangle((begin, y, max(end, begin + 2), y + height), height // 2, fill=mark.colour)
            y += height + self.pad // 2
        self.clock_y = y
        last = f"{self.duration_s:.1f} s"
        draw.text((self.size[0] - self.pad - self.font.getlength(last), y), last, fill=QUIET, font=self.font)

    def _x(self, seconds: float) -> float:
        share = min(max(seconds / self.duration_s, 0.0), 1.0)
        return self.pad + share * (self.size[0] - 2 * self.pad)

    def paint(self, frame: int, time_s: float, picture: np.ndarray) -> Image.Image:
        """One frame: picture (h, w, 3) uint8 of ``self.picture`` size → the whole image."""
        shown = Image.fromarray(picture)
        for mark in reversed(self.marks):  # the first tube comes out on top
            box = mark.box_on(frame)
            if box is not None and np.isfinite(box).all():
                self._paint_box(ImageDraw.Draw(shown), box * self.scale, mark)
        image = self.template.copy()
        image.paste(shown, (self.left, self.top))
        draw, x = ImageDraw.Draw(image), self._x(time_s)
        top = self.top + self.picture[1] + self.pad // 2
        draw.rectangle((x - 1, top, x + 1, self.clock_y - 1), fill=INK)
        draw.text((self.pad, self.clock_y), f"{time_s:.1f} s", fill=INK, font=self.font)
        return image

    def _paint_box(self, draw: ImageDraw.ImageDraw, box: np.ndarray, mark: Mark) -> None:
        """The line is centred on the border of the box and has a dark rim, so that it shows on any ground."""
        line = max(2, round(2 * self.unit)) if mark.is_truth else max(4, round(4 * self.unit))
        (x1, x2), (y1, y2) = np.sort(box[[0, 2]]), np.sort(box[[1, 3]])
        for grow, width, colour in ((1, line + 2, GROUND), (0, line, mark.colour)):
            off = line / 2 + grow
            draw.rectangle((x1 - off, y1 - off, x2 + off, y2 + off), outline=colour, width=width)


def _font(size: int, texts: Iterable[str]) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font knows ASCII; for other scripts DejaVu Sans, where the machine has it."""
    if not all(text.isascii() for text in texts):
        with suppress(OSError):
            return ImageFont.truetype("DejaVuSans.ttf", size)
    return ImageFont.load_default(size=size)


def _write(info: VideoInfo, canvas: Canvas, path: Path, part: Span, limits: Limits) -> None:
    begin = max(int(np.searchsorted(info.times_s, part.begin_s, side="right")) - 1, 0)
    end = max(int(np.searchsorted(info.times_s, part.end_s, side="left")), begin + 1)
    start_s = float(info.times_s[begin])
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as output:
        stream = output.add_stream("libx264", rate=info.fps, options={"crf": "26", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = *canvas.size, "yuv420p"
        stream.codec_context.time_base = CLOCK
        stream.codec_context.colorspace = Colorspace.ITU709
        frames = 0
        for index, time_s, picture in _upright_frames(info, canvas.picture, begin, end, limits):
            image = av.VideoFrame.from_ndarray(np.asarray(canvas.paint(index, time_s, picture)), format="rgb24")
            frame = image.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709)
            frame.pts, frame.time_base = round((time_s - start_s) / CLOCK), CLOCK
            output.mux(stream.encode(frame))
            frames += 1
        if not frames:
            raise UndecodableFrames(f"{info.path}: no frame could be decoded, nothing to draw on")
        output.mux(stream.encode())


def _upright_frames(
    info: VideoInfo, size: tuple[int, int], begin: int, end: int, limits: Limits
) -> Iterator[tuple[int, float, np.ndarray]]:
    """Each shown frame of ``[begin, end)`` that decodes, in order: number, seconds, (h, w, 3) uint8 of ``size``.

    A damaged packet costs its own frames, not the overlay.
    """
    turns = info.rotation // 90
    width, height = size if turns % 2 == 0 else size[::-1]
    number = {pts: i for i, pts in enumerate(info.pts.tolist())}
    reformatter, next_one = VideoReformatter(), begin
    with open_video(info.path, limits) as (source, stream):
        for packet in packets_from(source, stream, int(info.pts[begin]) if begin else None):
            for frame in decode_packet(packet):
                index = number.get(frame.pts)
                if index is not None and index >= end:
                    return
                if index is not None and index >= next_one:  # damaged time stamps may come in any order
                    next_one = index + 1
                    rgb = reformatter.reformat(frame, width, height, "rgb24", threads=1).to_ndarray()
                    picture = np.rot90(rgb[:, ::-1] if info.mirrored else rgb, -turns)
                    yield index, float(info.times_s[index]), np.ascontiguousarray(picture)


def _even(length: float) -> int:
    """The nearest even number of pixels: yuv420p halves both sides."""
    return max(2, round(length / 2) * 2)
