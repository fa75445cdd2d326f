"""What a run costs, from the operating system's accounts: CPU time and memory of a group of processes, CPU time of the
whole machine, and the memory that it has at hand."""

import os
import time
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")


def cgroup_root():
    """Where version 2 of control groups is mounted, if it is; its `cpu.stat` needs no controller."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(where)
    return None


def forget(name: str):
    """Removes the control groups of a run that was ended; their processes end a moment after it."""
    root = cgroup_root()
    for folder in root.glob(f"{name}-*") if root else ():
        for _ in range(50):
            try:
                folder.rmdir()
                break
            except OSError:
                time.sleep(0.1)


class Group:
    """The processes of one role in a run, and what they use together.

    CPU time comes from a control group, to the microsecond and with all children; without one, from /proc/PID/stat, to
    the clock tick and as of the last sample. Memory is sampled: RssAnon is what the processes hold that is in no file,
    VmHWM is the kernel's own peak of the resident set, page cache that is mapped included."""

    def __init__(self, name: str):
        self.folder = None
        self.roots = []
        self.seen = {}
        self.anon = self.rss = 0
        root = cgroup_root()
        if root:
            folder = root / name
            try:
                folder.mkdir()
                self.folder = folder
            except OSError:
                pass

    def enter(self):
        """In a child, before it becomes the program."""
        if self.folder:
            (self.folder / "cgroup.procs").write_text("0")

    def add(self, pid: int):
        """A process that `enter`ed, the leader of its session."""
        self.roots.append(pid)

    def pids(self):
        if self.folder:
            return [int(pid) for pid in (self.folder / "cgroup.procs").read_text().split()]
        return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if session(pid) in self.roots]

    def sample(self):
        """Looks at memory (and at CPU time, where there is no control group)."""
        anon = rss = 0
        for pid in self.pids():
            try:
                status = Path(f"/proc/{pid}/status").read_text()
            except OSError:
                continue
            anon += field(status, "RssAnon:")
            rss += field(status, "VmHWM:")
            if not self.folder:
                self.seen[pid] = ticks(pid)
        self.anon, self.rss = max(self.anon, anon), max(self.rss, rss)

    def cpu_seconds(self) -> float:
        return sum(self.cpu_parts())

    def cpu_parts(self) -> tuple:
        """CPU seconds of the programs themselves, and of the kernel for them."""
        if self.folder:
            told = dict(line.split() for line in (self.folder / "cpu.stat").read_text().splitlines())
            return int(told["user_usec"]) / 1e6, int(told["system_usec"]) / 1e6
        self.sample()
        return tuple(sum(part) / TICK for part in zip(*self.seen.values())) or (0.0, 0.0)

    def close(self):
        if self.folder:
            self.folder.rmdir()


def field(status: str, name: str) -> int:
    at = status.find(name)
    return int(status[at + len(name):status.index("kB", at)]) * 1024 if at >= 0 else 0


def stat(pid: int):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def session(pid: int):
    words = stat(pid)
    return int(words[3]) if words else None


def ticks(pid: int) -> tuple:
    words = stat(pid)
    return (int(words[11]), int(words[12])) if words else (0, 0)


class Machine:
    """Both what the whole machine was busy with, and how much of that was none of ours."""

    def __init__(self):
        self.began, self.busy, self.steal, self.own = time.monotonic(), *machine_cpu(), time.process_time()

    def since(self, groups_cpu: float) -> dict:
        """Since the start: CPU seconds in all, and the share of the machine that neither the clients nor the harness
        used (kernel threads that write back included)."""
        seconds = time.monotonic() - self.began
        busy, steal = machine_cpu()
        whole = seconds * os.cpu_count()
        others = busy - self.busy - groups_cpu - (time.process_time() - self.own)
        return {"machine_cpu": busy - self.busy, "others": max(others, 0) / whole, "steal": (steal - self.steal) / whole}


def machine_cpu():
    words = [int(word) / TICK for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    user, nice, system, _, _, irq, softirq, steal = words
    return user + nice + system + irq + softirq, steal


class WarmMemory:
    """Page cache that was filled a moment ago and is then given back, so that the next to fill it finds the same pages.

    A virtual machine's host takes free pages away (free page reporting); the first touch of such a page costs a fault in
    the host, and page cache then fills ten times more slowly, by chance, in one run and not in the other. So a run first
    writes as much as it will need, again until that gets no faster, and removes it right before the downloader starts.
    `seconds` is what the last time took: the machine's own speed for the same bytes, without network or hash."""

    def __init__(self, folder: Path, size: int):
        self.path = folder / "warm"
        bytes_each = os.urandom(1 << 20)
        before, self.seconds = None, 0
        while before is None or self.seconds < 0.8 * before:
            before = self.seconds or float("inf")
            self.path.unlink(missing_ok=True)
            began = time.monotonic()
            with open(self.path, "wb", buffering=0) as file:
                for _ in range(size >> 20):
                    file.write(bytes_each)
            self.seconds = time.monotonic() - began

    def release(self):
        self.path.unlink()
