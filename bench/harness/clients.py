"""How each client is started, as someone who knows it would for a fast local network: no limits on rates or slots, plain
TCP, no discovery but the tracker, caches and queues raised where the client has them. obt runs with its defaults."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
OBT = os.environ.get("OBT_BIN", str(HERE.parents[1] / "target/release/obt"))


@dataclass
class Seat:
    """Where a client sits in a run."""

    payload: Path
    torrent: Path
    protocol: str
    folder: Path
    work: Path
    address: str
    port: int
    hook: Path


class Client:
    """`download` and `seed` return the command; it is ready to be spawned, with all files it needs written.

    `ends` says how a download tells that it is complete: "exit" (the process ends) or "hook" (it runs, or is, something
    that writes a line to `seat.hook`). One that does not `store` leaves nothing to compare."""

    name = program = ""
    protocols = ("v1",)
    ends = "hook"
    stores = True
    settings = ""

    def __init__(self, seat: Seat):
        self.seat = seat

    @classmethod
    def installed(cls) -> bool:
        return shutil.which(cls.program) is not None

    @classmethod
    def version(cls) -> str:
        told = subprocess.run([cls.program, "--version"], capture_output=True, text=True)
        words = (told.stdout or told.stderr).split()
        return next((word.lstrip("v") for word in words if word.lstrip("v")[:1].isdigit()), "?")

    @classmethod
    def tracker(cls, work: Path):
        """The command of a tracker that it needs besides the one that all share, or None; `work` is "tracker"."""

    def holds_all(self, tracker) -> bool:
        """Whether it is known, as a seeder, to hold everything."""
        return tracker.has_all(self.seat.port)

    def download(self) -> list:
        return self.command(seeding=False)

    def seed(self) -> list:
        return self.command(seeding=True)

    def command(self, seeding: bool) -> list:
        raise NotImplementedError

    def hook_script(self) -> Path:
        script = self.seat.work / "finished"
        script.write_text(f"#!/bin/sh\necho finished > {self.seat.hook}\n")
        script.chmod(0o755)
        return script


class Obt(Client):
    name, program = "obt", OBT
    protocols = ("v1", "v2", "hybrid")
    ends = "exit"
    settings = "defaults"

    def command(self, seeding):
        seat = self.seat
        return [OBT, "--json", "--state", seat.work / "state", "--peer-listen", f"{seat.address}:{seat.port}",
                "download", seat.torrent, "-o", seat.folder, *(["--seed"] if seeding else [])]


class ObtByName(Client):
    """`obt share` and `obt get`: the name is looked up at a tracker of ours, which also tells the holders."""

    name, program = "obt get", OBT
    protocols = ("v1", "v2", "hybrid")
    ends = "exit"
    settings = "defaults; the name is looked up at `obt tracker`"
    tracker_address = ("10.99.0.1", 6970)

    @classmethod
    def version(cls):
        return Obt.version()

    @classmethod
    def tracker(cls, work):
        host, port = cls.tracker_address
        return [OBT, "--json", "--state", work / "state", "tracker", "--tracker-listen", f"{host}:{port}"]

    def holds_all(self, tracker):
        return b'"sharing"' in (self.seat.work / "stdout").read_bytes()

    def command(self, seeding):
        seat, (host, port) = self.seat, self.tracker_address
        common = [OBT, "--json", "--state", seat.work / "state", "--peer-listen", f"{seat.address}:{seat.port}"]
        if seeding:
            key = seat.work.parent / "tracker/state/publish.key"
            return [*common, "--advertise", f"{seat.address}:{seat.port}", "share", seat.payload, "--tracker",
                    f"{host}:{port}", "--key-file", key, "--protocol", seat.protocol]
        return [*common, "get", host, port, seat.payload.name, "-o", seat.folder]


class Libtorrent(Client):
    name, program = "libtorrent", sys.executable
    protocols = ("v1", "v2", "hybrid")
    settings = ("`high_performance_seed()`, unlimited unchoke slots, request queues 2000 out and 4000 in, send watermark "
                "4 MiB, socket buffers 1 MiB, 4 disk and 2 hashing threads, disk queue 64 MiB")

    @classmethod
    def installed(cls):
        return subprocess.run([sys.executable, "-c", "import libtorrent"], capture_output=True).returncode == 0

    @classmethod
    def version(cls):
        import libtorrent

        return libtorrent.__version__

    def command(self, seeding):
        seat = self.seat
        return [sys.executable, HERE / "lt_node.py", seat.torrent, seat.folder, "--listen",
                f"{seat.address}:{seat.port}", *([] if seeding else ["--hook", seat.hook])]


class Aria2(Client):
    name, program = "aria2", "aria2c"
    settings = "disk cache 64 MiB, no preallocation, unlimited peers, no request-speed threshold"

    def command(self, seeding):
        seat = self.seat
        return ["aria2c", "--no-conf", f"--dir={seat.folder}", f"--listen-port={seat.port}",
                f"--interface={seat.address}", "--disable-ipv6=true", "--enable-dht=false", "--enable-dht6=false",
                "--bt-enable-lpd=false", "--enable-peer-exchange=false", "--bt-max-peers=0",
                "--bt-request-peer-speed-limit=0", "--disk-cache=64M", "--file-allocation=none", "--seed-ratio=0.0",
                "--allow-overwrite=true", "--console-log-level=warn", "--summary-interval=0",
                *(["--check-integrity=true"] if seeding else [f"--on-bt-download-complete={self.hook_script()}"]),
                seat.torrent]


class Rqbit(Client):
    name, program = "rqbit", "rqbit"
    ends = "exit"
    settings = "defaults (it has nothing to tune), DHT, LSD and UPnP off"

    def command(self, seeding):
        seat = self.seat
        return ["rqbit", "-v", "warn", "--disable-dht", "--disable-lsd", "--disable-upnp-port-forward", "--ipv4-only",
                "--listen-ip", seat.address, "--listen-port", seat.port, "download", "--disable-http-api",
                "-o", seat.folder, *(["--overwrite"] if seeding else ["-e"]), seat.torrent]


class Transmission(Client):
    name, program = "transmission", "transmission-daemon"
    settings = "cache 64 MiB, 64 upload slots, fast preallocation, no uTP"

    def command(self, seeding):
        seat = self.seat
        watched = seat.work / "watched"
        watched.mkdir()
        shutil.copy(seat.torrent, watched / "payload.torrent")
        (seat.work / "settings.json").write_text(json.dumps({
            "bind-address-ipv4": seat.address, "peer-port": seat.port, "peer-port-random-on-start": False,
            "rpc-enabled": False, "watch-dir": str(watched), "watch-dir-enabled": True,
            "download-dir": str(seat.folder), "incomplete-dir-enabled": False, "rename-partial-files": False,
            "dht-enabled": False, "lpd-enabled": False, "pex-enabled": False, "utp-enabled": False,
            "port-forwarding-enabled": False, "encryption": 0, "message-level": 2, "preallocation": 1,
            "cache-size-mb": 64, "upload-slots-per-torrent": 64, "ratio-limit-enabled": False,
            "speed-limit-down-enabled": False, "speed-limit-up-enabled": False,
            "script-torrent-done-enabled": not seeding, "script-torrent-done-filename": str(self.hook_script()),
        }))
        return ["transmission-daemon", "-f", "-g", seat.work]


class QBittorrent(Client):
    name, program = "qbittorrent", "qbittorrent-nox"
    protocols = ("v1", "v2", "hybrid")
    settings = ("unlimited slots and connections, 4 disk and 2 hashing threads, disk queue 64 MiB, send watermark 4 MiB, "
                "socket buffers 1 MiB, request queue 2000")

    def command(self, seeding):
        seat = self.seat
        config = seat.work / "qBittorrent/config"
        config.mkdir(parents=True)
        (config / "qBittorrent.conf").write_text(f"""[LegalNotice]
Accepted=true
[AutoRun]
enabled={str(not seeding).lower()}
program={self.hook_script()}
[BitTorrent]
Session\\Port={seat.port}
Session\\InterfaceAddress={seat.address}
Session\\DHTEnabled=false
Session\\LSDEnabled=false
Session\\PeXEnabled=false
Session\\BTProtocol=TCP
Session\\Encryption=2
Session\\MultiConnectionsPerIp=true
Session\\SSRFMitigation=false
Session\\QueueingSystemEnabled=false
Session\\MaxConnections=-1
Session\\MaxConnectionsPerTorrent=-1
Session\\MaxUploads=-1
Session\\MaxUploadsPerTorrent=-1
Session\\AsyncIOThreadsCount=4
Session\\HashingThreadsCount=2
Session\\DiskQueueSize={64 << 20}
Session\\SendBufferWatermark=4096
Session\\SendBufferLowWatermark=1024
Session\\SendBufferWatermarkFactor=150
Session\\SocketBacklogSize=128
Session\\RequestQueueSize=2000
Session\\SendBufferSize={1 << 20}
Session\\ReceiveBufferSize={1 << 20}
[Preferences]
Connection\\UPnP=false
WebUI\\Enabled=false
""")
        return ["qbittorrent-nox", f"--profile={seat.work}", f"--save-path={seat.folder}", "--skip-dialog=true",
                "--add-paused=false", seat.torrent]


class Iperf3(Client):
    """No client: as many bytes over one TCP connection, from memory to memory."""

    name = program = "iperf3"
    ends = "exit"
    stores = False
    settings = "one connection, nothing hashed or stored"
    server = ("10.99.0.10", 5_201)

    def holds_all(self, tracker):
        return b"listening" in (self.seat.work / "stdout").read_bytes()

    def command(self, seeding):
        address, port = self.server
        if seeding:
            return ["iperf3", "--server", "--one-off", "--forceflush", "--bind", address, "--port", port]
        return ["iperf3", "--client", address, "--port", port, "--reverse", "--bytes", self.seat.payload.stat().st_size]


class SpeedOfLight(Client):
    """No client: processes that send pieces of a file, and one that receives, hashes and stores them."""

    name, program = "C program", "cc"
    protocols = ("v1", "hybrid")
    ends = "exit"
    settings = "`bench/speed_of_light.c`: sendfile, recv, hash, pwrite; no requests, no protocol, no sync; one receiving thread"
    senders = 3

    @classmethod
    def version(cls):
        return ""

    @classmethod
    def built(cls, work: Path) -> Path:
        return work / "speed_of_light"

    @classmethod
    def build(cls, work: Path):
        work.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cc", "-O3", HERE.parent / "speed_of_light.c", "-o", cls.built(work), "-lcrypto", "-lpthread"],
                       check=True)

    def command(self, seeding):
        seat = self.seat
        hashed = {"v1": "sha1", "hybrid": "both"}[seat.protocol]
        # Runs are made in the folder where it was built.
        return [self.built(seat.work.parents[1]), seat.payload, seat.folder / seat.payload.name, self.senders, 1, hashed,
                "pwrite"]


CLIENTS = {client.name: client for client in (Obt, ObtByName, Libtorrent, Aria2, Rqbit, Transmission, QBittorrent, Iperf3,
                                              SpeedOfLight)}
