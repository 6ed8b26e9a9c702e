"""The HTTP front in a thread of the test's own process."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

import uvicorn

from serving.http.app import create_app
from serving.http.config import HttpConfig

__all__ = ["http_front"]

PATIENCE_S = 120


@contextmanager
def http_front(config: HttpConfig) -> Iterator[str]:
    """Run the front on a free port of loopback; yield its URL."""
    settings = uvicorn.Config(create_app(config), log_config=None, lifespan="on")
    server = uvicorn.Server(settings)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        deadline = time.monotonic() + PATIENCE_S
        while not server.started:
            assert thread.is_alive() and time.monotonic() < deadline, "the front did not start"
            time.sleep(0.02)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(PATIENCE_S)
