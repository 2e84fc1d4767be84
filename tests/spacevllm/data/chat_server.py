"""A real HTTP endpoint in OpenAI's chat form that misbehaves on demand."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from spacevllm.data.moving_shapes.oracle import name_subject


@contextmanager
def chat_server(plan=()):
    """Gives (url, requests). ``plan`` says how the first requests are answered, the others get the right answer:

    a number: that status · ``"hang"``: no answer while the server is up · ``("after", n)``: the right answer, when n
    requests have come · other text: that text as the model's words.
    """
    requests, over, lock = [], threading.Event(), threading.Lock()
    came = threading.Condition(lock)
    steps = list(plan)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                requests.append({"path": self.path, "key": self.headers.get("Authorization"), **body})
                step = steps.pop(0) if steps else None
                came.notify_all()
                if isinstance(step, tuple):
                    came.wait_for(lambda: len(requests) >= step[1])
                    step = None
            if step == "hang":
                over.wait()
                return
            words = name_subject([m for m in body["messages"] if m["content"].startswith("Caption")])
            answer = {"choices": [{"message": {"role": "assistant", "content": words if step is None else step}}]}
            raw = json.dumps(answer).encode()
            self.send_response(step if isinstance(step, int) else 200)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", requests
    finally:
        over.set()
        server.shutdown()
        server.server_close()
