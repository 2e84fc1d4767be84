"""Bodies, headers and keys as clumsy clients and attackers send them: the real readers over real HTTP, no model."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import ExitStack, closing

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Request
from hypothesis import given
from hypothesis import strategies as st
from serving import assert_problem

from pipelines.serve.config import ServeConfig
from pipelines.serve.problems import install_handlers
from pipelines.serve.requests import file_name, read_ground, read_video
from pipelines.serve.security import PAGE_POLICY, Security

KEY = "a-key-of-tests-only"
CONFIG = ServeConfig(model="m", max_upload_mb=1, max_questions=3, upload_timeout_s=1.0, api_key=KEY)
MANY = 50  # connections at once


def application():
    app = FastAPI()
    install_handlers(app)
    app.add_middleware(Security, config=CONFIG)

    @app.post("/v1/videos")
    async def video(request: Request):
        async with read_video(request, CONFIG) as asked:
            return {"video": asked.video, "bytes": asked.upload and asked.upload.size}

    @app.post("/v1/ground")
    async def ground(request: Request):
        async with read_ground(request, CONFIG) as asked:
            return {"video": asked.video, "questions": asked.questions, "stream": asked.stream}

    return app


@pytest.fixture(scope="module")
def address():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()  # now, not once the thread gets there: who connects before waits instead of being refused
        server = uvicorn.Server(uvicorn.Config(application(), log_config=None))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield listening.getsockname()
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def client(address):
    with httpx.Client(base_url="http://{}:{}".format(*address), timeout=600) as http:
        http.headers["authorization"] = f"Bearer {KEY}"
        yield http


def head(kind, *more, path="/v1/ground"):
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {KEY}", f"Content-Type: {kind}", *more, "", ""]
    return "\r\n".join(lines).encode()


def said(connection):
    """All of the answer, until the server closes the connection."""
    with closing(connection), connection.makefile("rb") as answer:
        return answer.read()


def exchange(address, data):
    connection = socket.create_connection(address, timeout=600)
    connection.sendall(data)
    return said(connection)


GOOD = {"json": {"video": "a.mp4", "question": "what?"}}


def test_uploads_that_drip_in_are_given_up_and_hold_nobody_up(address, client):
    """Each sends a good beginning and then nothing."""
    form = head("multipart/form-data; boundary=b", "Content-Length: 999", "Connection: close")
    form += b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\nxx'
    json = head("application/json", "Content-Length: 99", "Connection: close") + b'{"video"'
    with ExitStack() as stack:
        dripping = [stack.enter_context(socket.create_connection(address, timeout=600)) for _ in range(MANY)]
        for number, connection in enumerate(dripping):
            connection.sendall(form if number % 2 else json)
        assert client.post("/v1/ground", **GOOD).status_code == 200
        for connection in dripping:
            answer = said(connection)
            assert answer.startswith(b"HTTP/1.1 408") and b"upload_timeout" in answer


FIELD = b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'


@pytest.mark.parametrize("fields", [[b"x" * (65 << 10)], [b"x" * 1000] * 100])
def test_fields_are_few_and_small_for_they_stay_in_memory(client, fields):
    body = b"".join(FIELD % (b"question", text) for text in fields) + b"--b--\r\n"
    headers = {"content-type": "multipart/form-data; boundary=b"}
    assert_problem(client.post("/v1/ground", content=body, headers=headers), 400, "malformed_body")


def test_questions_in_a_form_have_caps_of_their_own(client):
    def ask(questions):
        return client.post("/v1/ground", files={"file": b"x"}, data={"question": questions})

    assert ask(["a", "b", "c"]).status_code == 200
    assert_problem(ask(["a", "b", "c", "d"]), 400, "too_many_questions")
    assert_problem(ask(["x" * (CONFIG.max_question_chars + 1)]), 422, "question_too_long")
    assert_problem(ask(["x" * (63 << 10)]), 422, "question_too_long")


def test_a_byte_now_and_then_does_not_win_time(address):
    with socket.create_connection(address, timeout=600) as connection:
        connection.sendall(head("application/json", "Content-Length: 100000", "Connection: close"))
        begun, answer = time.monotonic(), b""
        connection.settimeout(0.1)
        while not answer:
            connection.sendall(b" ")
            try:
                answer = connection.recv(1000)
            except TimeoutError:
                continue
        assert answer.startswith(b"HTTP/1.1 408") and time.monotonic() - begun >= CONFIG.upload_timeout_s


def test_heads_that_never_end_hold_nobody_up(address, client):
    with ExitStack() as stack:
        for _ in range(MANY):
            connection = stack.enter_context(socket.create_connection(address, timeout=600))
            connection.sendall(b"POST /v1/ground HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        assert client.post("/v1/ground", **GOOD).status_code == 200


@pytest.mark.parametrize(
    "head_lines",
    [
        ["X-Large: " + "x" * 1_000_000],
        [f"X-{number}: y" for number in range(50_000)],
        ["Content-Length: -1"],
        ["Content-Length: +5"],
        ["Content-Length: 5, 6"],
        ["Content-Length: 5", "Content-Length: 6"],
        ["Content-Length: 0x10"],
        ["Transfer-Encoding: chunked, gzip"],
        ["Bad Name: x"],
        ["X-Null: a\0b"],
        ["No colon"],
    ],
    ids=lambda lines: lines[0][:30],
)
def test_heads_that_are_no_http_are_refused(address, client, head_lines):
    try:
        answer = exchange(address, head("application/json", "Connection: close", *head_lines) + b"12345")
    except ConnectionError:  # closed while we were still sending
        answer = b"HTTP/1.1 400"
    assert answer[:10] == b"HTTP/1.1 4", answer[:200]
    assert client.post("/v1/ground", **GOOD).status_code == 200


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=b"])
def test_chunks_beyond_the_limit(client, kind):
    def endless():
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n'
        for _ in range(17):
            yield bytes(1 << 16)

    sent = client.post("/v1/videos", content=endless(), headers={"content-type": kind})
    assert "content-length" not in sent.request.headers
    assert_problem(sent, 413, "upload_too_large")


def test_a_length_beyond_the_limit_is_refused_before_a_byte_of_it(address):
    answer = exchange(address, head("application/json", f"Content-Length: {10**15}", "Connection: close"))
    assert answer.startswith(b"HTTP/1.1 413") and b"application/problem+json" in answer


@pytest.mark.parametrize("opening", [b"[", b'{"video":', b'{"questions":[', b'[[{"a":'])
def test_deep_json(client, opening):
    for body in (opening * 20_000, opening * 20_000 + b"1" + b"]" * 20_000):
        sent = client.post("/v1/ground", content=body, headers={"content-type": "application/json"})
        assert_problem(sent, 400, "malformed_body")


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/json", 200),
        ("Application/JSON; charset=utf-8", 200),
        ("application/json ;", 200),
        ("application/json-patch+json", 415),
        ("application/problem+json", 415),
        ("text/json", 415),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("video/mp4", 415),
        ("multipart/mixed; boundary=b", 415),
        ("multipart/form-data", 400),
        ("*/*", 415),
        ("", 415),
    ],
)
def test_content_types(client, kind, status):
    body = b'{"video": "a.mp4", "question": "what?"}'
    sent = client.post("/v1/ground", content=body, headers={"content-type": kind})
    assert sent.status_code == status, sent.text
    if status != 200:
        assert_problem(sent, status, "unsupported_media_type" if status == 415 else "malformed_body")


NAMES = {
    "clip.mp4": "clip.mp4",
    "../../etc/passwd": "passwd",
    "C:\\videos\\clip.mp4": "clip.mp4",
    "": "upload",
    "..": "..",
    "a/": "upload",
    "\u202e4pm.exe": "4pm.exe",
    "line\nbreak\r\n\x1b[31m.mp4": "linebreak[31m.mp4",
    "nul\0.mp4": "nul.mp4",
    "größe 猫.mp4": "größe 猫.mp4",
    "\ud800.mp4": ".mp4",
    "x" * 5000: "x" * 200,
}


@pytest.mark.parametrize(("sent", "kept"), NAMES.items(), ids=range(len(NAMES)))
def test_names_of_files(sent, kept):
    assert file_name(sent) == kept


@given(st.text())
def test_no_name_disturbs_a_log_a_page_or_a_folder(sent):
    name = file_name(sent)
    assert 0 < len(name) <= 200 and name.isprintable() and "/" not in name and "\\" not in name
    name.encode()


def test_an_upload_keeps_its_name_and_its_bytes(client):
    sent = client.post("/v1/videos", files={"file": ("größe\n猫.mp4", b"12345")})
    assert sent.json()["bytes"] == 5 and sent.json()["video"].startswith("größe")


@pytest.mark.parametrize(
    "key", ["", "Bearer", f"Bearer {KEY[:-1]}", f"Bearer {KEY}x", f"Bearer {KEY.upper()}", KEY,
            f"Basic {KEY}", f"Bearer {KEY} {KEY}", "Bearer \xff\xfe", "Bearer " + "x" * 10_000],
)  # fmt: skip
def test_wrong_keys(client, key):
    sent = client.post("/v1/ground", **GOOD, headers={"authorization": key.encode("latin-1")})
    assert_problem(sent, 401, "no_key")
    assert sent.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "path",
    [
        "//v1/ground",
        "/page/../v1/ground",
        "/page/%2e%2e/v1/ground",
        "/v1/ground/",
        "/%76%31/ground",
        "/docs/../v1/ground",
    ],
)
def test_no_way_around_the_key(address, path):
    request = head("application/json", "Content-Length: 2", "Connection: close", path=path)
    answer = exchange(address, request.replace(f"Authorization: Bearer {KEY}\r\n".encode(), b"") + b"{}")
    assert answer.split()[1] in (b"401", b"404"), answer[:100]


def test_the_pages_policy_lets_nothing_inline_run():
    assert "script-src 'self'" in PAGE_POLICY and "unsafe" not in PAGE_POLICY and "*" not in PAGE_POLICY
