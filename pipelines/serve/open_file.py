"""A file as an HTTP answer that is whole even if the file is removed while it is sent."""

from __future__ import annotations

import os
from pathlib import Path

from fastapi.responses import FileResponse
from starlette.types import Receive, Scope, Send

HEADERS = {"content-security-policy": "sandbox", "cache-control": "private"}


class OpenFile(FileResponse):
    """Ranges, tags and dates as ``FileResponse``, of a file that is open from the beginning.

    ``FileResponse`` looks at the path when it is sent and opens it after the headers; a video may leave the store
    before either. ``/dev/fd`` names the open file, on Linux and macOS, whatever has become of its name.

    Args:
        kind: media type.

    Raises:
        FileNotFoundError: it is gone.
    """

    def __init__(self, path: Path, kind: str) -> None:
        self._file = path.open("rb")
        stat = os.fstat(self._file.fileno())
        super().__init__(f"/dev/fd/{self._file.fileno()}", media_type=kind, headers=HEADERS, stat_result=stat)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._file:
            await super().__call__(scope, receive, send)
