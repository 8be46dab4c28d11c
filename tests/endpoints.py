"""A server on the loopback address that speaks OpenAI's chat protocol, or misbehaves in every way."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-this-must-never-be-seen"


class Endpoint:
    """A server on the loopback address; ``replies`` says what it does with each request in turn, the last for all others."""

    def __init__(self) -> None:
        self.replies: list[Any] = [4]
        self.seen: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.released = threading.Event()

    def next(self) -> Any:
        return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]


def message(**fields: Any) -> bytes:
    body = {"role": "assistant", "content": None, **fields}
    choice = {"index": 0, "message": body, "finish_reason": "stop"}
    return json.dumps(
        {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    ).encode()


@contextmanager
def serving() -> Iterator[tuple[Endpoint, str]]:
    """An endpoint and its URL; a reply is a grade, a body, "wait", no JSON, (status,), or made of what was asked."""
    state = Endpoint()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            state.seen.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            state.keys.append(self.headers["Authorization"])
            reply = state.next()
            if callable(reply):
                reply = reply(state.seen[-1]["messages"][0]["content"])
            if reply == "wait":
                state.released.wait(10)
                return
            status, body, kind = 200, reply, "application/json"
            if isinstance(reply, tuple):
                status, kind, body = (
                    reply[0],
                    "application/json",
                    json.dumps({"error": {"message": f"key {KEY}"}}).encode(),
                )
            elif isinstance(reply, int):
                body = message(content=str(reply))
            elif isinstance(reply, str):
                kind, body = "text/html", reply.encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Retry-After-Ms", "1")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield state, f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        state.released.set()
        server.shutdown()
        server.server_close()
