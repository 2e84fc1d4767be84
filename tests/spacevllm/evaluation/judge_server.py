"""A real server that speaks OpenAI's protocol and judges captions by one rule."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def judge_server(says_a):
    """Gives (address up to /v1, requests so far). ``says_a(prompt)``: whether it chooses option A, else B.

    The model ``broken`` always fails, ``shaky`` the first time.
    """
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append((self.path, asked, self.headers["Authorization"]))
            failing = asked["model"] == "broken" or (asked["model"] == "shaky" and len(seen) == 1)
            content = "Answer: A" if says_a(asked["messages"][0]["content"]) else "B"
            body = json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]}).encode()
            self.send_response(500 if failing else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", seen
    finally:
        server.shutdown()
        server.server_close()
