"""Interleaved runs: every client once, then every client once more; each run is a process in namespaces of its own."""

import argparse
import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness import BENCH, measure, namespaces, payloads, report
from harness.clients import CLIENTS

GIB = 1 << 30
# Room for everything in a run that is not the payload.
BESIDES = GIB // 2
# How often a run that others disturbed is made again, at once.
REPEATS = 2


def options(description: str, clients, runs: int = 5) -> argparse.ArgumentParser:
    """The options that every table has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", default=",".join(clients), metavar="A,B", help="default: %(default)s")
    parser.add_argument("--runs", type=int, default=runs, metavar="N", help="of each client (default: %(default)s)")
    parser.add_argument("--runs-of", action="append", default=[], metavar="CLIENT=N", help="fewer of a slow one")
    parser.add_argument("--timeout", type=float, default=120, metavar="SECONDS", help="a run that takes longer failed")
    parser.add_argument("--work", type=Path, metavar="DIR", default=Path(tempfile.gettempdir()) / "obt-bench",
                        help="payloads are kept and copies written here (default: %(default)s)")
    parser.add_argument("--max-others", type=float, default=25, metavar="PERCENT",
                        help="a run in which others used more of the machine is disturbed: it is made again, at most twice, "
                             "and in no median (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE",
                        help="append every run to it, one JSON object a line; the table is of all runs in it")
    return parser


def size(text: str) -> int:
    """Bytes, from `2G`, `64M` or `16K`."""
    found = re.fullmatch(r"(\d+)([KMG]?)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write 2G, 64M or 16K")
    return int(found[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[found[2]]


def plan(case: str, subject, source: Path, torrent: Path, protocol: str, seeder: str, seeders: int, **more) -> dict:
    """A download by `subject`, as `one_run` reads it; where another client downloads it is in `more`."""
    return {"case": case, "subject": subject.name, "size": payloads.data_size(source), "payload": str(source),
            "torrent": str(torrent), "protocol": protocol, "downloader": subject.name, "seeder": seeder,
            "seeders": seeders} | more


def command(case: str, subject: str, source: Path, words: list, **more) -> dict:
    """A command that reads `source`, as `one_command` reads it; `{work}` in its words is the folder of the run."""
    return {"case": case, "subject": subject, "size": payloads.data_size(source), "payload": str(source),
            "module": "harness.one_command", "command": [str(word) for word in words], "settings": ""} | more


def chosen(arguments) -> list:
    """The classes of the clients that were asked for and are here; a missing one is named aloud."""
    names = arguments.clients.split(",")
    for name in names:
        if name not in CLIENTS:
            sys.exit(f"no client {name!r}; there are {', '.join(CLIENTS)}")
        if not CLIENTS[name].installed():
            print(f"{name} is not installed (bench/install-clients); left out", file=sys.stderr)
    return [CLIENTS[name] for name in names if CLIENTS[name].installed()]


def run_all(arguments, plans) -> list:
    """Runs the plans, each of them as often as asked, in turns. A plan is what `one_run` reads, with `case` (what is
    compared with each other) and `subject` (the client that it measures). Returns the records of the table."""
    if os.geteuid() != 0:
        sys.exit("needs root, to make namespaces")
    fewer = dict(text.split("=") for text in arguments.runs_of)
    records = []
    # A table that is made in several goes does not begin each of them with the same client.
    before = len(report.load(arguments.json)) if arguments.json and arguments.json.exists() else 0
    for number in range(arguments.runs):
        for plan in turn(plans, before // len(plans) + number):
            if number < int(fewer.get(plan["subject"], arguments.runs)):
                records += repeated(arguments, plan)
    return report.load(arguments.json) if arguments.json else records


def repeated(arguments, plan) -> list:
    """A run, and those that were made again because others disturbed it."""
    records = []
    while len(records) <= REPEATS and (not records or records[-1]["disturbed"]):
        record = run(arguments, plan)
        records.append(record)
        say(record)
        if arguments.json:
            with open(arguments.json, "a") as file:
                file.write(json.dumps(record) + "\n")
    return records


def turn(plans, number: int):
    """The plans, another one first each time."""
    first = number % len(plans)
    return plans[first:] + plans[:first]


def run(arguments, plan) -> dict:
    arguments.work.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="run-", dir=arguments.work))
    plan = {"timeout": arguments.timeout, "warm": plan["size"] + BESIDES, "sample_ms": 20} | plan | {
        "work": str(work), "group": f"obt-bench-{os.getpid()}"}
    load = os.getloadavg()[0]
    command = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, "-m",
               plan.get("module", "harness.one_run")]
    # Who is told to end leaves nothing behind: neither limits, nor machines, nor groups, nor copies of gigabytes.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with alone(), dirty_limits(4 * GIB, 8 * GIB):
            done = subprocess.run(command, input=json.dumps(plan), stdout=subprocess.PIPE, text=True, cwd=BENCH)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    finally:
        namespaces.forget(plan["group"])
        measure.forget(plan["group"])
    record = json.loads(done.stdout) if done.returncode == 0 else {"failed": f"the harness ended with {done.returncode}"}
    if "failed" in record:
        print(f"logs in {work}", file=sys.stderr)
    elif plan.get("keep"):
        work.rename(kept_copies(arguments) / work.name)
    else:
        shutil.rmtree(work, ignore_errors=True)
    subject = CLIENTS.get(plan["subject"])
    about = {"version": subject.version(), "settings": subject.settings} if subject else {}
    told = {key: plan[key] for key in ("case", "subject", "size", "version", "settings") if key in plan}
    congestion = Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()
    # What the kernel does on its own for a run (it writes back what obt syncs) is among the others' CPU time.
    disturbed = record.get("others", 0) > arguments.max_others / 100
    return about | told | record | {"disturbed": disturbed, "load": load, "at": int(time.time()), "congestion": congestion}


def kept_copies(arguments) -> Path:
    """Where copies lie whose removal would slow the runs after it."""
    folder = arguments.work / "kept"
    folder.mkdir(exist_ok=True)
    return folder


@contextlib.contextmanager
def alone():
    """No two runs at once on this machine, whoever started them."""
    with open(Path(tempfile.gettempdir()) / "obt-bench.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def say(record):
    told = record.get("failed") or f"{record['wall']:.2f} s, others' CPU {record['others']:.0%}"
    print(f"{record['case']}: {record['subject']}: {told}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def dirty_limits(background: int, throttle: int):
    """No run waits for the disk because another left dirty pages: no client but obt syncs, and what a run writes is
    removed after it. The limits are those of a machine with more memory, and are put back."""
    names = ("dirty_background_bytes", "dirty_bytes", "dirty_background_ratio", "dirty_ratio")
    before = {name: Path(f"/proc/sys/vm/{name}").read_text().strip() for name in names}
    limits = {"dirty_background_bytes": background, "dirty_bytes": throttle}
    try:
        for name, value in limits.items():
            Path(f"/proc/sys/vm/{name}").write_text(str(value))
        yield
    finally:
        # Setting one of a pair clears the other; zero cannot be written.
        for name, value in before.items():
            if value != "0":
                Path(f"/proc/sys/vm/{name}").write_text(value)
