"""Progress for people: one line that is redrawn on a terminal, whole lines everywhere else."""

import sys
import time


class Console:
    """Numbered steps on standard output."""

    def __init__(self, steps):
        self._steps = steps
        self._number = 0
        self._terminal = sys.stdout.isatty()
        self._title = ""
        self._started = 0.0

    def step(self, title):
        """Begins the next step and ends the one before."""
        self.done()
        self._number += 1
        self._title = f"[{self._number}/{self._steps}] {title}"
        self._started = time.monotonic()
        if self._terminal:
            self.detail("")
        else:
            print(self._title, flush=True)

    def detail(self, text):
        """Shows what the step is doing now."""
        if self._terminal:
            print(f"\r\x1b[2K{self._title} {text}"[:120], end="", flush=True)
        elif text:
            print(f"      {text}", flush=True)

    def count(self, done, total):
        """Shows how far the step is."""
        if self._terminal:
            filled = 30 * done // total
            self.detail(f"[{'#' * filled}{'.' * (30 - filled)}] {done}/{total}")
        elif done == total:
            self.detail(f"{done} of {total}")

    def done(self):
        """Ends the running step, if there is one."""
        if self._title and self._terminal:
            print(f"\r\x1b[2K{self._title} ({time.monotonic() - self._started:.1f} s)", flush=True)
        self._title = ""
