"""A long path between this network namespace and another: a pair of TUN devices, and a process that carries each packet
from one to the other after half a round trip, or loses it by chance. It needs no `netem`, which kernels may lack.

    python3 -m harness.long_link NAME ADDRESS DELAY_MS LOSS"""

import collections
import fcntl
import os
import random
import select
import struct
import subprocess
import sys
import time

from harness.namespaces import Place, run_all

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x1, 0x1000
# A queue that is never full: what is lost is lost by chance.
QUEUE = 20_000
# Packets read in a row from one side.
TURN = 64


class LongLink(Place):
    """Makes the namespace `name`, where `address` is all that there is; it reaches 10.99.0.0/24 through the link."""

    def __init__(self, name: str, address: str, delay_ms: float, loss: float):
        super().__init__(name)
        words = [sys.executable, "-m", "harness.long_link", name, address, str(delay_ms), str(loss)]
        self.carrier = subprocess.Popen(words, stdout=subprocess.PIPE)
        self.carrier.stdout.readline()

    def close(self):
        self.carrier.kill()
        self.carrier.wait()
        super().close()


def tun(name: str) -> int:
    file = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(file, TUNSETIFF, struct.pack("16sH14x", name.encode(), IFF_TUN | IFF_NO_PI))
    run_all(f"ip link set {name} txqueuelen {QUEUE}")
    return file


def carry(ends, delay: float, loss: float):
    """Never returns. All packets take as long, so they leave in the order in which they came."""
    chance, under_way = random.Random(), collections.deque()
    while True:
        wait = max(0, under_way[0][0] - time.monotonic()) if under_way else None
        for end in select.select(ends, [], [], wait)[0]:
            other = ends[1] if end == ends[0] else ends[0]
            for packet in packets(end):
                if chance.random() >= loss:
                    under_way.append((time.monotonic() + delay, other, packet))
        while under_way and under_way[0][0] <= time.monotonic():
            _, end, packet = under_way.popleft()
            try:
                os.write(end, packet)
            except BlockingIOError:
                pass


def packets(end: int):
    for _ in range(TURN):
        try:
            yield os.read(end, 65_536)
        except BlockingIOError:
            return


def main():
    name, address, delay_ms, loss = sys.argv[1:]
    ends = [tun("near"), tun("far")]
    run_all("ip link set near up", f"ip route add {address} dev near",
            f"ip link set far netns {name}", f"ip -n {name} address add {address}/24 dev far", f"ip -n {name} link set far up")
    print("ready", flush=True)
    carry(ends, float(delay_ms) / 1000, float(loss))


if __name__ == "__main__":
    main()
