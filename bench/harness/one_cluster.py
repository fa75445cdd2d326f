"""One run of a cluster of trackers: start, find, publish, join, crash; or announces; or swarms of many peers; or announces
while the leader is killed. A process of its own, as `one_run` is; reads a plan from standard input and writes what came out,
both JSON."""

import http.client
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.parse
from pathlib import Path

from harness import one_tracker
from harness.measure import Group, Machine, field
from harness.one_failover import Watcher
from harness.one_run import Failed, prepare_network, start
from processes import wait_until

MIB = 1 << 20
PATIENCE = 400
# Of each kind of question.
QUESTIONS = 40
# Changes that a key and an address may make at once are a hundred.
EACH = 90
PUBLISHERS = 64
SWARMS, PEERS = 10_000, 500_000
# Who announces to whom while the leader is killed: each peer to one member, by one protocol. Addresses have 64 peers.
PARTS = {("udp", "leader"): (0, 150_016), ("udp", "others"): (150_016, 450_048), ("http", "leader"): (450_048, 466_688),
         ("http", "others"): (466_688, PEERS)}


def main():
    plan = json.load(sys.stdin)
    prepare_network()
    # Peers have addresses of their own, which are not those of this host to a tracker.
    subprocess.run(["ip", "address", "add", "10.64.0.0/10", "dev", "lo"], check=True)
    one_tracker.spare_ports()
    cluster = Cluster(plan)
    machine = Machine()
    try:
        figures = {"names": names, "announces": announces, "crowds": crowds, "kill": kill}[plan["what"]](plan, cluster)
        record = {"figures": figures}
    except (Failed, AssertionError) as failed:
        record = {"failed": str(failed)}
    finally:
        cluster.close()
    used = sum(member.spent for member in cluster.all)
    # Publishers and announcing peers are in no account, so what others used cannot be told.
    about = {"wall": time.monotonic() - machine.began, "table": plan["table"]}
    json.dump(machine.since(used) | about | record | {"others": 0}, sys.stdout)


class Cluster:
    """Members, in the order in which they came."""

    def __init__(self, plan):
        self.plan, self.all, self.published, self.started = plan, [], plan.get("names", 0), []

    def add(self, join: str = "", state: Path = None):
        member = Member(self.plan, len(self.all), state)
        self.all.append(member)
        member.start(join)
        return member

    def invite(self) -> str:
        told = subprocess.run([self.plan["obt"], "--state", self.all[0].state, "cluster", "invite"], capture_output=True,
                              text=True, check=True)
        return re.search(r"obt-join-\S+", told.stdout)[0]

    def publish(self, publishers: int, each: int, members=None) -> dict:
        """Real publishes, by publishers that are new."""
        members = members or self.all
        # Whoever publishes anew has another key and address: counted from where none was.
        first = -(-self.published // each) * each
        self.published = first + publishers * each
        told = subprocess.run([self.plan["filler"], "publish", str(publishers), str(each), str(first),
                               *(f"{member.address}:6969" for member in members)], capture_output=True, text=True)
        if told.returncode:
            raise Failed(f"a publisher was refused: {told.stderr.strip()}")
        return json.loads(told.stdout)

    def close(self):
        for member in reversed(self.all):
            member.close()


class Member:
    """`obt tracker` with an address, a state and an account of its own."""

    def __init__(self, plan, number: int, state: Path = None):
        self.plan, self.address = plan, f"10.99.0.{number + 1 if number == 0 else number + 9}"
        self.work = Path(plan["work"]) / f"member-{number}"
        self.work.mkdir()
        self.state = state or self.work / "state"
        self.group, self.running, self.spent = Group(f"{plan['group']}-{number}"), [], 0

    def start(self, join: str = ""):
        """Seconds until it is ready."""
        began = time.monotonic()
        command = [self.plan["obt"], "--state", self.state, "--tracker-listen", f"{self.address}:6969", "--cluster-listen",
                   f"{self.address}:7000", "tracker", "--publish", "open", *(["--join", join] if join else [])]
        self.process = start(command if not join else [word for word in command if word not in ("--publish", "open")],
                             self.work, self.group, self.running)
        wait_until(lambda: self.ready(), PATIENCE, "a member is ready")
        return time.monotonic() - began

    def ready(self) -> bool:
        if not self.process.running():
            raise Failed(f"a member ended: {self.process.text()[-500:]}")
        try:
            return self.get("/readyz", 5)[0] == 200
        except OSError:
            return False

    def get(self, path: str, patience: float = 60):
        connection = http.client.HTTPConnection(self.address, 6969, timeout=patience)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def status(self) -> dict:
        return json.loads(self.get("/api/v1/status")[1])

    def cpu(self) -> float:
        return self.group.cpu_seconds()

    def anonymous(self) -> int:
        return one_tracker.anonymous(self.group)

    def peak(self) -> int:
        """Of the resident set, files that are mapped included."""
        return max((field(Path(f"/proc/{pid}/status").read_text(), "VmHWM:") for pid in self.group.pids()), default=0)

    def disk(self) -> int:
        return sum(file.stat().st_size for file in self.state.iterdir() if file.is_file())

    def kill(self):
        self.process.stop(signal.SIGKILL)

    def close(self):
        self.spent = self.cpu()
        for process in self.running:
            process.stop(signal.SIGKILL)
        self.group.close()


class Watched:
    """The most anonymous memory of members while something happens."""

    def __init__(self, members):
        self.members, self.most, self.stop = members, {member.address: 0 for member in members}, threading.Event()

    def __enter__(self):
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()

    def run(self):
        while not self.stop.wait(0.05):
            for member in self.members:
                try:
                    self.most[member.address] = max(self.most[member.address], member.anonymous())
                except OSError:
                    pass


def names(plan, cluster) -> dict:
    only = plan["only"] or ["start", "find", "publish", "join", "crash"]
    state = Path(plan["work"]) / "filled"
    shutil.copytree(plan["filled"], state)
    leader = Member(plan, 0, state)
    cluster.all.append(leader)
    with Watched([leader]) as watched:
        seconds = leader.start()
    figures = {"start s": seconds, "start CPU-s": leader.cpu(), "start anon MiB, most": watched.most[leader.address] / MIB,
               "anon MiB": leader.anonymous() / MIB, "disk MiB": leader.disk() / MIB,
               "disk bytes a name": leader.disk() / plan["names"]}
    if plan["members"] > 1 and "join" in only:
        figures |= grow(plan, cluster)
    elif plan["members"] > 1:
        grow(plan, cluster)
    if "find" in only:
        figures |= questions(plan, leader, state)
    if "publish" in only:
        figures |= publishes(cluster)
    if "crash" in only:
        leader.kill()
        figures["start after kill -9, s"] = leader.start()
    return figures


def grow(plan, cluster) -> dict:
    """Members join, one after the other, while somebody publishes at the first."""
    leader, figures = cluster.all[0], {}
    for number in range(1, plan["members"]):
        line = cluster.invite()
        stop, waits, refused = threading.Event(), [], []
        member = Member(plan, number)
        cluster.all.append(member)

        def publish():
            try:
                while not stop.is_set():
                    waits.append(cluster.publish(1, EACH, [leader]))
            except Failed as failed:
                refused.append(failed)
        publisher = threading.Thread(target=publish, daemon=True)
        before, began = leader.cpu(), time.monotonic()
        with Watched([leader, member]) as watched:
            publisher.start()
            member.start(line)
            ready = time.monotonic() - began
            wait_until(lambda: caught_up(leader, member), PATIENCE, "a new member has all names")
            seconds = time.monotonic() - began
            stop.set()
            publisher.join()
        if refused:
            raise refused[0]
        if number == 1:
            figures |= {"join s": seconds, "join s, until it answers": ready, "join: joiner's CPU-s": member.cpu(),
                        "join: leader's CPU-s": leader.cpu() - before,
                        "join: joiner's anon MiB, most": watched.most[member.address] / MIB,
                        "join: leader's anon MiB, most": watched.most[leader.address] / MIB,
                        "join: publish p50 ms": sorted(wait["p50_ms"] for wait in waits)[len(waits) // 2],
                        "join: publish most ms": max(wait["max_ms"] for wait in waits)}
    await_voters(plan, leader)
    figures["follower anon MiB"] = cluster.all[1].anonymous() / MIB
    return figures


def await_voters(plan, member):
    voters = min(5, plan["members"] - 1 + plan["members"] % 2)

    def settled():
        roles = [one["role"] for one in member.status()["members"]]
        return sum(role in ("leader", "voter") for role in roles) == voters
    wait_until(settled, 60, "the voters vote")


def caught_up(leader, member) -> bool:
    return member.status()["names"] >= leader.status()["names"] - 100


def publishes(cluster) -> dict:
    one = cluster.publish(1, EACH)
    many = cluster.publish(PUBLISHERS, EACH)
    return {"publish p50 ms": one["p50_ms"], "publish p99 ms": one["p99_ms"], "64 publishers: a second": many["per_second"],
            "64 publishers: p50 ms": many["p50_ms"], "64 publishers: p99 ms": many["p99_ms"],
            "64 publishers: most ms": many["max_ms"]}


def questions(plan, member, state: Path) -> dict:
    """How long answers take, by the kind of question, in milliseconds: one connection, one question at a time."""
    chance = random.Random(1)
    with sqlite3.connect(f"file:{state / 'catalogue.sqlite'}?mode=ro", uri=True) as catalogue:
        ids = [chance.randrange(plan["names"]) + 1 for _ in range(QUESTIONS)]
        chosen = [catalogue.execute("SELECT name FROM name WHERE id = ?", (id,)).fetchone()[0] for id in ids]
        last = catalogue.execute("SELECT max(name) FROM name").fetchone()[0]
    catalogue.close()
    words = [re.split(r"[ /_.-]+", name) for name in chosen]
    kinds = {
        "exact": chosen,
        "prefix": [name[:12] for name in chosen],
        "word": [one[0] for one in words],
        "two words": [f"{one[0]} {one[1]}" for one in words],
        "three words": [" ".join(one[:3]) for one in words],
        "part of a word": [one[0][1:] for one in words],
        "typing error": [f"{one[0][:2]}x{one[0][3:]} {one[1]}" for one in words],
        "three letters": [one[0][:3] for one in words],
        "two letters": [one[0][:2] for one in words],
        "one letter": [one[0][0] for one in words],
        "two short words": [f"{one[0][:2]} {one[-2][-2:]}" for one in words],
        "common and rare": [f"mkv {one[-2]}" for one in words],
        "common, together never": [f"{ending} s{number:02}e{number:02}" for number, ending in enumerate(["mkv", "gz"] * 6)],
        "no hit": ["".join(chance.choices("qxjwyh", k=8)) for _ in range(QUESTIONS)],
        "no hit, short": ["".join(chance.choices("qxjwyh", k=2)) for _ in range(QUESTIONS)],
        "nothing asked": [""] * QUESTIONS,
        "last page": [last[:6]] * 5,
    }
    figures = {}
    for kind, texts in kinds.items():
        waits = [ask(member, "/api/v1/items?" + urllib.parse.urlencode({"q": text})) for text in texts]
        figures |= summary(f"find, {kind}", waits)
    figures |= summary("one item", [ask(member, "/api/v1/items/" + urllib.parse.quote(name, safe="")) for name in chosen])
    figures |= summary("status", [ask(member, "/api/v1/status") for _ in range(20)])
    return figures


def ask(member, path: str) -> float:
    began = time.monotonic()
    status, _ = member.get(path)
    if status != 200:
        raise Failed(f"{path}: {status}")
    return (time.monotonic() - began) * 1000


def summary(what: str, waits) -> dict:
    waits.sort()
    return {f"{what}: p50 ms": waits[len(waits) // 2], f"{what}: p99 ms": one_tracker.quantile(waits, 0.99)}


def found(plan, cluster):
    """A cluster without a name."""
    cluster.add()
    for _ in range(1, plan["members"]):
        cluster.add(cluster.invite())
    return cluster.all


def announces(plan, cluster) -> dict:
    """At a rate, at one member or spread over all of them: 500,000 peers in 10,000 swarms, which come, then come again."""
    members = found(plan, cluster)
    targets = members[:plan["at"]]
    come(plan, members, targets)
    cpu, links = [member.cpu() for member in members], link_bytes()
    load = announce(plan, plan["rate"], plan["seconds"], SWARMS, PEERS, targets)
    used = [(member.cpu() - before) / load["seconds"] for member, before in zip(members, cpu)]
    figures = {"announces/s": load["answered"] / load["seconds"], "lost": load["sent"] - load["answered"],
               "late s, at most": load["late_seconds"], "CPUs of the first member": used[0]}
    if plan["members"] > 1:
        figures |= {"CPUs of another member": max(used[1:]),
                    "bytes between members, an announce": (link_bytes() - links) / load["answered"]}
    return figures | {"anon MiB of the first": members[0].anonymous() / MIB, "CPUs of all": sum(used)}


def come(plan, members, targets):
    """All peers, once."""
    announce(plan, 0, 0, SWARMS, PEERS, targets)
    wait_until(lambda: all(told(member) == PEERS for member in members), 60, "all members know all peers")


def kill(plan, cluster) -> dict:
    """Announces over UDP and HTTP to all members: with nobody killed, then with the leader killed after a third of the time.
    What is told is of the members that live."""
    members = found(plan, cluster)
    await_voters(plan, members[0])
    come(plan, members, members)
    leader = leader_of(members)
    others = [member for member in members if member is not leader]
    quiet = heard(steady(plan, leader, others))
    began, loads = time.monotonic(), steady(plan, leader, others)
    at = plan["seconds"] // 3
    time.sleep(at)
    if leader_of(members) is not leader:
        raise Failed("another member leads before the leader is killed")
    watchers = [Watcher(member.address) for member in others]
    killed = time.monotonic()
    leader.kill()
    struck = heard(loads)
    known = [watcher.stop(killed) for watcher in watchers]
    figures = {"killed after s": killed - began, "new leader known, s": min(known), "known to both, s": max(known)}
    for protocol in ("udp", "http"):
        figures |= {f"{protocol}: {what}": value for what, value in of_load(quiet[protocol]).items()}
        figures |= {f"{protocol}, leader killed: {what}": value for what, value in of_load(struck[protocol]).items()}
        figures[f"{protocol}, leader killed: longest ms since then"] = max(struck[protocol]["longest_ms_by_second"][at:])
    return figures


def leader_of(members):
    """As they all say."""
    led = {one["address"].rpartition(":")[0] for member in members for one in member.status()["members"]
           if one["role"] == "leader"}
    if len(led) != 1:
        raise Failed(f"not one member leads: {led}")
    return next(member for member in members if member.address in led)


def steady(plan, leader, others) -> dict:
    """The load on the leader and on the others, by either protocol, under way."""
    rates, targets = {"udp": plan["rate"], "http": plan["http_rate"]}, {"leader": [leader], "others": others}
    return {(protocol, of): announcing(plan, protocol, rates[protocol] * len(targets[of]) // plan["members"],
                                       plan["seconds"], SWARMS, f"{first}..{end}", targets[of])
            for (protocol, of), (first, end) in PARTS.items()}


def heard(loads) -> dict:
    """What came of the load on the others, by protocol, when all of it has ended well."""
    done = {part: finish(load) for part, load in loads.items()}
    return {protocol: load for (protocol, of), load in done.items() if of == "others"}


def of_load(load) -> dict:
    return {"answered/s": load["answered"] / load["seconds"], "lost": load["sent"] - load["answered"],
            "p50 ms": load["p50_ms"], "p99 ms": load["p99_ms"], "longest ms": max(load["longest_ms_by_second"]),
            "late s, at most": load["late_seconds"]}


def crowds(plan, cluster) -> dict:
    """All peers come, as fast as they are taken; then the same once more."""
    members = found(plan, cluster)
    before = [member.anonymous() for member in members]
    peers = plan["swarms"] * plan["peers"]
    first = announce(plan, 0, 0, plan["swarms"], peers, members[:1])
    known = lambda: [told(member) for member in members]
    try:
        wait_until(lambda: all(count >= peers for count in known()), 30, "all members know all peers")
    except AssertionError:
        pass
    grown = [member.anonymous() - was for member, was in zip(members, before)]
    used = members[0].cpu()
    again = announce(plan, 0, 0, plan["swarms"], peers, members[:1])
    return {"peers known": min(known()), "refused": first["refused"], "anon MiB more": max(grown) / MIB,
            "bytes a peer": max(grown) / peers, "announces/s": again["answered"] / again["seconds"],
            "announces per CPU-s": again["answered"] / (members[0].cpu() - used)}


def told(member) -> int:
    """Addresses in swarms, of all that it knows."""
    return member.status()["peers"]


def announce(plan, rate: int, seconds: int, swarms: int, peers: int, members) -> dict:
    return finish(announcing(plan, "udp", rate, seconds, swarms, peers, members))


def announcing(plan, protocol: str, rate: int, seconds: int, swarms: int, peers, members):
    targets = [f"{member.address}:6969" for member in members]
    return subprocess.Popen([plan["announcer"], protocol, *map(str, (rate, seconds, swarms, peers)), *targets],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(load) -> dict:
    told, why = load.communicate()
    if load.returncode:
        raise Failed(f"the load ({' '.join(load.args[1:])}) ended: {why.strip()}")
    return json.loads(told)


def link_bytes() -> int:
    """What all connections between members have carried so far, both ways, each byte once."""
    told = subprocess.run(["ss", "-Htin", "( sport = :7000 or dport = :7000 )"], capture_output=True, text=True, check=True)
    return sum(map(int, re.findall(r"bytes_sent:(\d+)", told.stdout)))


if __name__ == "__main__":
    main()
