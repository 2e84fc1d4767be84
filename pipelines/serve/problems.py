"""Errors as RFC 9457 problem documents (``application/problem+json``): status, title, detail, a stable ``reason``."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from pipelines.serve.metrics import PROBLEMS

SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "reason"],
    "properties": {
        "type": {"type": "string", "examples": ["about:blank"]},
        "title": {"type": "string", "examples": ["Unprocessable Content"]},
        "status": {"type": "integer", "examples": [422]},
        "detail": {"type": "string", "examples": ["clip.mp4 is truncated"]},
        "reason": {"type": "string", "description": "short slug that programs can rely on"},
    },
}


class Problem(Exception):
    """An answer that is an error.

    Attributes:
        status: HTTP status code.
        reason: slug such as ``upload_too_large``; it stays when wording changes.
        detail: one sentence for a person: what was wrong with this request.
        headers: of the answer, such as Retry-After.
    """

    def __init__(self, status: int, reason: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        detail = detail.encode(errors="replace").decode()  # half of a surrogate pair cannot be sent
        super().__init__(detail)
        self.status, self.reason, self.detail, self.headers = status, reason, detail, dict(headers or {})

    def document(self) -> dict[str, Any]:
        """What is sent, and counted as sent."""
        PROBLEMS.labels(self.reason).inc()
        return {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "reason": self.reason,
        }

    def response(self) -> JSONResponse:
        return JSONResponse(self.document(), self.status, self.headers, media_type="application/problem+json")


def bug(error: Exception) -> Problem:
    """What is told of an error that nobody foresaw."""
    return Problem(500, "internal_error", f"{type(error).__name__}; the server's log has more")


def described(*codes: int) -> dict[int | str, dict[str, Any]]:
    """``responses`` of a route that may answer with these."""
    content = {"application/problem+json": {"schema": SCHEMA}}
    return {code: {"description": "problem document", "content": content} for code in codes}


def install_handlers(app: FastAPI) -> None:
    """Makes every error of ``app`` a problem document, unknown addresses and bugs included."""

    async def problem(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, Problem)
        return error.response()

    async def http_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        reason = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
        response = Problem(error.status_code, reason, f"{request.method} {request.url.path}: {error.detail}").response()
        response.headers.update(error.headers or {})  # a 405 names the methods that are allowed
        return response

    async def unforeseen(_: Request, error: Exception) -> JSONResponse:  # starlette logs the traceback itself
        return bug(error).response()

    app.add_exception_handler(Problem, problem)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(Exception, unforeseen)
