"""Packets and their frames out of files that may be damaged anywhere: what cannot be read is left out, never raised.

FFmpeg's demuxers and decoders have a different error for every damage. Whoever misses a frame reports it.
"""

from __future__ import annotations

from collections.abc import Iterator

import av
from av.container import InputContainer
from av.video.stream import VideoStream


def packets_from(container: InputContainer, stream: VideoStream, position: int | None) -> Iterator[av.Packet]:
    """Packets from the last keyframe at or before ``position`` (pts) on, or from the first (None).

    They end where the file cannot be read on.
    """
    try:
        _seek(container, stream, position)
        yield from container.demux(stream)
    except MemoryError:
        raise
    except av.FFmpegError:
        return


def _seek(container: InputContainer, stream: VideoStream, position: int | None) -> None:
    try:
        container.seek(-(1 << 40) if position is None else position, stream=stream)  # far before any video
    except av.FFmpegError:  # AVI refuses times before its start, and there 0 is the first packet
        container.seek(0, stream=stream)


def decode_packet(packet: av.Packet) -> list[av.VideoFrame]:
    """Its frames; none of a damaged one."""
    try:
        return packet.decode()
    except MemoryError:
        raise
    except av.FFmpegError:
        return []
