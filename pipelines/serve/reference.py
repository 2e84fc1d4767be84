"""``/docs``: the routes as a plain page, made of the OpenAPI description.

Without scripts it cannot read the key that the page keeps, and it needs no other server.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>SpaceVLLM: API</title><link rel="icon" href="/page/icon.svg"><link rel="stylesheet" href="/page/page.css"></head>
<body><header class="top"><h1>API</h1><p>Machines read <a href="/openapi.json">openapi.json</a></p></header><main>
"""
FOOT = '</main><footer class="quiet"><a href="/">Ask a video</a></footer></body></html>\n'


def reference(openapi: Mapping[str, Any]) -> str:
    """HTML of an OpenAPI document, routes in its order."""
    routes = [
        "".join(_route(method, path, route))
        for path, methods in openapi["paths"].items()
        for method, route in methods.items()
    ]
    return HEAD + _text(openapi["info"]["description"]) + "".join(routes) + FOOT


def _route(method: str, path: str, route: Mapping[str, Any]) -> Iterator[str]:
    yield f'<section class="route"><h2><code>{method.upper()} {escape(path)}</code></h2>'
    yield _text(route.get("summary", "")) + _text(route.get("description", ""))
    for parameter in route.get("parameters", []):
        yield _fields(f"In the {parameter['in']}", {parameter["name"]: parameter["schema"]})
    for kind, content in route.get("requestBody", {}).get("content", {}).items():
        yield _fields(kind, content["schema"]["properties"])
    answers = {code: answer["description"] for code, answer in route["responses"].items()}
    well = "; ".join(f"{code}: {what}" for code, what in answers.items() if code < "400")
    yield _text(f"{well}; a problem: {', '.join(code for code in answers if code >= '400')}", "quiet") + "</section>"


def _fields(title: str, properties: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        f"<li><code>{escape(name)}</code> {escape(', '.join(filter(None, (_type(one), one.get('description')))))}</li>"
        for name, one in properties.items()
    ]
    return f'<p class="quiet">{escape(title)}</p><ul>{"".join(rows)}</ul>'


def _type(schema: Mapping[str, Any]) -> str:
    if options := schema.get("anyOf"):
        return " or ".join(map(_type, options))
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return str(schema.get("type") or schema.get("$ref", "").rpartition("/")[2])


def _text(text: str, kind: str = "") -> str:
    paragraphs = filter(None, (paragraph.strip() for paragraph in text.split("\n\n")))
    return "".join(f'<p class="{kind}">{_marked(paragraph)}</p>' for paragraph in paragraphs)


def _marked(text: str) -> str:
    """The little Markdown that descriptions have."""
    return re.sub(r"\*(\w+)\*", r"<em>\1</em>", re.sub("`([^`]*)`", r"<code>\1</code>", escape(text)))
