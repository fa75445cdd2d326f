"""One run: seeders that have been seen to hold everything, one downloader, the clock, the accounts, the comparison.

A process of its own in a network and a process namespace of its own; reads a plan from standard input and writes what
came out to standard output, both JSON. Whatever it started ends with it."""

import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path

from harness import payloads
from harness.clients import CLIENTS, Seat
from harness.long_link import LongLink
from harness.measure import Group, Machine, WarmMemory
from harness.tracker import Tracker
from processes import Process, wait_until

DOWNLOADER = ("10.99.0.2", 20_002)
SEEDERS = [(f"10.99.0.{10 + number}", 20_010 + number) for number in range(32)]
# A seeder hashes its data before it announces; Transmission and aria2 do so on one core.
READY_SECONDS = 120
# Whoever says "finished" may still have bytes in its own queues.
SETTLE_SECONDS = 30


class Failed(Exception):
    """A run that is counted as failed, with the reason that the table shows."""


def main():
    plan = json.load(sys.stdin)
    link = prepare_network(plan.get("link"), f"{plan['group']}-far")
    groups = {role: Group(f"{plan['group']}-{role}") for role in ("download", "seed")}
    started = []
    try:
        record = run(plan, groups, started, link)
    except Failed as failed:
        record = {"failed": str(failed)}
    except AssertionError as waited:
        record = {"failed": str(waited)}
    finally:
        for process in reversed(started):
            process.stop(seconds=5)
        for group in groups.values():
            group.close()
        if link:
            link.close()
    json.dump(record, sys.stdout)


def prepare_network(link=None, name: str = ""):
    """All addresses are here, but that of a downloader behind a link: its namespace is `name`, and the link is returned."""
    here = [payloads.TRACKER_ADDRESS, *([] if link else [DOWNLOADER[0]]), *(address for address, _ in SEEDERS)]
    ip = ["link set lo up", *(f"address add {address}/32 dev lo" for address in here)]
    subprocess.run(["ip", "-batch", "-"], input="\n".join(ip).encode(), check=True)
    return LongLink(name, DOWNLOADER[0], **link) if link else None


def run(plan, groups, started, link) -> dict:
    work, source = Path(plan["work"]), Path(plan["payload"])
    seats = {port: address for address, port in (DOWNLOADER, *SEEDERS)}
    tracker = Tracker(payloads.TRACKER_ADDRESS, payloads.TRACKER_PORT, seats)
    start_seeders(plan, groups["seed"], started, tracker)

    seat = take_seat(plan, "download", DOWNLOADER, work / "got")
    seat.folder.mkdir()
    client = CLIENTS[plan["downloader"]](seat)
    command = link.within(client.download()) if link else client.download()
    hook = open_hook(seat) if client.ends == "hook" else None
    os.sync()
    warm = WarmMemory(work, plan["warm"])
    warm.release()
    seeders_before = groups["seed"].cpu_seconds()
    machine = Machine()
    began = time.monotonic()
    process = start(command, seat.work, groups["download"], started)
    wall = await_end(process, hook, groups.values(), began, plan)
    used = {role: group.cpu_seconds() for role, group in groups.items()}
    record = machine.since(used["download"] + used["seed"] - seeders_before)
    equal = await_equal(source, seat.folder / source.name, began, process) if client.stores else None
    # All that the client does until it has ended is its cost.
    process.stop(seconds=20)
    announced = tracker.first_announce.get(DOWNLOADER[1])
    return record | {
        "warm_seconds_per_gib": warm.seconds / plan["warm"] * (1 << 30),
        "wall": wall, "equal": equal, "announced": announced and announced - began,
        "verified": verified_seconds(process, wall),
        "download_cpu": groups["download"].cpu_seconds(),
        "seed_cpu": groups["seed"].cpu_seconds() - seeders_before,
        "download_anon": groups["download"].anon, "download_rss": groups["download"].rss,
        "seed_anon": groups["seed"].anon, "seed_rss": groups["seed"].rss,
    }


def take_seat(plan, name: str, where, folder: Path) -> Seat:
    work = Path(plan["work"]) / name
    work.mkdir()
    return Seat(Path(plan["payload"]), Path(plan["torrent"]), plan["protocol"], folder, work, *where, work / "hook")


def start_seeders(plan, group, started, tracker):
    """Each must be known to hold everything; that it hashes first is no part of the run."""
    client = CLIENTS[plan["seeder"]]
    work = Path(plan["work"]) / "tracker"
    command = client.tracker(work)
    if command:
        work.mkdir()
        start(command, work, group, started)
        wait_until(lambda: (work / "stdout").read_bytes(), READY_SECONDS, "its tracker listens")
    seeders = []
    for number, where in enumerate(SEEDERS[:plan["seeders"]]):
        seat = take_seat(plan, f"seed-{number}", where, Path(plan["payload"]).parent)
        seeders.append(client(seat))
        start(seeders[-1].seed(), seat.work, group, started)

    def ready():
        for process in started:
            if not process.running():
                raise Failed(f"a seeder ended with status {process.child.returncode}")
        return all(seeder.holds_all(tracker) for seeder in seeders)
    wait_until(ready, READY_SECONDS, "the seeders hold everything")


def start(command, work: Path, group: Group, started) -> Process:
    with open(work / "stdout", "wb") as out:
        process = Process(command, work / "log", cwd=work, stdout=out, preexec_fn=group.enter,
                          env={**os.environ, "HOME": str(work)})
    group.add(process.child.pid)
    started.append(process)
    return process


def open_hook(seat: Seat) -> int:
    os.mkfifo(seat.hook)
    return os.open(seat.hook, os.O_RDWR | os.O_NONBLOCK)


def says_complete(hook, stdout: Path) -> bool:
    """Whether a client that runs has said that it is complete: a first line, in `hook` or, without one, in `stdout`."""
    if hook is None:
        return b"\n" in stdout.read_bytes()
    try:
        return bool(os.read(hook, 100))
    except BlockingIOError:
        return False


def await_end(process, hook, groups, began: float, plan) -> float:
    """Seconds until the process says that it is complete, by a line in `hook` or, without one, by ending well; samples
    memory meanwhile."""
    poll = select.poll()
    ended = os.pidfd_open(process.child.pid)
    for file in (ended, hook):
        if file is not None:
            poll.register(file, select.POLLIN)
    while True:
        happened = [file for file, _ in poll.poll(plan["sample_ms"])]
        now = time.monotonic() - began
        if hook in happened:
            return now
        if ended in happened:
            status = process.child.wait()
            if hook is None and status == 0:
                return now
            raise Failed(f"ended with status {status}")
        if now > plan["timeout"]:
            raise Failed(f"not complete after {plan['timeout']} s")
        for group in groups:
            group.sample()


def await_equal(source: Path, copy: Path, began: float, process) -> float:
    """Seconds until a comparison has found every byte equal; it begins when the client says that it is complete."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        wrong = payloads.difference(source, copy)
        if wrong is None:
            return time.monotonic() - began
        if time.monotonic() > deadline or not process.running():
            raise Failed(f"bytes differ: {wrong.name}")
        time.sleep(0.02)


def verified_seconds(process, wall: float):
    """When the last byte was verified, where the client says so (obt, which makes its files durable after that)."""
    lines = (process.log.parent / "stdout").read_bytes().splitlines()
    try:
        told = json.loads(lines[-1])
        return wall - (told["seconds"] - told["verified_seconds"])
    except (IndexError, ValueError, KeyError, TypeError):
        return None


if __name__ == "__main__":
    main()
