"""HTTP as it stands on the wire: requests that no client library would send."""

import base64
import socket


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def __repr__(self):
        return f"{self.status} {self.body[:300]!r}"


def body_of(recorded):
    """The bytes of a recorded body: text or base64."""
    if recorded is None:
        return b""
    return base64.b64decode(recorded["base64"]) if "base64" in recorded else recorded["text"].encode()


def chunked(body):
    """A body in three chunks or so."""
    size = max(1, len(body) // 3)
    parts = [body[start:start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


class Connection:
    """A connection that is kept for the next request as long as the server keeps it."""

    def __init__(self, address, seconds=20):
        self.address, self.seconds = address, seconds
        self.socket, self.received = None, b""

    def close(self):
        if self.socket:
            self.socket.close()
        self.socket, self.received = None, b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def send(self, method, path, headers=None, body=b"", strict=True):
        """Sends one request. If `strict`, nothing may follow the answer."""
        headers = {"Host": self.address, **(headers or {})}
        if headers.get("Transfer-Encoding") == "chunked":
            body = chunked(body)
        elif body or method in ("POST", "PUT", "PATCH"):
            headers["Content-Length"] = str(len(body))
        lines = [f"{method} {path} HTTP/1.1"] + [f"{name}: {value}" for name, value in headers.items()]
        if not self.socket:
            host, port = self.address.rsplit(":", 1)
            self.socket = socket.create_connection((host, int(port)), self.seconds)
        try:
            self.socket.sendall("\r\n".join([*lines, "", ""]).encode() + body)
            while b"\r\n\r\n" not in self.received:
                self._receive()
            head, _, self.received = self.received.partition(b"\r\n\r\n")
            first, *rest = head.decode("latin-1").split("\r\n")
            answered = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
            length = 0 if method == "HEAD" else int(answered.get("content-length", 0))
            while len(self.received) < length:
                self._receive()
        except OSError:
            self.close()
            raise
        body, self.received = self.received[:length], self.received[length:]
        if self.received and strict:
            raise AssertionError(f"{self.received!r} follows the answer to {method} {path}")
        if answered.get("connection", "").lower() == "close":
            self.close()
        return Answer(int(first.split()[1]), answered, body)

    def _receive(self):
        part = self.socket.recv(65536)
        if not part:
            raise ConnectionResetError("the connection was closed before the end of the answer")
        self.received += part


def send(address, method, path, headers=None, body=b"", seconds=20, strict=True):
    """Sends one request on a connection of its own."""
    with Connection(address, seconds) as connection:
        return connection.send(method, path, {"Connection": "close", **(headers or {})}, body, strict)
