"""One fan-out: a seed and N downloaders that begin together, each in a network namespace behind a link of its own.

A process of its own, as `one_run` is; its network namespace holds the bridge and the tracker. Clients run with their
defaults, TCP alone, and find each other through a tracker alone."""

import json
import sys
import time
from pathlib import Path

from harness import payloads
from harness.clients import HERE, OBT, Seat
from harness.measure import Group, Machine
from harness.namespaces import Namespace, bridge
from harness.one_run import Failed, open_hook, says_complete, start
from harness.tracker import Tracker
from processes import wait_until

SEED = 10
FIRST = 20
READY_SECONDS = 60


def main():
    plan = json.load(sys.stdin)
    group, nodes, started = Group(f"{plan['group']}-fan"), [], []
    try:
        record = run(plan, group, nodes, started)
    except (Failed, AssertionError) as failed:
        record = {"failed": str(failed)}
    finally:
        for process in reversed(started):
            process.child.kill()
        for process in reversed(started):
            process.stop(seconds=5)
        for node in nodes:
            node.close()
        group.close()
    json.dump(record, sys.stdout)


class Node(Namespace):
    """A machine, and the client on it."""

    def __init__(self, plan, number: int, client: str, up: float, down: float):
        super().__init__(f"{plan['group']}-{number}", number, up, down)
        self.client, self.plan, self.finished, self.hook, self.process = client, plan, None, None, None
        self.work = Path(plan["work"]) / str(number)
        self.folder = self.work / "got"
        self.folder.mkdir(parents=True)
        self.peer_port = 20_000 + number

    def seat(self) -> Seat:
        return Seat(Path(self.plan["payload"]), Path(self.plan["torrent"]), "v1", self.folder, self.work, self.address,
                    self.peer_port, self.work / "hook")

    def start(self, words, group, started):
        self.process = start(self.within(words), self.work, group, started)

    def download(self, seed: "Node", group, started):
        if self.client != "obt":
            self.hook = open_hook(self.seat())
        words = command(self.plan, self.client, self.seat(), seed, downloads=True)
        self.start(words, group, started)

    def is_done(self) -> bool:
        """Whether it says that it is complete: a first line, in the hook or on standard output."""
        if not self.process.running():
            raise Failed(f"{self.name} ended with status {self.process.child.returncode}")
        return says_complete(self.hook, self.work / "stdout")


def command(plan, client: str, seat: Seat, seed: Node, downloads: bool) -> list:
    if client == "obt":
        common = [OBT, "--json", "--state", seat.work / "state", "--peer-listen", f"{seat.address}:{seat.port}"]
        if plan["by_torrent"]:
            folder = seat.folder if downloads else seat.payload.parent
            return [*common, "download", seat.torrent, "-o", folder, "--seed"]
        if downloads:
            return [*common, "get", seed.address, "6969", seat.payload.name, "--seed", "-o", seat.folder]
        return [*common, "--tracker-listen", f"{seat.address}:6969", "share", seat.payload]
    folder = seat.folder if downloads else seat.payload.parent
    script = seat.work / "finished"
    script.write_text(f"#!/bin/sh\necho finished > {seat.hook}\n")
    script.chmod(0o755)
    if client == "libtorrent":
        return [sys.executable, HERE / "lt_node.py", seat.torrent, folder, "--defaults", "--listen",
                f"{seat.address}:{seat.port}", *(["--hook", seat.hook] if downloads else [])]
    return ["aria2c", "--no-conf", f"--dir={folder}", f"--listen-port={seat.port}", "--disable-ipv6=true",
            "--enable-dht=false", "--enable-dht6=false", "--bt-enable-lpd=false", "--seed-ratio=0.0",
            "--file-allocation=none", "--allow-overwrite=true", "--console-log-level=warn", "--summary-interval=0",
            *([f"--on-bt-download-complete={script}"] if downloads else ["--check-integrity=true"]), seat.torrent]


def run(plan, group, nodes, started) -> dict:
    bridge(payloads.TRACKER_ADDRESS)
    tracker = Tracker(payloads.TRACKER_ADDRESS, payloads.TRACKER_PORT, {})
    seed = Node(plan, SEED, plan["subject"], plan["seed_up"], plan["mbit"])
    nodes.append(seed)
    for number, client in enumerate(plan["peers"]):
        nodes.append(Node(plan, FIRST + number, client, plan["mbit"], plan["mbit"]))
    seed.start(command(plan, plan["subject"], seed.seat(), seed, downloads=False), group, started)
    wait_until(lambda: b'"sharing"' in (seed.work / "stdout").read_bytes() or tracker.has_all(seed.peer_port), READY_SECONDS,
               "the seed holds everything")
    before, machine = {node: node.sent() for node in nodes}, Machine()
    began = time.monotonic()
    peers = nodes[1:]
    late, leaver = (peers[-1] if plan["late"] else None), (peers[-2] if plan["leaver"] else None)
    for node in peers:
        if node is not late:
            node.download(seed, group, started)
    stays = [node for node in peers if node is not leaver]
    while any(node.finished is None for node in stays):
        now = time.monotonic() - began
        if late and late.process is None and now >= plan["bound"] / 3:
            late.download(seed, group, started)
        if leaver and leaver.process.running() and now >= plan["bound"] / 3:
            leaver.process.child.kill()
            leaver.process.child.wait()
        for node in stays:
            if node.finished is None and node.process and node.is_done():
                node.finished = now
        if now > plan["timeout"]:
            raise Failed(f"not complete after {plan['timeout']} s")
        time.sleep(0.02)
    sent = {node: node.sent() - before[node] for node in nodes}
    record = machine.since(group.cpu_seconds())
    for node in stays:
        wrong = payloads.difference(Path(plan["payload"]), node.folder / Path(plan["payload"]).name)
        if wrong is not None:
            raise Failed(f"bytes differ at {node.name}")
    seconds = [node.finished for node in stays if node is not late]
    bound, wall = plan["bound"], max(seconds)
    uplinks = sum(sent[node] for node in peers) / (plan["mbit"] * 1e6 / 8 * wall * len(peers))
    return record | {
        "wall": wall, "ratio": wall / bound, "mean": sum(seconds) / len(seconds) / bound, "first": min(seconds) / bound,
        "late": (late.finished - bound / 3) / bound if late else None,
        "copies": sent[seed] / plan["size"], "uplinks": uplinks, "cpu": group.cpu_seconds(),
    }


if __name__ == "__main__":
    main()
