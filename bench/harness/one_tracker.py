"""One run of a tracker under load: responses, what they cost, what an announce beside them waits, what a peer takes in
memory. A process of its own, as `one_run` is; reads a plan from standard input and writes what came out, both JSON."""

import http.client
import json
import os
import re
import socket
import struct
import sys
import threading
import time
from pathlib import Path

from harness.measure import Group, Machine, field
from harness.one_run import Failed, prepare_network, start

ADDRESS, PORT = "10.99.0.1", 6969
CONNECT, ANNOUNCE, ERROR = 0, 1, 3
PROTOCOL = 0x41727101980
# Left out at both ends of a load: connections are made, and the last second may be cut.
LEAD_IN, LEAD_OUT = 3, 1
LOST = float("inf")
# Of the answers: some requests of the load are wrong (a random port may be 0), and a tracker may close a connection in time.
MOST_REFUSED, MOST_BROKEN = 0.001, 0.02
PROBED = b"probe".ljust(20)
HTTP_ANNOUNCE = ("/announce?info_hash=probe%20%20%20%20%20%20%20%20%20%20%20%20%20%20%20&peer_id=probe---------------"
                 "&port=20002&uploaded=0&downloaded=0&left=1&compact=1&numwant=30")


def main():
    plan = json.load(sys.stdin)
    prepare_network()
    spare_ports()
    groups, started = {role: Group(f"{plan['group']}-{role}") for role in ("tracker", "load")}, []
    try:
        record = {"under_load": under_load, "memory": memory, "learn": learn}[plan["what"]](plan, groups, started)
    except Failed as failed:
        record = {"failed": str(failed)}
    finally:
        for process in reversed(started):
            process.stop(seconds=5)
        for group in groups.values():
            group.close()
    json.dump(record, sys.stdout)


def spare_ports():
    """A connection for each request leaves its port waiting for a minute, and the load has one address."""
    for name, value in {"ip_local_port_range": "10000 65535", "tcp_tw_reuse": "1"}.items():
        Path(f"/proc/sys/net/ipv4/{name}").write_text(value)


def start_tracker(plan, groups, started):
    """A tracker on the first CPUs, as many as it has workers, that answers."""
    work = Path(plan["work"]) / "tracker"
    work.mkdir()
    for name, text in plan["files"].items():
        (work / name).write_text(text)
    cpus = ",".join(str(cpu) for cpu in range(plan["workers"]))
    command = ["taskset", "-c", cpus, *(word.replace("{work}", str(work)) for word in plan["tracker"])]
    process = start(command, work, groups["tracker"], started)
    deadline = time.monotonic() + 20
    with PROBES[plan["over"]]() as prober:
        while time.monotonic() < deadline:
            if not process.running():
                raise Failed(f"the tracker ended with status {process.child.returncode}")
            try:
                prober.announce()
                return process
            except OSError:
                time.sleep(0.05)
    raise Failed("the tracker does not answer")


def under_load(plan, groups, started) -> dict:
    process = start_tracker(plan, groups, started)
    work = Path(plan["work"]) / "load"
    work.mkdir()
    config = work / "load.toml"
    config.write_text(plan["load_config"])
    command = ["taskset", "-c", str(os.cpu_count() - 1), plan["load_program"], "-c", config]
    machine = Machine()
    load = start(command, work, groups["load"], started)
    time.sleep(LEAD_IN)
    waits, stop = [], threading.Event()
    prober = threading.Thread(target=probe, args=(PROBES[plan["over"]], waits, stop), daemon=True)
    prober.start()
    began, before = time.monotonic(), groups["tracker"].cpu_seconds()
    time.sleep(plan["seconds"] - LEAD_IN - LEAD_OUT)
    used, seconds = groups["tracker"].cpu_seconds() - before, time.monotonic() - began
    stop.set()
    prober.join()
    load.child.wait(30)
    told = (work / "stdout").read_text()
    if not process.running():
        raise Failed("the tracker ended under load")
    record = machine.since(sum(group.cpu_seconds() for group in groups.values()))
    errors = rate(told, "Error responses") + refused(told)
    answered = rate(told, "Average responses per second") - errors
    if errors > MOST_REFUSED * answered:
        raise Failed(f"the tracker refused {errors:.0f} of {answered + errors:.0f} requests a second")
    broken = (told + (work / "log").read_text()).count("connection creation error") / plan["seconds"]
    if broken > MOST_BROKEN * answered:
        raise Failed(f"{broken:.0f} connections a second broke")
    heard = sorted(wait for wait in waits if wait < LOST)
    return record | {
        "wall": seconds, "responses": answered, "per_cpu_second": answered * seconds / used,
        "tracker_cpus": used / seconds, "p50": quantile(heard, 0.5), "p99": quantile(heard, 0.99), "heard": len(heard),
        "lost": len(waits) - len(heard), "errors": errors + broken,
    }


def rate(report: str, kind: str) -> float:
    """Of what the load counted, a second; it names the kinds of UDP alone."""
    found = re.findall(rf"{kind}:\s*([\d.]+)", report, re.IGNORECASE)
    return float(found[-1]) if found else 0.0


def refused(report: str) -> float:
    """The load over HTTP counts refusals among the answers, and tells them for each second alone."""
    found = re.findall(r"Failure responses:\s*([\d.]+)", report)
    return sum(map(float, found)) / len(found) if found else 0.0


def probe(make, waits, stop):
    """Announces a hundred times a second, and notes how long each answer takes, in seconds."""
    with make() as prober:
        while not stop.is_set():
            began = time.monotonic()
            try:
                prober.announce()
                waits.append(time.monotonic() - began)
            except OSError:
                waits.append(LOST)
            time.sleep(max(0, began + 0.01 - time.monotonic()))


class UdpProber:
    """One address that keeps its connection id as long as BEP 15 lets it."""

    def __enter__(self):
        self.socket = open_socket("10.99.0.2")
        self.socket.settimeout(1)
        self.connected, self.number = float("-inf"), 0
        return self

    def __exit__(self, *_):
        self.socket.close()

    def announce(self):
        if time.monotonic() - self.connected > 60:
            self.connection, self.connected = connect(self.socket), time.monotonic()
        self.number += 1
        self.socket.send(announce(self.connection, self.number, PROBED, PROBED, 20_002, 30))
        while struct.unpack_from(">I", self.socket.recv(4096), 4)[0] != self.number:
            pass


class HttpProber:
    """One connection for all announces."""

    keeps = True

    def __enter__(self):
        self.connection = None
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        if self.connection:
            self.connection.close()
        self.connection = None

    def announce(self):
        self.connection = self.connection or http.client.HTTPConnection(ADDRESS, PORT, timeout=1)
        try:
            self.connection.request("GET", HTTP_ANNOUNCE)
            if self.connection.getresponse().read()[:1] != b"d":
                raise OSError("no answer to an announce")
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise OSError from error
        if not self.keeps:
            self.close()


class HttpOnceProber(HttpProber):
    """A connection for each announce."""

    keeps = False


PROBES = {"udp": UdpProber, "http": HttpProber, "http-once": HttpOnceProber}


def quantile(values, share: float):
    return values[min(int(len(values) * share), len(values) - 1)] if values else None


def memory(plan, groups, started) -> dict:
    """Fills the tracker with peers: every address announces to as many swarms, every peer is an address and a port."""
    process = start_tracker(plan, groups, started)
    machine = Machine()
    before = anonymous(groups["tracker"])
    answered = 0
    for address in range(plan["addresses"]):
        answered += announce_all(f"127.1.{address >> 8}.{address & 255}", address, plan)
    if not process.running():
        raise Failed("the tracker ended")
    wanted = plan["addresses"] * plan["per_address"]
    if answered < 0.999 * wanted:
        raise Failed(f"{answered} of {wanted} announces were answered")
    grown = anonymous(groups["tracker"]) - before
    cpu = groups["tracker"].cpu_seconds()
    return machine.since(cpu) | {"wall": time.monotonic() - machine.began, "peers": answered,
                                 "swarms": plan["swarms"], "grown": grown, "bytes_per_peer": grown / answered}


def anonymous(group: Group) -> int:
    return sum(field(Path(f"/proc/{pid}/status").read_text(), "RssAnon:") for pid in group.pids())


def learn(plan, groups, started) -> dict:
    """The info-hashes that the load asks for, which are the same each time, for a tracker that answers listed ones only."""
    config = Path(plan["work"]) / "load.toml"
    config.write_text(plan["load_config"])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        listening.bind((ADDRESS, PORT))
        listening.settimeout(1)
        machine = Machine()
        start([plan["load_program"], "-c", config], Path(plan["work"]), groups["load"], started)
        hashes = set()
        while time.monotonic() < machine.began + plan["seconds"]:
            try:
                asked, source = listening.recvfrom(4096)
            except TimeoutError:
                continue
            action, transaction = struct.unpack_from(">II", asked, 8)
            if action == ANNOUNCE:
                hashes.add(asked[16:36])
            answers = {CONNECT: struct.pack(">IIQ", CONNECT, transaction, 1),
                       ANNOUNCE: struct.pack(">IIIII", ANNOUNCE, transaction, 900, 0, 1)}
            listening.sendto(answers.get(action, struct.pack(">II", action, transaction) + bytes(12)), source)
    return machine.since(0) | {"wall": plan["seconds"], "hashes": sorted(one.hex() for one in hashes)}


def announce_all(source: str, number: int, plan) -> int:
    """From one address; returns how many were answered well."""
    answered, window = 0, 64
    with open_socket(source) as asking:
        asking.settimeout(0.5)
        connection = connect(asking)
        for first in range(0, plan["per_address"], window):
            batch = range(first, min(first + window, plan["per_address"]))
            for at in batch:
                swarm = (number * plan["per_address"] + at) % plan["swarms"]
                asking.send(announce(connection, at, swarm_hash(swarm), number.to_bytes(20, "big"), 1024 + at, 0))
            try:
                for _ in batch:
                    answered += struct.unpack_from(">I", asking.recv(4096))[0] == ANNOUNCE
            except TimeoutError:
                pass
    return answered


def swarm_hash(number: int) -> bytes:
    """As spread out as a real one."""
    return (number * 0x9E3779B97F4A7C15 % (1 << 64)).to_bytes(8, "big") + number.to_bytes(12, "big")


def open_socket(source: str) -> socket.socket:
    asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    asking.bind((source, 0))
    asking.connect((ADDRESS, PORT))
    return asking


def connect(asking: socket.socket) -> bytes:
    asking.send(struct.pack(">QII", PROTOCOL, CONNECT, 7))
    while True:
        answer = asking.recv(4096)
        if struct.unpack_from(">II", answer) == (CONNECT, 7):
            return answer[8:16]


def announce(connection: bytes, transaction: int, info_hash: bytes, peer_id: bytes, port: int, wanted: int) -> bytes:
    started, key = 2, 0
    return connection + struct.pack(">II", ANNOUNCE, transaction) + info_hash + peer_id + struct.pack(
        ">QQQIIIiH", 0, 1, 0, started, 0, key, wanted, port)


if __name__ == "__main__":
    main()
