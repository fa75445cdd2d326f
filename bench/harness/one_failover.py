"""One cluster whose leader is killed, round after round: members, a sharer, downloaders of several clients, publishers and
requesters, each in a network namespace behind a link of its own.

A process of its own, as `one_run` is. Publishers and requesters are runs of obt; beside them each member is asked by plain
sockets, ten times a second for each kind of question, so that an answer that does not come is seen at the member that owes it.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from harness import asking, namespaces, payloads
from harness.asking import Asked, Loop, noted
from harness.clients import CLIENTS, OBT, Seat
from harness.flows import Flows
from harness.measure import Group, Machine
from harness.namespaces import Namespace, bridge
from harness.one_run import Failed, open_hook, says_complete, start
from processes import wait_until

HUB = "10.99.0.1"
MEMBERS, SHARER, GETTER, STOCK, LATE, PUBLISHERS, REQUESTER = 10, 20, 21, 30, 40, 50, 60
# Members, publishers and late clients are not what is slow.
FAST = 100
PROBE_SECONDS, STATUS_SECONDS, PUBLISH_SECONDS, REQUEST_SECONDS = 0.1, 0.025, 0.2, 0.5
# A download counts as under way with this many bytes, and the leader is killed when all have been for a while.
FIRST_BYTES, UNDER_WAY, BEFORE = 256 << 10, 1 << 20, 4
# Over so long after the kill rates are compared.
AFTER = 5
READY_SECONDS, REJOIN_SECONDS, FALL_BACK_SECONDS, LISTED_SECONDS = 60, 60, 12, 5
TINY = 64 << 10
# aria2 tells that it is complete to no tier but the one that it has told that it began.
LOYAL = ("aria2",)
LATE_CLIENTS, SLOW_TO_BEGIN = ("libtorrent", "aria2"), ("transmission",)


def main():
    plan = json.load(sys.stdin)
    lab = Lab(plan)
    try:
        record = run(lab)
    except (Failed, AssertionError) as failed:
        record = {"failed": str(failed)}
    finally:
        lab.close()
    json.dump(record, sys.stdout)


class Lab:
    """All machines, and the processes on them."""

    def __init__(self, plan):
        self.plan, self.work = plan, Path(plan["work"])
        self.group, self.started, self.machines = Group(f"{plan['group']}-failover"), [], {}
        bridge(HUB)

    def machine(self, number: int, up: float = FAST, down: float = FAST) -> Namespace:
        if number not in self.machines:
            self.machines[number] = Namespace(f"{self.plan['group']}-{number}", number, up, down)
        return self.machines[number]

    def folder(self, *names) -> Path:
        folder = self.work.joinpath(*map(str, names))
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def start(self, machine: Namespace, work: Path, words):
        return start(machine.within(words), work, self.group, self.started)

    def close(self):
        for process in reversed(self.started):
            process.stop(seconds=5)
        for machine in self.machines.values():
            machine.close()
        self.group.close()


class Member:
    """A tracker of ours."""

    def __init__(self, lab: Lab, number: int):
        self.lab, self.machine = lab, lab.machine(MEMBERS + number)
        self.address, self.work, self.process = self.machine.address, lab.folder(f"member-{number}"), None

    def start(self, *words):
        listen = ["--tracker-listen", f"{self.address}:{asking.PORT}", "--peer-listen", f"{self.address}:6881"]
        self.process = self.lab.start(self.machine, self.work, [*self.obt(*listen), "tracker", "--publish", "open", *words])
        listening = lambda: self.lives() and b'"listening"' in (self.work / "stdout").read_bytes()
        wait_until(listening, READY_SECONDS, f"the member at {self.address} listens")

    def obt(self, *words) -> list:
        return [OBT, "--json", "--state", self.work / "state", *words]

    def lives(self) -> bool:
        if not self.process.running():
            raise Failed(f"the member at {self.address} ended with {self.process.child.returncode}")
        return True

    def cluster(self, *words) -> dict:
        done = subprocess.run(list(map(str, self.obt("cluster", *words))), capture_output=True, text=True)
        return json.loads(done.stdout) if done.returncode == 0 else {}

    def kill(self):
        os.kill(self.process.child.pid, signal.SIGKILL)


class Download:
    """One client that fetches the payload. `seat.address` is that of its machine."""

    def __init__(self, lab: Lab, machine: Namespace, client: str, torrent: Path, round_number: int):
        self.lab, self.machine, self.client = lab, machine, client
        self.work = lab.folder(f"{client.replace(' ', '-')}-{machine.address}-{round_number}")
        self.seat = Seat(Path(lab.plan["payload"]), torrent, "v1", self.work / "got", self.work, machine.address, 20_000,
                         self.work / "hook")
        self.seat.folder.mkdir()
        self.hook = self.process = self.finished = None

    def start_stock(self):
        self.hook = open_hook(self.seat)
        self.start(CLIENTS[self.client](self.seat).download())

    def start_ours(self, member: str):
        """By name, and it stays: that its lease moves is seen by the others."""
        self.start([OBT, "--json", "--state", self.work / "state", "--peer-listen", f"{self.seat.address}:{self.seat.port}",
                    "get", member, asking.PORT, self.seat.payload.name, "--seed", "-o", self.seat.folder])

    def start(self, words):
        self.began, self.before = time.monotonic(), self.bytes()
        self.process = self.lab.start(self.machine, self.work, words)

    def bytes(self) -> int:
        return namespaces.received()[self.machine.port]

    def got(self) -> int:
        return self.bytes() - self.before

    def is_done(self) -> bool:
        """Whether it says that it is complete. One that ended has stopped."""
        if self.finished is None and says_complete(self.hook, self.work / "stdout"):
            self.finished = time.monotonic()
        return self.finished is not None

    def fault(self):
        """Why it did not do what it should, or None."""
        if not self.is_done():
            return "it ended" if not self.process.running() else f"not complete, {self.got() >> 20} MiB came"
        wrong = payloads.difference(self.seat.payload, self.seat.folder / self.seat.payload.name)
        return wrong and f"{wrong} differs"

    def close(self):
        self.process.stop(seconds=5)
        if self.hook is not None:
            os.close(self.hook)
        shutil.rmtree(self.work)


def run(lab: Lab) -> dict:
    plan, machine = lab.plan, Machine()
    members = found(lab)
    tiny = tiny_item(lab, members)
    rounds = [one_round(lab, members, tiny, number) for number in range(plan["rounds"])]
    record = machine.since(lab.group.cpu_seconds())
    return record | {"wall": time.monotonic() - machine.began, "rounds": rounds}


def found(lab: Lab) -> list:
    """A cluster of that many, all of them voters, and the payload shared through it."""
    members = [Member(lab, number) for number in range(lab.plan["members"])]
    members[0].start()
    for member in members[1:]:
        line = wait_until(lambda: members[0].cluster("invite").get("join"), READY_SECONDS, "a line to join by")
        member.start("--join", line)
    wait_until(lambda: whole(members), READY_SECONDS, "all members vote")
    return members


def whole(members) -> bool:
    """Whether all vote, hear each other, and have everything."""
    told = [member.cluster("status") for member in members if member.lives()]
    leader = next((one for one in told if one.get("leader") == one.get("id")), None)
    if leader is None or any(one.get("leader") != leader["id"] for one in told):
        return False
    seen = leader["members"]
    return len(seen) == len(members) and all(
        one["role"] != "learner" and one["silent_ms"] is not None and one["silent_ms"] < 1_000 and not one["lag"]
        for one in seen)


def tiny_item(lab: Lab, members) -> Path:
    """Shares the payload, and something small that is fetched again and again; returns the small one's .torrent."""
    machine, work = lab.machine(SHARER, lab.plan["seed_mbit"]), lab.folder("sharer")
    tiny = work / "tiny.bin"
    payloads.write_random(tiny, TINY)
    for name, path in (("big", Path(lab.plan["payload"])), ("tiny", tiny)):
        folder = lab.folder("sharer", name)
        lab.start(machine, folder, [
            OBT, "--json", "--state", folder / "state", "--peer-listen", f"{machine.address}:{20_000 + (name == 'tiny')}",
            "share", path, "--tracker", f"{members[0].address}:{asking.PORT}", "--protocol", "v1"])
        wait_until(lambda: b'"sharing"' in (folder / "stdout").read_bytes(), READY_SECONDS, f"{name} is shared")
    torrent = work / "tiny.torrent"
    subprocess.run([OBT, "create", "--protocol", "v1", "-o", torrent, tiny], check=True, capture_output=True)
    return torrent


def one_round(lab: Lab, members, tiny: Path, number: int) -> dict:
    wait_until(lambda: whole(members), READY_SECONDS, "all members vote")
    leader = next(member for member in members if member.cluster("status")["id"] == member.cluster("status")["leader"])
    living = [member for member in members if member is not leader]
    name = Path(lab.plan["payload"]).name
    torrent = lab.folder(f"round-{number}") / "payload.torrent"
    # The one that dies is the first of its tiers.
    torrent.write_bytes(asking.get(leader.address, f"/items/{name}.torrent"))
    info_hash = bytes.fromhex(asking.get_json(leader.address, f"/api/v1/items/{name}")["info_hash_v1"])

    flows = Flows()
    downloads = start_downloads(lab, torrent, leader, number)
    publishers = [Loop(PUBLISH_SECONDS, publisher(lab, member, tiny, at, number)) for at, member in enumerate(members)]
    requesters = [Loop(REQUEST_SECONDS, requester(lab, member, at, number)) for at, member in enumerate(members)]
    probes = [Loop(PROBE_SECONDS, probe) for member in living for probe in probes_of(member.address, info_hash)]
    since = {download: time.monotonic() for download in downloads}
    wait_until(lambda: all(under_way(one, since) for one in downloads), READY_SECONDS, "all downloads are under way")

    late = [Download(lab, lab.machine(LATE + at), client, torrent, number) for at, client in enumerate(LATE_CLIENTS)]
    watchers = [Watcher(member.address) for member in living]
    killed = time.monotonic()
    leader.kill()
    for download in late:
        download.start_stock()
    peers = {(lab.machines[SHARER].address, 20_000), *((one.seat.address, one.seat.port) for one in downloads)}
    listed, _ = listed_by(living, peers, info_hash, killed)
    heard = newcomer_heard(living, info_hash)
    every = [*downloads, *late]
    deadline = killed + lab.plan["timeout"]
    while time.monotonic() < deadline and not all([one.is_done() for one in every]):
        time.sleep(0.02)
    faults = {f"{one.client} at {one.machine.address}": one.fault() for one in every}
    fallen = fallen_back([*(one for one in downloads if one.client not in LOYAL), *late], living)
    notes = [note for loop in (*publishers, *requesters, *probes) for note in loop.stop()]
    elections = [watcher.stop(killed) for watcher in watchers]
    flows.stop()

    acknowledged = [note for note in notes if note.kind == "publish" and note.ok]
    names = [note.told for note in acknowledged]
    lost = missing(living, names)
    restarted = time.monotonic()
    leader.start()
    listening = time.monotonic()
    wait_until(lambda: whole(members), REJOIN_SECONDS, "the killed one is back")
    back = time.monotonic() - restarted
    peers |= {(one.seat.address, one.seat.port) for one in late}
    listed_again, absent = listed_by([leader], peers, info_hash, listening)
    lost |= missing([leader], names)
    for download in every:
        download.close()
    return {
        "members": len(members), "elected": min(elections), "known": max(elections),
        "publish_gap": gap(acknowledged, killed), "acknowledged": len(names), "lost": sorted(lost),
        "back": back, "listed": listed, "listed_again": listed_again, "heard": heard,
        "absent": [one.client for one in every if one.seat.address in absent],
        "stopped": {name: fault for name, fault in faults.items() if fault}, "not_fallen_back": fallen,
        "late": {one.client: first_bytes(flows, one) for one in late},
        **answers(notes, leader, killed), **dips(flows, downloads, killed),
    }


def start_downloads(lab: Lab, torrent: Path, leader: Member, number: int) -> list:
    """Transmission waits for timers of its own before it asks for anything, so it begins before the others."""
    link = lab.plan["mbit"], lab.plan["mbit"]
    stock = [Download(lab, lab.machine(STOCK + at, *link), client, torrent, number)
             for at, client in enumerate(lab.plan["stock"])]
    ours = Download(lab, lab.machine(GETTER, *link), "obt", torrent, number)
    for download in sorted(stock, key=lambda one: one.client not in SLOW_TO_BEGIN):
        download.start_stock()
        if download.client in SLOW_TO_BEGIN:
            wait_until(lambda: download.got() > FIRST_BYTES, READY_SECONDS, f"{download.client} has its first bytes")
    ours.start_ours(leader.address)
    return [*stock, ours]


def under_way(download: Download, since: dict) -> bool:
    if download.is_done() or not download.process.running():
        raise Failed(f"{download.client} was done before the leader was killed")
    if download.got() < UNDER_WAY:
        since[download] = time.monotonic()
    return time.monotonic() - since[download] > BEFORE


def publisher(lab: Lab, member: Member, torrent: Path, at: int, round_number: int):
    """Publishes one name after the other, as somebody who knows this member; `told` is the name."""
    machine, work, count = lab.machine(PUBLISHERS + at), lab.folder(f"publisher-{at}"), iter(range(1 << 30))

    def act() -> Asked:
        name = f"small/{round_number}/{at}/{next(count)}"
        asked = asking.obt(machine, work, "publish", member.address,
                           ["publish", torrent, "--as", name, "--tracker", f"{member.address}:{asking.PORT}"])
        asked.told = name if asked.ok else asked.told
        return asked
    return act


def requester(lab: Lab, member: Member, at: int, round_number: int):
    """Finds, and fetches something small, in turns, as somebody who typed this member's address."""
    machine, count = lab.machine(REQUESTER + at), iter(range(1 << 30))
    work = lab.folder(f"requester-{at}")

    def act() -> Asked:
        if next(count) % 2:
            return asking.obt(machine, work, "obt find", member.address, ["find", member.address, asking.PORT, "tiny"])
        out = lab.folder(f"requester-{at}", "got")
        asked = asking.obt(machine, work, "obt get", member.address,
                           ["get", member.address, asking.PORT, "tiny.bin", "-o", out])
        if asked.ok and not payloads.same(lab.work / "sharer/tiny.bin", out / "tiny.bin"):
            asked.ok, asked.told = False, "the bytes differ"
        shutil.rmtree(out)
        return asked
    return act


def probes_of(member: str, info_hash: bytes) -> list:
    """One question of each kind at a member, of which each is asked ten times a second."""
    asks = {
        "find": lambda: asking.get(member, "/api/v1/items?q=small&limit=10") and None,
        "item": lambda: asking.get(member, "/api/v1/items/tiny.bin") and None,
        "torrent": lambda: asking.get(member, "/items/tiny.bin.torrent") and None,
        "announce over HTTP": lambda: peers_in(asking.announce_over_http(member, info_hash, 30_001)),
        "announce over UDP": lambda: peers_in(asking.announce_over_udp(member, info_hash, 30_002)),
    }
    return [lambda kind=kind, ask=ask: noted(kind, member, ask) for kind, ask in asks.items()]


def peers_in(compact: bytes):
    """An answer that names nobody is none: the sharer is always there."""
    if not compact:
        raise ValueError("the answer names no peer")


class Watcher:
    """Looks who leads, as a member says, until it is stopped."""

    def __init__(self, member: str):
        before = asking.get_json(member, "/api/v1/status")
        self.leader, self.term, self.member = before["leader"], before["term"], member
        self.known, self.found = None, threading.Event()
        self.loop = Loop(STATUS_SECONDS, self.look)

    def look(self):
        try:
            told = asking.get_json(self.member, "/api/v1/status")
        except (OSError, ValueError):
            return
        another = told["leader"] not in (None, self.leader) and told["term"] > self.term
        if another and told["writable"] and self.known is None:
            self.known = time.monotonic()

    def stop(self, killed: float) -> float:
        self.loop.stop()
        if self.known is None:
            raise Failed(f"{self.member} knows of no new leader")
        return self.known - killed


def listed_by(members, peers: set, info_hash: bytes, began: float) -> tuple:
    """Seconds since `began` until each of them tells a newcomer of all these peers, whomever those had announced to; None,
    and whom they do not tell of, where that takes too long."""
    while True:
        absent = set().union(*(peers - addresses_at(member, info_hash, 30_003) for member in members))
        if not absent:
            return time.monotonic() - began, []
        if time.monotonic() > began + LISTED_SECONDS:
            return None, sorted(address for address, _ in absent)
        time.sleep(0.02)


def newcomer_heard(living, info_hash: bytes) -> float:
    """How long it takes until all know of a client that announces to one."""
    at, port = living[0].address, 30_100 + int(time.monotonic() * 10) % 20_000
    began = time.monotonic()
    asking.announce_over_udp(at, info_hash, port)
    wait_until(lambda: all((HUB, port) in addresses_at(member, info_hash, 30_003) for member in living), 20,
               "every living member has heard of a newcomer")
    return time.monotonic() - began


def addresses_at(member: Member, info_hash: bytes, port: int) -> set:
    try:
        return asking.addresses(asking.announce_over_udp(member.address, info_hash, port))
    except OSError:
        return set()


def fallen_back(downloads, living) -> list:
    """Those that no living member knows to be complete: they did not get past the tier that died."""
    def missing_ones():
        seeds = {peer["address"] for member in living for peer in asking.get_json(member.address, "/api/v1/peers")["peers"]
                 if any(item["left"] == 0 for item in peer["items"])}
        return [one for one in downloads if f"{one.seat.address}:{one.seat.port}" not in seeds]
    deadline = time.monotonic() + FALL_BACK_SECONDS
    while (left := missing_ones()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return [f"{one.client} at {one.machine.address}" for one in left]


def missing(members, names) -> set:
    """Names that one of them does not have; each may need a moment to apply what it has."""
    def absent():
        return {name for member in members for name in names if name not in there[member]}
    there = {member: set() for member in members}
    deadline = time.monotonic() + 5
    while True:
        for member in members:
            there[member] = catalogue(member.address)
        if not (left := absent()) or time.monotonic() > deadline:
            return left


def catalogue(member: str) -> set:
    names, cursor = set(), ""
    while cursor is not None:
        page = asking.get_json(member, f"/api/v1/items?q=small&limit=100{cursor}")
        names |= {item["name"] for item in page["items"]}
        cursor = f"&cursor={page['cursor']}" if page.get("cursor") else None
    return names


def gap(acknowledged, killed: float) -> float:
    """The longest time without the answer to a publish that lasted beyond the kill."""
    ends = sorted(note.ended for note in acknowledged)
    pauses = [after - before for before, after in zip(ends, ends[1:]) if after > killed]
    return max(pauses, default=float("inf"))


def answers(notes, leader: Member, killed: float) -> dict:
    """Of what was asked: how often, how often in vain, and how long it took at worst."""
    ours = [note for note in notes if note.kind.startswith("obt ")]
    publishes = [note for note in notes if note.kind == "publish"]
    probes = [note for note in notes if note not in ours and note not in publishes]
    failed = [note for note in probes if not note.ok]

    def answered_elsewhere(note):
        return any(other.ok and other.kind == note.kind and note.began <= other.ended <= note.began + asking.PATIENCE
                   for other in probes)
    after = [note for note in notes if note.ended > killed]
    slowest = {kind: max(note.ended - note.began for note in after if note.kind == kind)
               for kind in dict.fromkeys(note.kind for note in after)}
    return {
        "asked": len(probes), "failed_at_one": len(failed),
        "failed_at_all": [f"{note.kind} at {note.member}: {note.told}" for note in failed if not answered_elsewhere(note)],
        "failed": [f"{note.kind} at {note.member} {note.began - killed:+.2f} s: {note.told}" for note in failed],
        "commands": len(ours), "commands_failed": [f"{note.kind} {note.member} {note.began - killed:+.2f} s: {note.told}"
                                                   for note in ours if not note.ok],
        "publishes": len(publishes), "publishes_failed": [
            f"{note.member} {note.began - killed:+.2f} s: {note.told}" for note in publishes if not note.ok],
        "slowest": slowest,
    }


def dips(flows: Flows, downloads, killed: float) -> dict:
    """How far the slowest second lies under the mean before the kill: after it, and, to compare, before it."""
    def dip(ports):
        mean = flows.rate(ports, killed - BEFORE, killed)
        worst = {"after": flows.worst(ports, killed, killed + AFTER), "before": flows.worst(ports, killed - BEFORE, killed)}
        return {when: 1 - rate / mean for when, rate in worst.items()} | {"mean": mean}
    busy = [one for one in downloads if one.finished is None or one.finished > killed + AFTER]
    return {"dip": dip([one.machine.port for one in busy]) if busy else None,
            "dip_of": {one.client: dip([one.machine.port]) for one in busy}}


def first_bytes(flows: Flows, download: Download):
    """Seconds until a late client had its first blocks."""
    port = download.machine.port
    return next((at - download.began for at, counts in flows.samples
                 if counts.get(port, 0) - download.before > FIRST_BYTES), None)


if __name__ == "__main__":
    main()
