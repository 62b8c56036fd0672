"""An endpoint that is paid for every answer, and live gateways in front of it."""

import http.server
import json
import threading
import time
from contextlib import contextmanager

import pytest
from gateway_client import starter

SECRET = "canary-key-123456"


class Endpoint:
    """A model's endpoint: every answer has the same `usage`, comes after `delay_s`, and is paid for
    whether somebody waits for it or not. `bodies` are the requests that came."""

    def __init__(self):
        self.bodies: list[dict] = []
        self.delay_s = 0.0
        self.usage = {"input_tokens": 1000, "output_tokens": 1000}
        self.url = ""

    @contextmanager
    def serving(self):
        endpoint = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_HEAD(self):
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                endpoint.bodies.append(json.loads(body))
                time.sleep(endpoint.delay_s)
                message = {
                    "id": "msg_1",
                    "type": "message",
                    "role": "assistant",
                    "model": "m",
                    "content": [],
                    "stop_reason": "end_turn",
                    "usage": endpoint.usage,
                }
                answer = json.dumps(message).encode()
                try:
                    self.send_response(200)
                    self.send_header("content-length", str(len(answer)))
                    self.end_headers()
                    self.wfile.write(answer)
                except OSError:
                    pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads, request_queue_size = True, 512

            def handle_error(self, *_):
                pass

        with Server(("127.0.0.1", 0), Handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            self.url = f"http://127.0.0.1:{server.server_address[1]}"
            yield self
            server.shutdown()


@pytest.fixture
def endpoint():
    with Endpoint().serving() as endpoint:
        yield endpoint


@pytest.fixture
def live(tmp_path, endpoint):
    """Starts live gateways in front of the endpoint."""
    with starter(tmp_path) as start:
        yield lambda **more: start(
            mode="live",
            base_url=endpoint.url,
            credential={"kind": "x-api-key", "secret": SECRET},
            **more,
        )
