"""Bad files: random damages of good ones, and small ones that claim to be huge."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable
from fractions import Fraction

import av

Mutation = Callable[[random.Random, bytearray], bytearray]


def mutate(dice: random.Random, whole: bytes) -> bytes:
    """One to three random damages, of the bytes or of the structure of an MP4."""
    data = bytearray(whole)
    for _ in range(dice.randint(1, 3)):
        data = dice.choice(MUTATIONS)(dice, data) or bytearray(b"\0")
    return bytes(data)


def _place(dice, data, width=1):
    return dice.randrange(max(1, len(data) - width))


def _flip_bits(dice, data):
    for _ in range(dice.randint(1, 64)):
        data[_place(dice, data)] ^= 1 << dice.randrange(8)
    return data


def _damage_index(dice, data):
    """The index (moov) decides what is read and how large it is believed to be."""
    start = max(data.find(b"moov"), 0)
    for _ in range(dice.randint(1, 16)):
        data[start + dice.randrange(max(1, len(data) - start))] = dice.choice((0, 1, 0x7F, 0x80, 0xFF))
    return data


def _cut(dice, data):
    return data[: _place(dice, data)]


def _erase(dice, data):
    start = _place(dice, data)
    data[start : start + dice.randint(1, 400)] = b""
    return data


def _repeat(dice, data):
    start = _place(dice, data)
    piece = data[start : start + dice.randint(1, 400)]
    return data[:start] + piece * dice.randint(2, 20) + data[start:]


def _zeros(dice, data):
    start = _place(dice, data)
    length = min(dice.randint(1, 400), len(data) - start)
    data[start : start + length] = bytes(length)
    return data


def _noise(dice, data):
    start = _place(dice, data)
    data[start : start + dice.randint(0, 100)] = dice.randbytes(dice.randint(1, 100))
    return data


def _wrong_size(dice, data):
    """A box that claims to be huge, empty or negative."""
    kind = dice.choice((b"moov", b"trak", b"mdia", b"stbl", b"stsd", b"mdat", b"avcC", b"stsz"))
    at = data.find(kind)
    if at >= 4:
        data[at - 4 : at] = struct.pack(">I", dice.choice((0, 1, 7, 8, 0x7FFFFFFF, 0xFFFFFFFF)))
    return data


def _wrong_table(dice, data):
    """Counts and entries of the sample tables, time scale, width and height: millions instead of a few."""
    kind = dice.choice((b"stts", b"ctts", b"stsz", b"stco", b"stsc", b"stss", b"mvhd", b"mdhd", b"tkhd", b"avc1"))
    at = data.find(kind)
    if at >= 0:
        offset = at + 4 + 4 * dice.randint(0, 20)
        data[offset : offset + 4] = struct.pack(">I", dice.choice((0, 1, 65535, 1 << 24, 0x7FFFFFFF, 0xFFFFFFFF)))
    return data


def _other_head(dice, data):
    """The beginning of another kind of file, playlists among them, which name other files and hosts."""
    heads = (
        b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'><image href='http://127.0.0.1/'/></svg>",
        b"\x1a\x45\xdf\xa3",
        b"RIFF\xff\xff\xff\x7fAVI LIST",
        b"GIF89a\xff\xff\xff\xff",
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\xff\xff\xff\xff",
        b"PK\x03\x04",
        b"%PDF-1.7\n",
        b"\x80\x04cposix\nsystem\n(S'true'\ntR.",
    )
    return bytearray(dice.choice(heads)) + data[dice.choice((0, 40, 400)) :]


MUTATIONS: tuple[Mutation, ...] = (
    _flip_bits,
    _damage_index,
    _damage_index,
    _cut,
    _erase,
    _repeat,
    _zeros,
    _noise,
    _wrong_size,
    _wrong_size,
    _wrong_table,
    _wrong_table,
    _other_head,
)


def png(width, height, bits=1):
    """A picture of nothing but zeros: gigabytes for some kilobytes."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(1 + width * bits // 8)) for _ in range(height)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def lying_video(path, *pictures):
    """PNGs, whatever their size, in a container that says 64 x 48."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "rgb24"
        for number, picture in enumerate(pictures):
            packet = av.Packet(picture)
            packet.stream, packet.pts, packet.dts, packet.is_keyframe = stream, number, number, True
            packet.time_base = Fraction(1, 8)
            container.mux(packet)
    return path.read_bytes()


def claims_to_be_huge(folder):
    """Name → bytes."""
    picture = png(30_000, 30_000)
    assert len(picture) < 200_000
    return {
        "a.png": picture,
        "a.mov": lying_video(folder / "a.mov", *[picture] * 4),
        "later.mov": lying_video(folder / "later.mov", png(64, 48), *[png(16_000, 16_000)] * 3),
        "a.jpg": b"\xff\xd8\xff\xc0\0\x11\x08"
        + struct.pack(">HH", 65_000, 65_000)
        + b"\3\1\x22\0\2\x11\1\3\x11\1\xff\xd9",
        "a.gif": b"GIF89a" + struct.pack("<HH", 65_000, 65_000) + b"\xf0\0\0" + bytes(60),
        "a.y4m": b"YUV4MPEG2 W30000 H30000 F25:1 C420\nFRAME\n",
        "a.svg": b"<svg xmlns='http://www.w3.org/2000/svg' width='99999' height='99999'/>",
    }
