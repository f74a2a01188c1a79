"""A fake server of the OpenAI protocol on 127.0.0.1, which answers as a test wants and writes down what it was asked.

::

    with FakeServer(lambda number, body: chat("1")) as server:
        door("run", "--model=local-chat-completions", f"--base_url={server.url}", "--pretrained=name")
    assert server.requests[0].body["model"] == "name"
"""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

Answer = tuple[int, Any]  # status, and a JSON value, a text or bytes; bytes may come with headers in a tuple


def chat(text: Any, **message: Any) -> Answer:
    """A chat's answer."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": "stop"}
    return 200, {"choices": [choice], "usage": {"prompt_tokens": 50, "completion_tokens": 2}}


def completion(text: Any, **choice: Any) -> Answer:
    """A completion's answer."""
    return 200, {"choices": [{"index": 0, "text": text, **choice}], "usage": {"prompt_tokens": 50, "completion_tokens": 2}}


@dataclass(frozen=True)
class Request:
    """What was asked."""

    path: str
    authorization: str | None
    body: dict[str, Any]

    @property
    def prompt(self) -> str:
        return self.body["messages"][-1]["content"] if "messages" in self.body else self.body["prompt"]


class FakeServer:
    """Answers while it is used as a context manager.

    Attributes:
        url: Its address, without a path.
        requests: Every request so far.
        closing: Set at the end; an answer that hangs waits for it.
    """

    def __init__(self, answer: Callable[[int, dict[str, Any]], Answer]) -> None:
        """Take a free port.

        Args:
            answer: From the number of the request, from 0, and its body to status and content.
        """
        self.answer = answer
        self.requests: list[Request] = []
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"fake": self}))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def note(self, request: Request) -> int:
        """Write a request down and return its number."""
        with self._lock:
            self.requests.append(request)
            return len(self.requests) - 1


class _Handler(BaseHTTPRequestHandler):
    fake: FakeServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        number = self.fake.note(Request(self.path, self.headers.get("Authorization"), body))
        status, content = self.fake.answer(number, body)
        headers = {"Content-Type": "text/html" if isinstance(content, str) else "application/json"}
        if isinstance(content, tuple):
            content, more = content
            headers |= more
        if not isinstance(content, bytes):
            content = (content if isinstance(content, str) else json.dumps(content)).encode()
        try:
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(content))}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)
        except (BrokenPipeError, ConnectionResetError):  # the client has gone: it was told to, or waited long enough
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the test output quiet; ``FakeServer.requests`` is the log."""
