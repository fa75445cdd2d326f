"""Machines on a network of their own: namespaces on a bridge, each behind a link that is shaped by `tbf` at both ends, with
50 ms of queue. The namespace of the process that makes them holds the bridge, and reaches all of them."""

import json
import subprocess
from pathlib import Path


def bridge(address: str):
    """The network that the namespaces are on; the maker is `address` there."""
    run_all("ip link set lo up", "ip link add name hub type bridge", "ip link set hub up",
            f"ip address add {address}/24 dev hub")


class Place:
    """A network namespace by its name."""

    def __init__(self, name: str):
        self.name = name
        run_all(f"ip netns add {name}", f"ip -n {name} link set lo up")

    def within(self, words) -> list:
        """The command that runs `words` there; its process is theirs."""
        return ["nsenter", f"--net=/run/netns/{self.name}", *map(str, words)]

    def close(self):
        remove(self.name)


class Namespace(Place):
    """One machine: 10.99.0.`number`, with an uplink and a downlink of so many Mbit/s. Every sender in it uses cubic."""

    def __init__(self, name: str, number: int, up: float, down: float):
        super().__init__(name)
        self.address, self.port = f"10.99.0.{number}", f"p{number}"
        run_all(f"ip link add {self.port} type veth peer name eth0 netns {self.name}", f"ip link set {self.port} master hub",
                f"ip -n {self.name} address add {self.address}/24 dev eth0")
        for where, tc, device, mbit in ((f"-n {self.name}", f"ip netns exec {self.name} tc", "eth0", up),
                                        ("", "tc", self.port, down)):
            # As a network card does, at most four segments a packet, or tbf would drop what is longer than its burst.
            run_all(f"ip {where} link set {device} gso_max_segs 4 up",
                    f"{tc} qdisc add dev {device} root tbf rate {mbit}mbit burst 16000 limit {queue(mbit)}")
        run_all(f"ip netns exec {self.name} sysctl -qw net.ipv4.tcp_congestion_control=cubic")

    def sent(self) -> int:
        """Bytes, headers included."""
        text = subprocess.run(["ip", "-n", self.name, "-s", "-j", "link", "show", "eth0"], capture_output=True, check=True)
        return json.loads(text.stdout)[0]["stats64"]["tx"]["bytes"]


def remove(name: str):
    subprocess.run(["ip", "netns", "del", name], capture_output=True)


def forget(group: str):
    """Removes what a run that was ended has left: the names of its machines outlive its processes."""
    for path in Path("/run/netns").glob(f"{group}-*"):
        remove(path.name)


def received() -> dict:
    """Bytes that came through each machine's downlink so far, by `Namespace.port`."""
    lines = [line.partition(":") for line in Path("/proc/self/net/dev").read_text().splitlines()]
    return {port.strip(): int(counts.split()[8]) for port, colon, counts in lines if colon}


def queue(mbit: float) -> int:
    return int(mbit * 1e6 / 8 * 0.05) + 16_000


def run_all(*commands):
    for words in commands:
        subprocess.run(words.split(), check=True)
