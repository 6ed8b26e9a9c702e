"""Raw HTTP/2: calls that a gRPC client would not make, such as headers without a message."""

from __future__ import annotations

import socket
import struct
import time

from benchmarks.chaos.hostile.wire import frame, grpc_message, header_block

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
END_HEADERS, END_STREAM, ACK = 4, 1, 1
INITIAL_WINDOW_SIZE = 4
CANCEL, ENHANCE_YOUR_CALM = 8, 11


class RawConnection:
    """A connection to a gRPC server; a window of 0 bytes leaves every response unread."""

    def __init__(self, address: str, window: int = 65_535, source: str = "127.0.0.1") -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), source_address=(source, 0))
        settings = struct.pack(">HI", INITIAL_WINDOW_SIZE, window)
        self.socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, settings))
        self.streams = 0

    def __enter__(self) -> RawConnection:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def call(self, method: str, message: bytes | None = None, **metadata: bytes) -> None:
        """Open a call; without a message nothing follows its headers."""
        data = self._headers(method, metadata)
        if message is not None:
            data += frame(DATA, END_STREAM, self._stream, grpc_message(message))
        self.socket.sendall(data)

    def reset_at_once(self, count: int, method: str, **metadata: bytes) -> None:
        """Open calls and reset each of them before the next, all in one piece."""
        self.socket.sendall(
            b"".join(
                self._headers(method, metadata)
                + frame(RST_STREAM, 0, self._stream, struct.pack(">I", CANCEL))
                for _ in range(count)
            )
        )

    @property
    def _stream(self) -> int:
        return 2 * self.streams - 1

    def _headers(self, method: str, metadata: dict[str, bytes]) -> bytes:
        self.streams += 1
        fields = {
            b":method": b"POST",
            b":scheme": b"http",
            b":path": method.encode(),
            b":authority": b"x",
            b"te": b"trailers",
            b"content-type": b"application/grpc",
            **{name.encode(): value for name, value in metadata.items()},
        }
        return frame(HEADERS, END_HEADERS, self._stream, header_block(fields.items()))

    def are_refused_within(self, streams: int, seconds: float) -> bool:
        """Read until the server has refused so many streams by itself."""
        self.socket.settimeout(seconds)
        refusal, answers = struct.pack(">I", ENHANCE_YOUR_CALM), self.socket.makefile("rb")
        try:
            while streams:
                head = answers.read(9)
                payload = answers.read(int.from_bytes(head[:3]))
                streams -= (head[3], payload) == (RST_STREAM, refusal)
        except TimeoutError:
            return False
        return True

    def has_read_all_within(self, seconds: float) -> bool:
        """Ping the server, which reads in order; True once it answers or ends the connection."""
        payload, received = b"all read", b""
        try:
            self.socket.sendall(frame(PING, 0, 0, payload))
            self.socket.settimeout(seconds)
            while frame(PING, ACK, 0, payload) not in received:
                read = self.socket.recv(65_536)
                if not read:
                    return True
                received += read
        except TimeoutError:
            return False
        except OSError:
            return True
        return True

    def is_ended_within(self, seconds: float) -> bool:
        """Read until the server ends the connection."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.socket.settimeout(left)
            try:
                if not self.socket.recv(65_536):
                    return True
            except TimeoutError:
                return False
            except OSError:
                return True
        return False
