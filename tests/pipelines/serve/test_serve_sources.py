"""What may be named, and fetching it: real HTTP servers on this machine, no Ray."""

from __future__ import annotations

import asyncio
import io
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pipelines.serve.config import ServeConfig, check_access, is_loopback
from pipelines.serve.problems import Problem
from pipelines.serve.sources import fetch, prefixes, resolve
from spacevllm.config import ConfigError

CONTENT = bytes(range(256)) * 8


class Host(BaseHTTPRequestHandler):
    """/videos/clip.mp4, and redirects to wherever the address says."""

    def do_GET(self):
        place = self.path.removeprefix("/videos/")
        if place.startswith("to="):
            self.send_response(302)
            self.send_header("location", place.removeprefix("to="))
            self.end_headers()
        elif place in ("clip.mp4", "endless.mp4"):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(CONTENT * (1 if place == "clip.mp4" else 1000))
        else:
            self.send_error(500 if place == "broken" else 404)

    def log_message(self, *_):
        pass


@contextmanager
def serving():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Host)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def host():
    with serving() as url:
        yield url


def config(*allowed, private=True, **options):
    return ServeConfig(
        model="m", allowed_uris=list(allowed), allow_private_addresses=private, max_upload_mb=1, **options
    )


def fetched(uri, settings):
    out = io.BytesIO()
    asyncio.run(fetch(resolve(uri, settings.media_root, settings.allowed_uris), out, settings))
    return out.getvalue()


def refused(uri, settings):
    with pytest.raises(Problem) as problem:
        fetched(uri, settings)
    return problem.value.status, problem.value.reason


def test_what_is_allowed_is_fetched(host):
    assert fetched(f"{host}/videos/clip.mp4", config(f"{host}/videos/")) == CONTENT
    assert fetched(f"{host}/videos/to=/videos/clip.mp4", config(f"{host}/videos")) == CONTENT
    root = ServeConfig(model="m", media_root=f"{host}/videos", allow_private_addresses=True)
    assert prefixes(root) == [f"{host}/videos"]
    assert fetched("clip.mp4", root) == CONTENT


def test_failures_have_reasons(host):
    settings = config(f"{host}/videos/")
    assert refused(f"{host}/videos/none.mp4", settings) == (404, "missing_video")
    assert refused(f"{host}/videos/broken", settings) == (502, "fetch_failed")
    assert refused(f"{host}/videos/endless.mp4", settings) == (413, "upload_too_large")
    assert refused(f"{host}/videos/to=/videos/to=/videos/to=x", settings)[0] in (404, 502)
    nobody = "http://127.0.0.1:9/videos/"
    assert refused(nobody + "a.mp4", config(nobody)) == (502, "fetch_failed")


def test_redirects_do_not_lead_out(host):
    settings = config(f"{host}/videos/")
    for target in (
        "/etc/passwd",
        "file:///etc/passwd",
        "http://169.254.169.254/latest",
        "//evil.example/x",
        "../x",
        "",
    ):
        assert refused(f"{host}/videos/to={target}", settings)[0] in (403, 404, 502), target
    with serving() as other:
        assert refused(f"{host}/videos/to={other}/videos/clip.mp4", settings) == (403, "outside_media_root")


@pytest.fixture
def names(monkeypatch):
    """A DNS server in the hands of an attacker: each look-up of a name gives its next addresses."""
    told: dict[str, list[list[str]]] = {}
    whole = socket.getaddrinfo

    def look_up(host, port, *rest, **options):
        if host not in told:
            return whole(host, port, *rest, **options)
        addresses = told[host].pop(0) if len(told[host]) > 1 else told[host][0]
        return [entry for address in addresses for entry in whole(address, port, *rest, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return told


@pytest.mark.parametrize(
    "addresses", [["127.0.0.1"], ["8.8.8.8", "127.0.0.1"], ["169.254.169.254"], ["10.1.2.3"], ["::ffff:127.0.0.1"],
                  ["64:ff9b::127.0.0.1"], ["2002:7f00:1::"], ["::127.0.0.1"], ["fd00::1"], ["fe80::1"], ["ff02::1"]],
    ids=str,
)  # fmt: skip
def test_names_that_lead_to_private_addresses(names, host, addresses):
    port = host.rpartition(":")[2]
    names["films.example"] = [addresses]
    uri = f"http://films.example:{port}/videos/"
    assert refused(uri + "clip.mp4", config(uri, private=False)) == (403, "private_address")


def test_a_name_that_changes_between_check_and_connection(names, host):
    """Looked up once: what is connected to is what was checked, although the next look-up would lead here."""
    port = host.rpartition(":")[2]
    names["films.example"] = [["192.0.0.9"], ["127.0.0.1"]]  # the first is public, and nobody answers there
    uri = f"http://films.example:{port}/videos/"
    found = refused(uri + "clip.mp4", config(uri, private=False, upload_timeout_s=0.5))
    assert found in ((502, "fetch_failed"), (408, "upload_timeout"), (403, "private_address"))


LOCAL = ["127.0.0.1", "localhost", "2130706433", "0x7f000001", "127.1", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0"]
PRIVATE = ["10.0.0.1", "192.168.1.1", "172.16.0.1", "169.254.169.254", "100.64.0.1", "224.0.0.1"]


@pytest.mark.parametrize("name", LOCAL)
def test_no_private_address_by_any_name(host, name):
    port = host.rpartition(":")[2]
    uri = f"http://{name}:{port}/videos/"
    found = refused(uri + "clip.mp4", config(uri, private=False))
    assert found in ((403, "private_address"), (502, "fetch_failed"))  # some spellings are connected to by no client


@pytest.mark.parametrize(
    "address", ["10.0.0.1", "192.168.1.1", "172.16.0.1", "169.254.169.254", "100.64.0.1", "224.0.0.1"]
)
def test_no_private_network(address):
    uri = f"http://{address}/"
    assert refused(uri + "clip.mp4", config(uri, private=False)) == (403, "private_address")


@pytest.mark.parametrize(
    "uri",
    [
        "https://good.example/videos/../secret",
        "https://good.example/videos/%2e%2e/secret",
        "https://good.example/videos/%252e%252e/secret",
        "https://good.example/videos/..%5csecret",
        "https://good.example.evil.example/videos/a.mp4",
        "https://good.example@evil.example/videos/a.mp4",
        "https://user:word@good.example/videos/a.mp4",
        "https://good.example/videos2/a.mp4",
        "HTTPS://evil.example/videos/a.mp4",
        "file://good.example/videos/a.mp4",
        "FILE:///etc/passwd",
        "file:/etc/passwd",
        "file:etc/passwd",
        "file://localhost/etc/passwd",
        "local:///etc/passwd",
        "data:video/mp4;base64,AAAA",
        "ftp://good.example/videos/a.mp4",
        "zip://a.mp4::https://good.example/videos/a.zip",
        "simplecache::https://good.example/videos/a.mp4",
        "gopher://good.example/videos/a.mp4",
        "https://good.example/videos/a\r\nHost: evil",
        "https://[/videos/a.mp4",
        "clip.mp4",
    ],
)
def test_prefixes_hold(uri):
    with pytest.raises(Problem) as problem:
        resolve(uri, "", ["https://good.example/videos/"])
    assert problem.value.status == 403


@pytest.mark.parametrize(
    ("video", "uri"),
    [("a/b.mp4", "s3://bucket/videos/a/b.mp4"), ("s3://bucket/videos/c.mp4", "s3://bucket/videos/c.mp4")],
)
def test_remote_media_root(video, uri):
    assert resolve(video, "s3://bucket/videos/") == uri


@pytest.mark.parametrize(
    "video", ["s3://bucket/videos/../x.mp4", "s3://bucket/videos2/x.mp4", "../x.mp4", "s3://other/x"]
)
def test_remote_media_root_holds(video):
    with pytest.raises(Problem) as problem:
        resolve(video, "s3://bucket/videos")
    assert problem.value.status == 403


def test_local_names_that_no_file_can_have(tmp_path):
    for name in ("a::/etc/passwd", "a\0b", "x" * 300 + "/../../b", "../" * 50, "a/../../b", "//etc/passwd", "C:\\x"):
        with pytest.raises(Problem) as problem:
            resolve(name, str(tmp_path))
        assert problem.value.status == 403
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(Problem):
        resolve("loop/../../x", str(tmp_path))


def test_a_server_open_to_others_needs_a_key(monkeypatch):
    monkeypatch.delenv("SPACEVLLM_API_KEY", raising=False)
    check_access(ServeConfig(model="m"))
    with pytest.raises(ConfigError, match="SPACEVLLM_API_KEY"):
        check_access(ServeConfig(model="m", host="0.0.0.0"))
    for weak in ("short", "a key with spaces in it", "schlüssel-schlüssel"):
        with pytest.raises(ConfigError, match="at least 16"):
            check_access(ServeConfig(model="m", api_key=weak))
    monkeypatch.setenv("SPACEVLLM_API_KEY", "a-key-that-is-long")
    opened = ServeConfig(model="m", host="0.0.0.0")
    check_access(opened)
    assert "a-key-that-is-long" not in f"{opened!r}{opened.model_dump_json()}"
    assert is_loopback("::1") and is_loopback("localhost") and not is_loopback("example.org")
