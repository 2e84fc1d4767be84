"""Why a video could not be read: one class per reason.

Every error carries one message and nothing else, so all of them pickle (they cross processes and Ray). Tables keep
``reason``, people read the message.
"""

from __future__ import annotations

from typing import ClassVar


class VideoError(ValueError):
    """The video cannot be used; ``reason`` is a short slug, the message says which file, what is wrong and why."""

    reason: ClassVar[str] = "video_error"


class MissingVideo(VideoError):
    """There is no such file, or it may not be read."""

    reason = "missing"


class EmptyFile(VideoError):
    """The file has no bytes."""

    reason = "empty_file"


class NotAVideo(VideoError):
    """The bytes are no known video (or image) container, or its codec is unknown."""

    reason = "not_a_video"


class NoVideoStream(VideoError):
    """A media file without moving pictures: audio only, or a song with its cover."""

    reason = "no_video_stream"


class StillImage(VideoError):
    """An image, where something is asked about time."""

    reason = "still_image"


class TruncatedVideo(VideoError):
    """The file ends before its last frame; the message counts the frames found and promised."""

    reason = "truncated"


class UndecodableFrames(VideoError):
    """The packets are there, but some wanted frames do not come out of the decoder; the message counts them."""

    reason = "undecodable_frames"


class EmptySegment(VideoError):
    """The segment asked for holds no frame of the video."""

    reason = "empty_segment"


class TooLarge(VideoError):
    """More pixels, frames, seconds or windows than the caller allows."""

    reason = "too_large"


class ImplausibleTime(VideoError):
    """A frame stands for longer than an hour: its time stamp, or the next one's, is damaged or forged."""

    reason = "implausible_time"


class DecodeTimeout(VideoError):
    """Reading took longer than allowed; the decoder was killed."""

    reason = "timeout"


class DecoderCrashed(VideoError):
    """The decoding process died or ran out of memory."""

    reason = "crashed"
