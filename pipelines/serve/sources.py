"""Which paths and URIs a request may name, and how their bytes come here.

Nothing that a client sends names a file or an address, unless it lies below the media root or an allowed prefix. Over
HTTP every redirect is checked like the first address, and host names are looked up once: what was checked is what is
connected to.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urljoin, urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from pipelines.core import storage
from pipelines.serve.config import ServeConfig
from pipelines.serve.problems import Problem

MAX_REDIRECTS = 5
REDIRECTS = (301, 302, 303, 307, 308)
_CONTROL = re.compile(r"[\x00-\x1f\x7f\\]")
_EMBEDDING = tuple(map(ipaddress.ip_network, ("::ffff:0:0/96", "::/96", "64:ff9b::/96", "64:ff9b:1::/48")))
_SCHEMES = ("s3", "gs", "gcs", "abfs", "az", "http", "https")


def prefixes(config: ServeConfig) -> list[str]:
    """What URIs may begin with."""
    return [*config.allowed_uris, *([config.media_root] if "://" in config.media_root else [])]


def resolve(video: str, media_root: str, allowed: Sequence[str] = ()) -> str:
    """``video`` as an absolute path or URI below ``media_root``, where relative names start, or an ``allowed`` prefix.

    Raises:
        Problem: 403 when it lies elsewhere, or nothing may be named at all.
    """
    if not media_root and not allowed:
        raise Problem(403, "no_media_root", "this server takes uploads only; it was started without --media-root")
    if _CONTROL.search(video) or ("::" in video and not is_web(video)):  # fsspec would read on behind a ::
        raise _outside(video)
    if "://" in video:
        return _below(video, [*allowed, *([media_root] if "://" in media_root else [])])
    if not media_root:
        raise _outside(video)
    if "://" in media_root:
        return _below(f"{media_root.rstrip('/')}/{video}", [media_root])
    root = Path(media_root).resolve()
    try:
        path = (root / video).resolve()  # follows links, so that a link cannot lead out either
    except (OSError, ValueError, RuntimeError):  # too long, or a circle of links
        raise _outside(video) from None
    if not path.is_relative_to(root):
        raise _outside(video)
    return str(path)


def _below(uri: str, prefixes: Sequence[str]) -> str:
    """``uri`` if it lies below a prefix and nothing in it leads out again, however often it is decoded."""
    try:
        parts = urlsplit(uri)
        clean = parts.scheme.lower() in _SCHEMES and "@" not in parts.netloc
    except ValueError:
        raise _outside(uri) from None
    steps = unquote(unquote(parts.path)).replace("\\", "/").split("/")
    if clean and ".." not in steps and any(uri.startswith(prefix.rstrip("/") + "/") for prefix in prefixes):
        return uri
    raise _outside(uri)


def _outside(video: str) -> Problem:
    return Problem(403, "outside_media_root", f"{video[:200]}: not below the media root; upload the file instead")


def is_web(uri: str) -> bool:
    return uri.lower().startswith(("http://", "https://"))


async def fetch(uri: str, out: IO[bytes], config: ServeConfig) -> None:
    """Writes what a URI that ``resolve`` allowed leads to into ``out``.

    Raises:
        Problem: 403 a redirect or address that is not allowed, 404 not there, 408 too slow, 413 too large,
            502 the other server failed.
    """
    try:
        async with asyncio.timeout(config.upload_timeout_s):
            if is_web(uri):
                await _fetch_web(uri, out, config)
            else:
                await asyncio.to_thread(_fetch_stored, uri, out, config.max_upload_bytes)
    except TimeoutError:
        raise Problem(408, "upload_timeout", f"{uri}: not here within {config.upload_timeout_s:g} s") from None


def _fetch_stored(uri: str, out: IO[bytes], max_bytes: int) -> None:
    try:
        with storage.open_read(uri) as file:
            for block in _blocks(file, uri, max_bytes):
                out.write(block)
    except FileNotFoundError:
        raise Problem(404, "missing_video", f"{uri}: no such video") from None
    except Problem:
        raise
    except Exception as error:  # every store has errors of its own, and their text may hold addresses and keys
        raise Problem(502, "fetch_failed", f"{uri}: could not be read ({type(error).__name__})") from None


def _blocks(file: IO[bytes], uri: str, max_bytes: int) -> Iterator[bytes]:
    seen = 0
    while block := file.read(1 << 20):
        seen += len(block)
        if seen > max_bytes:
            raise _too_large(uri, max_bytes)
        yield block


async def _fetch_web(uri: str, out: IO[bytes], config: ServeConfig) -> None:
    connector = aiohttp.TCPConnector(resolver=_Resolver(config.allow_private_addresses))
    try:
        async with aiohttp.ClientSession(connector=connector, trust_env=False) as session:
            for _ in range(MAX_REDIRECTS):
                _check_literal(uri, config.allow_private_addresses)
                async with session.get(uri, allow_redirects=False) as answer:
                    if answer.status not in REDIRECTS:
                        await _save(answer, uri, out, config.max_upload_bytes)
                        return
                    uri = _below(urljoin(uri, answer.headers.get("location", "")), prefixes(config))
    except aiohttp.ClientError as error:
        if isinstance(getattr(error, "os_error", None), _PrivateAddress):
            raise _private(uri) from None
        raise Problem(502, "fetch_failed", f"{uri}: could not be read ({type(error).__name__})") from None
    raise Problem(502, "fetch_failed", f"{uri}: more than {MAX_REDIRECTS} redirects")


async def _save(answer: aiohttp.ClientResponse, uri: str, out: IO[bytes], max_bytes: int) -> None:
    if answer.status != 200:
        missing = answer.status in (404, 410)
        status, reason = (404, "missing_video") if missing else (502, "fetch_failed")
        raise Problem(status, reason, f"{uri}: the other server answers {answer.status}")
    seen = 0
    async for block in answer.content.iter_chunked(1 << 20):
        seen += len(block)
        if seen > max_bytes:
            raise _too_large(uri, max_bytes)
        out.write(block)


class _PrivateAddress(OSError):
    """A host name that leads to an address which is not public."""


class _Resolver(AbstractResolver):
    """Names to addresses, public ones only unless ``private`` is allowed; what it gives is what is connected to."""

    def __init__(self, private: bool) -> None:
        self.private = private
        self.inner = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found: list[Any] = await self.inner.resolve(host, port, family)
        if not self.private and not all(_is_public(entry["host"]) for entry in found):
            raise _PrivateAddress(host)
        return found

    async def close(self) -> None:
        await self.inner.close()


def _check_literal(uri: str, private: bool) -> None:
    """A host that is written as an address never reaches the resolver."""
    host = urlsplit(uri).hostname or ""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return
    if not private and not _is_public(host):
        raise _private(uri)


def _is_public(address: str) -> bool:
    found = ipaddress.ip_address(address.partition("%")[0])
    return all(a.is_global and not a.is_multicast for a in (found, *_carried(found)))


def _carried(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> Iterator[ipaddress.IPv4Address]:
    """The IPv4 address that packets to an IPv6 one may end at."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.sixtofour:
            yield address.sixtofour
        if any(address in network for network in _EMBEDDING):
            yield ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)


def _private(uri: str) -> Problem:
    return Problem(403, "private_address", f"{uri}: leads to an address that is not public")


def _too_large(uri: str, max_bytes: int) -> Problem:
    return Problem(413, "upload_too_large", f"{uri}: larger than {max_bytes / 2**20:g} MiB")
