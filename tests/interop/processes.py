"""Processes that a test started, and waiting for what they do: deadlines on conditions, never fixed pauses."""

import os
import signal
import subprocess
import time
from pathlib import Path


def wait_until(condition, seconds, what):
    """Returns the first true value of `condition`, or fails naming `what`."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.05)


class Process:
    """A child in a process group of its own, so that it can be ended with all that it started."""

    def __init__(self, arguments, log: Path, **more):
        self.log = log
        with open(log, "ab") as out:
            more = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": out, **more}
            self.child = subprocess.Popen([str(a) for a in arguments], start_new_session=True, **more)

    def running(self):
        return self.child.poll() is None

    def stop(self, sig=signal.SIGTERM, seconds=10):
        if self.running():
            self._signal(sig)
            try:
                self.child.wait(seconds)
            except subprocess.TimeoutExpired:
                self._signal(signal.SIGKILL)
                self.child.wait()
        return self.child.returncode

    def _signal(self, sig):
        try:
            os.killpg(self.child.pid, sig)
        except ProcessLookupError:
            pass

    def text(self):
        return self.log.read_text(errors="replace")
