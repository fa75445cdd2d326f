"""Asks the members of a tracker of ours, many times a second, and notes when each answer came: what stops is seen.

Times are of `time.monotonic`. A question that a killed member does not answer is noted like any other; who reads the notes
knows who lived."""

import http.client
import json
import socket
import struct
import subprocess
import threading
import time
import urllib.parse
from dataclasses import dataclass

from harness.clients import OBT
from harness.one_tracker import ANNOUNCE, announce, connect

PORT = 6969
# What a client of ours waits for a member before it asks the next.
PATIENCE = 1.5
# How long an obt process may take: longer than any patience of its own.
PROCESS_SECONDS = 60


@dataclass
class Asked:
    """One question, and how it went; `member` is the address of who was asked, or was typed."""

    kind: str
    member: str
    began: float
    ended: float
    ok: bool
    told: str = ""


class Loop:
    """Does one thing again and again, in a thread: `act()` says what it asked. It begins every `seconds`, or as soon as the
    last one has ended."""

    def __init__(self, seconds: float, act):
        self.notes, self.stopped = [], threading.Event()
        self.thread = threading.Thread(target=self.run, args=(seconds, act), daemon=True)
        self.thread.start()

    def run(self, seconds, act):
        while not self.stopped.is_set():
            began = time.monotonic()
            self.notes.append(act())
            self.stopped.wait(max(0, began + seconds - time.monotonic()))

    def stop(self) -> list:
        self.stopped.set()
        self.thread.join()
        return self.notes


def noted(kind: str, member: str, ask) -> Asked:
    """Asks, by `ask()`, which fails where there is no good answer."""
    began = time.monotonic()
    try:
        told = ask()
        return Asked(kind, member, began, time.monotonic(), True, told or "")
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Asked(kind, member, began, time.monotonic(), False, f"{type(error).__name__}: {error}")


def get(member: str, path: str) -> bytes:
    """What the member answers well over HTTP, on a connection of its own."""
    connection = http.client.HTTPConnection(member, PORT, timeout=PATIENCE)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise OSError(f"status {answer.status}: {body[:200]!r}")
        return body
    finally:
        connection.close()


def get_json(member: str, path: str):
    return json.loads(get(member, path))


def announce_over_http(member: str, info_hash: bytes, port: int) -> bytes:
    """The peers of the swarm, as 6 bytes each."""
    body = get(member, f"/announce?info_hash={urllib.parse.quote(info_hash)}&peer_id={peer_id(port).decode()}&port={port}"
                       "&uploaded=0&downloaded=0&left=1&compact=1&numwant=200")
    start = body.index(b"5:peers") + 7
    colon = body.index(b":", start)
    return body[colon + 1:colon + 1 + int(body[start:colon])]


def announce_over_udp(member: str, info_hash: bytes, port: int) -> bytes:
    """The same by BEP 15, connection id and all; sent once, as nothing is lost here."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(PATIENCE)
        asking.connect((member, PORT))
        asking.send(announce(connect(asking), port, info_hash, peer_id(port), port, 200))
        answer = asking.recv(4096)
        if struct.unpack_from(">II", answer) != (ANNOUNCE, port):
            raise OSError(f"no answer to an announce: {answer[:64]!r}")
        return answer[20:]


def peer_id(port: int) -> bytes:
    return f"-PR0001-{port:012}".encode()


def addresses(compact: bytes) -> set:
    """Of peers in 6 bytes each."""
    parts = [compact[at:at + 6] for at in range(0, len(compact), 6)]
    return {(socket.inet_ntoa(part[:4]), struct.unpack(">H", part[4:])[0]) for part in parts}


def obt(namespace, work, kind: str, member: str, words) -> Asked:
    """One run of a command of ours."""
    command = namespace.within([OBT, "--json", "--state", work / "state", *words])
    began = time.monotonic()
    try:
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=PROCESS_SECONDS,
                              cwd=work)
    except subprocess.TimeoutExpired:
        return Asked(kind, member, began, time.monotonic(), False, "it does not end")
    said = done.stderr.strip() or done.stdout.strip()
    return Asked(kind, member, began, time.monotonic(), done.returncode == 0, "" if done.returncode == 0 else said)
