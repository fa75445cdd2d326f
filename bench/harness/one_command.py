"""One command that reads a payload: the clock and the accounts around it, with the payload in the page cache.

A process of its own, as `one_run` is; reads a plan from standard input and writes what came out to standard output."""

import json
import sys
from pathlib import Path

from harness.measure import Group, Machine
from harness.one_run import Failed, await_end, start


def main():
    plan = json.load(sys.stdin)
    group, started = Group(plan["group"]), []
    try:
        record = run(plan, group, started)
    except Failed as failed:
        record = {"failed": str(failed)}
    finally:
        for process in started:
            process.stop()
        group.close()
    json.dump(record, sys.stdout)


def run(plan, group, started) -> dict:
    read(Path(plan["payload"]))
    work = Path(plan["work"])
    command = [word.replace("{work}", str(work)) for word in plan["command"]]
    machine = Machine()
    process = start(command, work, group, started)
    wall = await_end(process, None, [group], machine.began, plan)
    cpu = group.cpu_seconds()
    if "makes" in plan and not same_hashes(Path(plan["torrent"]), work / plan["makes"]):
        raise Failed("its hashes differ from libtorrent's")
    return machine.since(cpu) | {"wall": wall, "download_cpu": cpu, "download_anon": group.anon,
                                 "download_rss": group.rss}


def same_hashes(expected: Path, made: Path) -> bool:
    """Whether both torrents have the same hashes of pieces, v1 and v2."""
    import libtorrent as lt

    one, other = (lt.bdecode(path.read_bytes()) for path in (expected, made))
    return (one[b"info"].get(b"pieces") == other[b"info"].get(b"pieces")
            and one.get(b"piece layers") == other.get(b"piece layers"))


def read(path: Path):
    for file in [path] if path.is_file() else path.rglob("*"):
        if file.is_file():
            with open(file, "rb", buffering=0) as data:
                while data.read(1 << 20):
                    pass


if __name__ == "__main__":
    main()
