"""A real S3 server on this machine that, asked to, answers 503 now and then and cuts connections in mid-body."""

from __future__ import annotations

import itertools
import os
import threading
import urllib.request
from contextlib import contextmanager

import fsspec
import pytest

from pipelines.core import storage

SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
SECRET = "aSecretThatMustNotBeWrittenAnywhere"


class Unreliable:
    """WSGI middleware. counts: how often each fault was served."""

    def __init__(self, app, slow_every=0, cut_every=0):
        self.app, self.slow_every, self.cut_every = app, slow_every, cut_every
        self.requests, self.bodies = itertools.count(1), itertools.count(1)
        self.counts = {"requests": 0, "slow": 0, "cut": 0}

    def __call__(self, environ, start_response):
        self.counts["requests"] += 1
        if self.slow_every and next(self.requests) % self.slow_every == 0:
            self.counts["slow"] += 1
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start_response(
                "503 Slow Down", [("Content-Type", "application/xml"), ("Content-Length", str(len(SLOW_DOWN)))]
            )
            return [SLOW_DOWN]
        body = self.app(environ, start_response)
        is_video = environ["REQUEST_METHOD"] == "GET" and environ["PATH_INFO"].endswith(".mp4")
        if is_video and self.cut_every and next(self.bodies) % self.cut_every == 0:
            self.counts["cut"] += 1
            return self.half(b"".join(body))
        return body

    def half(self, data):
        yield data[: len(data) // 2]
        raise ConnectionAbortedError("cut")  # the server closes the connection


@contextmanager
def s3_server(slow_every=0, cut_every=0):
    """Gives (environment for a client's process, the middleware)."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log(self, *args, **kwargs):
            pass

    app = Unreliable(DomainDispatcherApplication(create_backend_app), slow_every, cut_every)
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    state = urllib.request.Request(f"http://127.0.0.1:{server.server_port}/moto-api/reset", method="POST")
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(state).close()  # it outlives servers
    try:
        yield (
            {
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
                "AWS_ACCESS_KEY_ID": "anAccessKey",
                "AWS_SECRET_ACCESS_KEY": SECRET,
                "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_EC2_METADATA_DISABLED": "true",
                **dict.fromkeys(("no_proxy", "NO_PROXY"), "127.0.0.1"),
            },
            app,
        )
    finally:
        server.shutdown()
        thread.join()


@contextmanager
def s3_bucket(**faults):
    """The server for this process, too, with an empty bucket named ``bucket``; arguments and what it gives as there."""
    s3 = fsspec.get_filesystem_class("s3")
    with pytest.MonkeyPatch.context() as patch, s3_server(**faults) as (environment, app):
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in environment.items():
            patch.setenv(name, value)
        s3.clear_instance_cache()
        storage.resolve("s3://bucket")[0].mkdir("bucket")
        yield environment, app
    s3.clear_instance_cache()


def clean(environment):
    """This process's environment without settings of a cloud of its own."""
    return {k: v for k, v in os.environ.items() if not k.startswith("AWS_")} | environment
