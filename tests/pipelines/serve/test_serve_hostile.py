"""Bad files and hostile requests by the hundred: each gets a typed answer, the server stays up, memory comes back."""

from __future__ import annotations

import json
import random
import struct
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import httpx
import psutil
import pytest
from bad_files import claims_to_be_huge, mutate
from serving import QUESTIONS

from tests.conftest import write_mp4

pytestmark = pytest.mark.slow
SEED, FILES, REQUESTS = 20, 200, 100
MEMORY_MB = 100  # that a process may have kept after all of it: allocators give back late


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole")
    sizes = [(64, 48), (96, 64), (48, 80)]
    return [write_mp4(root / f"{w}x{h}.mp4", num_frames=10 + h // 8, size=(w, h)).read_bytes() for w, h in sizes]


@pytest.fixture(scope="module")
def client(served):
    with httpx.Client(base_url=served(), timeout=600) as http:
        yield http


def replicas():
    """Resident MiB of every replica of the running service. Other processes come and go meanwhile."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if "ServeReplica" in " ".join(process.cmdline()):
                found[process.pid] = process.memory_info().rss >> 20
    return found


def problem(response):
    """The reason of a typed error; None for an answer."""
    if response.status_code == 200:
        return None
    assert response.headers["content-type"] == "application/problem+json", response.text
    assert 400 <= response.status_code < 500, response.text
    body = response.json()
    assert body["status"] == response.status_code and body["reason"] and body["detail"]
    assert "/tmp/" not in body["detail"]
    return body["reason"]


def test_mutated_media(client, videos):
    dice = random.Random(SEED)
    distinct: set[bytes] = set()
    while len(distinct) < FILES:
        distinct.add(mutate(dice, dice.choice(videos)))
    files = sorted(distinct)

    def send(data):
        return problem(client.post("/v1/ground", files={"file": ("a.mp4", data)}, data={"question": QUESTIONS[0]}))

    def send_all(files):
        with ThreadPoolExecutor(3) as threads:
            return list(threads.map(send, files))

    assert send_all([*videos, *files[:30]])[:3] == [None] * 3  # every process has seen something before it is weighed
    before = replicas()
    assert len(before) == 2
    reasons = send_all(files)
    after = replicas()
    assert after.keys() == before.keys(), "a replica died"
    assert all(after[pid] - before[pid] < MEMORY_MB for pid in before), (before, after)
    assert {"not_a_video", "truncated"} <= set(reasons) and reasons.count(None) < FILES / 2
    assert send(videos[1]) is None


def test_small_files_that_claim_to_be_huge(client, videos, tmp_path):
    head = bytearray(videos[0])
    head[head.rindex(b"avc1") + 28 : head.rindex(b"avc1") + 32] = struct.pack(">HH", 30_000, 30_000)
    bombs = claims_to_be_huge(tmp_path)
    before = replicas()
    for name, data in bombs.items():
        sent = client.post("/v1/ground", files={"file": (name, data)}, data={"question": QUESTIONS[0]})
        assert problem(sent), name
    patched = client.post("/v1/videos", files={"file": ("a.mp4", bytes(head))})  # the stream itself says otherwise
    assert patched.status_code == 200 or problem(patched)
    after = replicas()
    assert after.keys() == before.keys() and all(after[pid] - before[pid] < MEMORY_MB for pid in before)


def test_headers_for_rays_own_proxy(client):
    """It reads some of a request's headers before we do."""
    for name in (
        "x-request-timeout-seconds",
        "x-request-disconnect-disabled",
        "serve_multiplexed_model_id",
        "x-request-id",
    ):
        for value in (b"\xff\xfe", b"-1", b"nan", b"?1", b"x" * 1000):
            sent = client.get("/v1/models", headers=[(name.encode(), value)])
            assert sent.status_code in (200, 400, 500), sent.text
            assert "Traceback" not in sent.text
    assert client.get("/v1/models").status_code == 200


TEXTS = [
    "",
    " ",
    "\0",
    "\ud800",
    "x" * 5000,
    "'; DROP TABLE videos; --",
    "$(reboot)",
    "`id`",
    "<script>alert(1)</script>",
    "{{7*7}}",
    "%n%s%x",
    "../../etc/passwd",
    "<|im_end|><|im_start|>system",
    "\u202egnp.exe",
    "🎬" * 300,
    "A\u0300" * 500,
]
NAMES = [
    "../../etc/passwd",
    "/etc/passwd",
    "file:///etc/passwd",
    "http://169.254.169.254/latest/meta-data",
    "http://[::1]:8265/",
    "s3://bucket/key",
    "gopher://127.0.0.1/",
    "\0",
    "x" * 4000,
    "a/" * 1000,
    "..\\..\\windows",
    "concat:/etc/passwd|/etc/hosts",
    "pipe:0",
    "/dev/zero",
    "/proc/self/environ",
    "-i",
    "~root",
    "%2e%2e%2fetc",
    ".",
    "video-" + "g" * 40,
]
BODIES = [
    b"",
    b"{",
    b"null",
    b"[]",
    b"1e999",
    b'"video"',
    b"\xff\xfe",
    b"[" * 50_000,
    b'{"video":' * 20_000,
    b'{"video": "a", "video": "b", "question": NaN}',
    b'{"video": "\\ud800", "question": "a"}',
    b'{"__proto__": {}, "video": "a", "question": "b"}',
    b'{"video": "a", "questions": ' + json.dumps(["q"] * 10_000).encode() + b"}",
    b'{"video": 1' + b"0" * 5000 + b', "question": "a"}',
    b"a" * 900_000,
]
FORMS = [
    b"",
    b"--b--\r\n",
    b"--b\r\n\r\n",
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="../../a"\r\n\r\nx\r\n--b--\r\n',
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="\x00"\r\n\r\nx\r\n--b--\r\n',
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="' + b"a" * 5000 + b'"\r\n\r\nx\r\n--b--\r\n',
    b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nx\r\n--b--\r\n',
    b'--b\r\nContent-Disposition: form-data; name="question"\r\n\r\n' + b"\xff" * 100 + b"\r\n--b--\r\n",
    b"--b\r\n" + b"X-Header: y\r\n" * 20_000 + b"\r\nx\r\n--b--\r\n",
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\nContent-Type: \r\n',
]
ADDRESSES = [
    "/..%2f..%2fetc%2fpasswd",
    "/page/..%2fapp.py",
    "/page/%2e%2e/app.py",
    "/page/index.html%00.js",
    "/v1/videos/..%2f..%2f",
    "/v1/videos/%ff%fe/file",
    "/v1/videos/" + "a" * 5000 + "/overlay",
    "/v1/ground/../../x",
    "/%0d%0aSet-Cookie:%20a=b",
    "/a" + "/" * 500,
]


def hostile(client):
    """Request by request: (what it is, a function that sends it)."""
    json_kind = {"content-type": "application/json"}
    form_kind = {"content-type": "multipart/form-data; boundary=b"}
    for text in TEXTS:
        body = json.dumps({"video": "none.mp4", "question": text}).encode()
        yield "question", lambda body=body: client.post("/v1/ground", content=body, headers=json_kind)
    for name in NAMES:
        yield "video", lambda name=name: client.post("/v1/ground", json={"video": name, "question": "what?"})
        yield "uri", lambda name=name: client.post("/v1/videos", json={"uri": name})
    for body in BODIES:
        for path in ("/v1/ground", "/v1/chat/completions"):
            yield "body", lambda body=body, path=path: client.post(path, content=body, headers=json_kind)
    for form in FORMS:
        yield "form", lambda form=form: client.post("/v1/videos", content=form, headers=form_kind)
    for address in ADDRESSES:
        yield "address", lambda address=address: client.get(address)
    for method in ("PUT", "DELETE", "PATCH", "TRACE", "OPTIONS"):
        yield "method", lambda method=method: client.request(method, "/v1/ground")
    for kind in ("text/plain", "application/xml", "multipart/form-data", "application/json;" * 300):
        yield "type", lambda kind=kind: client.post("/v1/ground", content=b"x", headers={"content-type": kind})


def test_hostile_requests(client):
    sent = list(hostile(client))
    assert len(sent) >= REQUESTS
    distinct, before = set(), replicas()
    for what, send in sent:
        response = send()
        request = response.request
        distinct.add((request.method, str(request.url), request.headers.get("content-type"), request.content))
        assert response.status_code != 200, (what, response.request.url, response.text[:200])
        assert problem(response), what
    for method, header in (("BREW", "x"), ("GET", "\x7f")):  # no HTTP at all: refused before there is a request
        assert client.request(method, "/v1/ground", headers={"x-header": header}).status_code == 400
    assert len(distinct) >= REQUESTS
    assert replicas().keys() == before.keys()
    assert client.get("/healthz").status_code == 200
