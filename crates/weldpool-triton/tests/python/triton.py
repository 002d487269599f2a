"""Starts a real Triton on free ports, with the backend and a model repository."""

import os
import pathlib
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

SERVER = os.environ.get("WELDPOOL_TRITON_SERVER")
BACKENDS = os.environ.get("WELDPOOL_TRITON_BACKENDS")

START_SECONDS = 120
STOP_SECONDS = 60
# A port that was free may be taken by the time that Triton binds it.
ATTEMPTS = 3


def require():
    if not SERVER or not BACKENDS:
        raise RuntimeError("WELDPOOL_TRITON_SERVER is not set: run these tests with `cargo xtask test`")


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


class Triton:
    """A running server; `http`, `grpc` and `metrics` are its addresses, HOST:PORT.

    It is ready when all its models are, or, with `strict=False`, when it is live.
    """

    def __init__(self, repository, *options, environment=None, strict=True):
        require()
        self._folder = tempfile.TemporaryDirectory()
        self.log_file = pathlib.Path(self._folder.name) / "triton.log"
        for attempt in range(ATTEMPTS):
            try:
                return self._start(repository, options, environment or {}, strict)
            except RuntimeError:
                self.stop()
                if attempt == ATTEMPTS - 1 or "in use" not in self.log():
                    raise

    def _start(self, repository, options, environment, strict):
        http, grpc, metrics = free_ports(3)
        self.http, self.grpc, self.metrics = (f"127.0.0.1:{port}" for port in (http, grpc, metrics))
        arguments = [
            SERVER, "--model-repository", repository, "--backend-directory", BACKENDS,
            "--http-address", "127.0.0.1", "--http-port", http, "--grpc-address", "127.0.0.1", "--grpc-port", grpc,
            "--metrics-address", "127.0.0.1", "--metrics-port", metrics, "--exit-timeout-secs", "20", *options,
        ]
        with self.log_file.open("wb") as log:
            self._process = subprocess.Popen(
                [str(argument) for argument in arguments], stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                env={**os.environ, **environment},
            )
        deadline = time.monotonic() + START_SECONDS
        while not self.is_ready("ready" if strict else "live"):
            if self._process.poll() is not None:
                raise RuntimeError(f"Triton ended with status {self._process.returncode}:\n{self.log()}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"Triton is not ready after {START_SECONDS} s:\n{self.log()}")
            time.sleep(0.05)

    def is_ready(self, what="ready"):
        try:
            with urllib.request.urlopen(f"http://{self.http}/v2/health/{what}", timeout=5) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False

    @property
    def pid(self):
        return self._process.pid

    def log(self):
        return self.log_file.read_text(errors="replace")

    def resident_bytes(self):
        pages = int(pathlib.Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def metric_text(self):
        with urllib.request.urlopen(f"http://{self.metrics}/metrics", timeout=10) as answer:
            return answer.read().decode()

    def discard(self):
        """Removes the log of a server that has stopped."""
        self._folder.cleanup()

    def stop(self):
        """Stops the server and returns its exit status."""
        self._process.terminate()
        try:
            return self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise RuntimeError(f"Triton did not stop in {STOP_SECONDS} s:\n{self.log()}") from None
