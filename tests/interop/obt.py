"""The program under test, as a process whose JSON lines are read."""

import json
import os
import subprocess
from pathlib import Path

from processes import Process, wait_until

BINARY = Path(os.environ.get("OBT_BIN", Path(__file__).parents[2] / "target/release/obt"))


def run(*arguments, state: Path, seconds=60, check=True):
    """Runs a command to its end; returns (exit status, the JSON lines it printed)."""
    done = subprocess.run(
        [str(a) for a in (BINARY, "--json", "--state", state, *arguments)],
        stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds)
    if check and done.returncode != 0:
        raise AssertionError(f"{arguments}: exit {done.returncode}: {done.stderr.decode(errors='replace')}")
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines() if line.strip()]


class Daemon(Process):
    """`obt share`, `obt tracker`, ...: runs until it is stopped."""

    def __init__(self, *arguments, state: Path, log: Path):
        self.out = log.with_suffix(".jsonl")
        with open(self.out, "wb") as out:
            super().__init__([BINARY, "-v", "--json", "--state", state, *arguments], log, stdout=out)

    def events(self):
        lines = self.out.read_bytes().split(b"\n")[:-1]
        return [json.loads(line) for line in lines]

    def event(self, name, seconds=20):
        def look():
            if not self.running():
                raise AssertionError(f"obt ended with {self.child.returncode}: {self.text()}")
            return next((event for event in self.events() if event.get("event") == name), None)

        return wait_until(look, seconds, f"event {name!r}; log: {self.log}")
