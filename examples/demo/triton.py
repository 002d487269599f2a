"""Starts a real Triton Inference Server on free ports, waits until it is ready, and stops it."""

import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

from server import READY_SECONDS_MAX, Process


class Triton(Process):
    """A running Triton, with the interface of `server.Server`."""

    name = "Triton"
    stop_seconds_max = 60

    def __init__(self, binary: Path, backends: Path, repository: Path, log: Path):
        # Triton cannot choose ports by itself and name them; these were free a moment ago.
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            second.bind(("127.0.0.1", 0))
            http, metrics = first.getsockname()[1], second.getsockname()[1]
        self.http, self.metrics = f"127.0.0.1:{http}", f"127.0.0.1:{metrics}"
        with log.open("w") as output:
            process = subprocess.Popen(
                [binary, "--model-repository", repository, "--backend-directory", backends, "--allow-grpc", "false"]
                + ["--http-address", "127.0.0.1", "--http-port", str(http)]
                + ["--metrics-address", "127.0.0.1", "--metrics-port", str(metrics)],
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
            )
        super().__init__(process, log)

    def wait_ready(self, progress=lambda line: None):
        """Returns once every model is loaded; hands each line about a model that Triton logs to `progress`."""
        deadline = time.monotonic() + READY_SECONDS_MAX
        seen = 0
        while True:
            lines = self._log_path.read_text(errors="replace").splitlines()
            for line in lines[seen:]:
                if "loaded" in line or "metal_mps" in line:
                    progress(line.partition("] ")[2] or line)
            seen = len(lines)
            if self._is_ready():
                return
            if self._process.poll() is not None:
                raise self._error(f"ended with status {self._process.returncode} before it was ready")
            if time.monotonic() > deadline:
                raise self._error(f"was not ready after {READY_SECONDS_MAX} s")
            time.sleep(0.1)

    def _is_ready(self):
        try:
            with urllib.request.urlopen(f"http://{self.http}/v2/health/ready", timeout=5) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False
