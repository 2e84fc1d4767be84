"""A still image where a video may stand: one frame, no time."""

from __future__ import annotations

import stat
from fractions import Fraction

import numpy as np

from spacevllm.video.errors import NotAVideo, TooLarge, TruncatedVideo
from spacevllm.video.files import file_status, open_bytes
from spacevllm.video.limits import Limits
from spacevllm.video.probe import VideoInfo


def is_image(path: str) -> bool:
    """Whether it begins like a PNG or a JPEG; False where it cannot be opened."""
    try:
        if not stat.S_ISREG(file_status(path).st_mode):  # looking into a pipe would eat its first bytes
            return False
        with open_bytes(path) as file:
            head = file.read(8)
    except OSError:
        return False  # open_video says why
    return head == b"\x89PNG\r\n\x1a\n" or head[:3] == b"\xff\xd8\xff"


def read_image(path: str, limits: Limits) -> tuple[VideoInfo, np.ndarray]:
    """Its facts as those of a video of one frame, and (1, H, W, 3) uint8 RGB, upright.

    Raises:
        TooLarge, NotAVideo, TruncatedVideo: as for a video.
    """
    from PIL import Image, ImageOps

    try:
        with open_bytes(path) as file, Image.open(file) as image:
            limits.check_pixels(path, image.width, image.height)
            picture = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))  # (H, W, 3)
            codec = (image.format or "").lower()
    except Image.DecompressionBombError as error:
        raise TooLarge(f"{path}: {error}") from None
    except Image.UnidentifiedImageError:
        raise NotAVideo(f"{path}: looks like an image but is none") from None
    except OSError as error:
        raise TruncatedVideo(f"{path}: the image cannot be read to its end: {error}") from None
    height, width = picture.shape[:2]
    zero, times = np.zeros(1, np.int64), np.zeros(1, np.float64)
    info = VideoInfo(
        path=path, width=width, height=height, fps=Fraction(0), num_frames=1, duration_s=0.0, first_pts_s=0.0,
        rotation=0, mirrored=False, keyframes=(0,), independent_gops=True, times_s=times, pts=zero,
        time_base=Fraction(1), codec=codec, container="image",
    )  # fmt: skip
    return info, picture[None]
