"""Who may ask, and what browsers may do with the answers: one ASGI layer around all routes.

With a key, every address but the page, its parts and the probes needs it. Without one the server listens on this
machine only; then a web page of another origin, or of a name that only resolves here, is turned away: a browser would
send its requests.
"""

from __future__ import annotations

import hmac
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipelines.serve.config import ServeConfig, is_loopback
from pipelines.serve.problems import Problem

OPEN = ("/", "/healthz", "/readyz", "/docs", "/openapi.json")  # and whatever lies below /page/
HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Security:
    """Refuses who may not ask with 401 or 403, and adds the headers that keep browsers careful."""

    def __init__(self, app: ASGIApp, config: ServeConfig) -> None:
        self.app = app
        self.key = config.api_key.get_secret_value()
        self.hosts = {config.host, *config.allowed_hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        problem = self._refuse(scope["path"], Headers(scope=scope))
        answer = problem.response() if problem else self.app
        await answer(scope, receive, send_with_headers)

    def _refuse(self, path: str, headers: Headers) -> Problem | None:
        if self.key:
            return None if path in OPEN or path.startswith("/page/") or self._has_key(headers) else NO_KEY
        host, origin = headers.get("host", ""), headers.get("origin")
        name = _split(f"//{host}")[1]
        if not is_loopback(name) and name not in self.hosts:
            return Problem(403, "unknown_host", "this server answers under its own name only (see allowed_hosts)")
        if origin is not None and _split(origin)[0] != host:
            return Problem(403, "cross_origin", "web pages of other servers may not ask this one")
        return None

    def _has_key(self, headers: Headers) -> bool:
        kind, _, sent = headers.get("authorization", "").partition(" ")
        return kind.lower() == "bearer" and hmac.compare_digest(sent.strip().encode(), self.key.encode())


def _split(url: str) -> tuple[str, str]:
    """Host with port, and host alone; nothing of what is no URL."""
    try:
        parts = urlsplit(url)
        return parts.netloc, parts.hostname or ""
    except ValueError:
        return "", ""


NO_KEY = Problem(401, "no_key", "send the server's key as `Authorization: Bearer KEY`", {"www-authenticate": "Bearer"})
