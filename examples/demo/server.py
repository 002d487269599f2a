"""Starts `weldpool serve` on free ports, waits until it is ready, and stops it."""

import queue
import subprocess
import threading
import time
from pathlib import Path

READY_SECONDS_MAX = 120


class ServerError(Exception):
    """The server did not start, or did not stop, as it should; says what it wrote last."""


class Process:
    """A server's process. Use it in a `with` statement: leaving stops it, whatever happened."""

    name = "the server"
    stop_seconds_max = 20

    def __init__(self, process: subprocess.Popen, log: Path):
        self._process = process
        self._log_path = log

    def stop(self):
        """Asks the server to finish (SIGTERM) and waits for it."""
        self._process.terminate()
        try:
            status = self._process.wait(timeout=self.stop_seconds_max)
        except subprocess.TimeoutExpired:
            raise self._error(f"was still running {self.stop_seconds_max} s after SIGTERM") from None
        if status != 0:
            raise self._error(f"ended with status {status} after SIGTERM")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def _error(self, what):
        last = self._log_path.read_text(errors="replace").splitlines()[-20:] or ["(nothing)"]
        return ServerError("\n".join([f"{self.name} {what}; the end of {self._log_path}:", *last]))


class Server(Process):
    """A running `weldpool serve`."""

    def __init__(self, binary: Path, repository: Path, log: Path):
        self.addresses = {}
        with log.open("w") as stderr:
            process = subprocess.Popen(
                [binary, "serve", "--model-repository", repository]
                + ["--http-address", "127.0.0.1", "--http-port", "0"]
                + ["--metrics-address", "127.0.0.1", "--metrics-port", "0"],
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        super().__init__(process, log)
        self._lines = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def http(self):
        return self.addresses["http"]

    @property
    def metrics(self):
        return self.addresses["metrics"]

    def wait_ready(self, progress=lambda line: None):
        """Returns once every model is loaded; hands each line that the server prints to `progress`."""
        deadline = time.monotonic() + READY_SECONDS_MAX
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise self._error(f"was not ready after {READY_SECONDS_MAX} s") from None
            if line is None:
                raise self._error(f"ended with status {self._process.wait()} before it was ready")
            progress(line)
            words = line.split()
            if len(words) == 3 and words[0] == "listening":
                self.addresses[words[1]] = words[2]
            elif words == ["ready"]:
                missing = {"http", "metrics"} - self.addresses.keys()
                if missing:
                    raise self._error(f"named no address for {', '.join(sorted(missing))}")
                return

    def _read(self):
        for line in self._process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)
