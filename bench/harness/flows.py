"""How fast bytes arrive at each machine, and how far that falls when something happens."""

import bisect
import threading
import time

from harness import namespaces

SAMPLE_SECONDS = 0.05


class Flows:
    """Samples the downlinks of all machines until it is stopped."""

    def __init__(self):
        self.samples, self.stopped = [], threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while not self.stopped.wait(SAMPLE_SECONDS):
            self.samples.append((time.monotonic(), namespaces.received()))

    def stop(self):
        self.stopped.set()
        self.thread.join()

    def bytes_at(self, port: str, at: float) -> float:
        """Between two samples, in proportion."""
        later = bisect.bisect_left(self.samples, at, key=lambda sample: sample[0])
        later = min(max(later, 1), len(self.samples) - 1)
        (began, before), (ended, after) = self.samples[later - 1], self.samples[later]
        share = (at - began) / (ended - began)
        return before.get(port, 0) + share * (after.get(port, 0) - before.get(port, 0))

    def rate(self, ports, began: float, ended: float) -> float:
        """Bytes a second of these machines together."""
        return sum(self.bytes_at(port, ended) - self.bytes_at(port, began) for port in ports) / (ended - began)

    def worst(self, ports, began: float, ended: float, window: float = 1) -> float:
        """The slowest second between two times, in bytes a second."""
        steps = int((ended - began - window) / SAMPLE_SECONDS)
        starts = [began + step * SAMPLE_SECONDS for step in range(max(steps, 0) + 1)]
        return min(self.rate(ports, start, start + window) for start in starts)
