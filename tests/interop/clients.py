"""Other people's clients, behind one face: start one with a torrent and a folder; it fetches what is missing and
seeds what is there."""

import json
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

from processes import Process, wait_until

HERE = Path(__file__).parent


class Client:
    name = ""
    program = ""
    protocols = ("v1", "hybrid")

    @classmethod
    def cannot(cls, role, protocol, payload):
        """Why this client cannot play `role` ("leech" or "seed") with any partner, or None."""

    def __init__(self, torrent: Path, folder: Path, work: Path, address: str, port: int):
        self.torrent, self.folder, self.work, self.address, self.port = torrent, folder, work, address, port
        folder.mkdir(exist_ok=True)
        work.mkdir(exist_ok=True)
        self.processes = []
        self.start()

    @classmethod
    def installed(cls):
        return shutil.which(cls.program) is not None

    @property
    def log(self):
        return self.work / f"{self.name}.log"

    def spawn(self, *arguments, **more):
        process = Process(arguments, self.log, cwd=self.work, **more)
        self.processes.append(process)
        return process

    def stop(self):
        for process in reversed(self.processes):
            process.stop()


class Aria2(Client):
    name, program = "aria2", "aria2c"

    @classmethod
    def cannot(cls, role, protocol, payload):
        # It drops the empty key of the file tree and hashes what is left: hybrids come to it from web seeds alone.
        return "computes a wrong info-hash for hybrids" if protocol == "hybrid" else None

    def start(self):
        self.spawn(
            "aria2c", "--no-conf", f"--dir={self.folder}", f"--listen-port={self.port}", f"--interface={self.address}",
            # Without the DHT, which finds nobody here, it does not speak to UDP trackers.
            "--enable-dht=true", f"--dht-listen-port={self.port}", f"--dht-file-path={self.work}/dht.dat",
            "--enable-dht6=false", "--bt-enable-lpd=false", "--enable-peer-exchange=false",
            "--seed-ratio=0.0", "--check-integrity=true", "--allow-overwrite=true", "--file-allocation=none",
            "--console-log-level=info", "--bt-tracker-interval=2", "--disable-ipv6=true", self.torrent)


def transmission_protocols():
    """Transmission before 4.0 cannot read a dictionary with an empty key, so no hybrid, whoever made it."""
    if not shutil.which("transmission-daemon"):
        return ("v1", "hybrid")
    told = subprocess.run(["transmission-daemon", "--version"], capture_output=True, text=True)
    version = (told.stdout + told.stderr).split()[1:2] or ["0"]
    return ("v1", "hybrid") if int(version[0].split(".")[0]) >= 4 else ("v1",)


class Transmission(Client):
    name, program = "transmission", "transmission-daemon"
    protocols = transmission_protocols()

    def start(self):
        (self.work / "settings.json").write_text(json.dumps({
            "bind-address-ipv4": self.address, "peer-port": self.port, "peer-port-random-on-start": False,
            "rpc-port": self.port + 1000, "rpc-bind-address": self.address, "rpc-whitelist-enabled": False,
            "download-dir": str(self.folder), "incomplete-dir-enabled": False, "rename-partial-files": False,
            "dht-enabled": False, "lpd-enabled": False, "pex-enabled": False, "utp-enabled": False,
            "port-forwarding-enabled": False, "encryption": 0, "message-level": 3,
        }))
        self.spawn("transmission-daemon", "-f", "-g", self.work)
        rpc = f"{self.address}:{self.port + 1000}"

        def added():
            done = subprocess.run(["transmission-remote", rpc, "-a", str(self.torrent), "-w", str(self.folder)],
                                  capture_output=True)
            return b"success" in done.stdout
        wait_until(added, 20, "transmission takes the torrent")


class QBittorrent(Client):
    name, program = "qbittorrent", "qbittorrent-nox"
    protocols = ("v1", "v2", "hybrid")

    @classmethod
    def cannot(cls, role, protocol, payload):
        # libtorrent 2.0 of Debian 12 asks for 16 KiB of a last piece that is shorter, where there are no pads.
        short_end = payload != "one_piece"
        return "asks past the end of v2-only files" if (role, protocol) == ("leech", "v2") and short_end else None

    def start(self):
        config = self.work / "qBittorrent/config"
        config.mkdir(parents=True)
        (config / "qBittorrent.conf").write_text(f"""[LegalNotice]
Accepted=true
[BitTorrent]
Session\\Port={self.port}
Session\\Interface=
Session\\InterfaceAddress={self.address}
Session\\DHTEnabled=false
Session\\LSDEnabled=false
Session\\PeXEnabled=false
Session\\BTProtocol=TCP
Session\\MultiConnectionsPerIp=true
Session\\SSRFMitigation=false
Session\\DefaultSavePath={self.folder}
Session\\QueueingSystemEnabled=false
[Preferences]
Connection\\UPnP=false
General\\UseRandomPort=false
WebUI\\Address={self.address}
WebUI\\Port={self.port + 1000}
WebUI\\AuthSubnetWhitelistEnabled=true
WebUI\\AuthSubnetWhitelist=10.0.0.0/8
WebUI\\CSRFProtection=false
WebUI\\HostHeaderValidation=false
""")
        self.spawn("qbittorrent-nox", f"--profile={self.work}")
        base = f"http://{self.address}:{self.port + 1000}/api/v2"

        def added():
            boundary = "obt-interop"
            parts = []
            for key, value in {"savepath": str(self.folder), "contentLayout": "Original", "paused": "false"}.items():
                parts.append(f'--{boundary}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode())
            parts.append((f'--{boundary}\r\nContent-Disposition: form-data; name="torrents"; filename="t.torrent"\r\n'
                          "Content-Type: application/x-bittorrent\r\n\r\n").encode() + self.torrent.read_bytes() + b"\r\n")
            body = b"".join(parts) + f"--{boundary}--\r\n".encode()
            request = urllib.request.Request(f"{base}/torrents/add", body, {
                "Content-Type": f"multipart/form-data; boundary={boundary}"})
            try:
                return urllib.request.urlopen(request, timeout=5).read() == b"Ok."
            except OSError:
                return False
        wait_until(added, 30, "qbittorrent takes the torrent")


class RTorrent(Client):
    name, program = "rtorrent", "rtorrent"

    @classmethod
    def cannot(cls, role, protocol, payload):
        return "does not know padding files" if (protocol, payload) == ("hybrid", "tree") else None

    def start(self):
        session = self.work / "session"
        session.mkdir()
        (self.work / "rtorrent.rc").write_text("\n".join([
            "system.daemon.set = true", f"directory.default.set = {self.folder}", f"session.path.set = {session}",
            f"network.port_range.set = {self.port}-{self.port}", f"network.bind_address.set = {self.address}",
            "dht.mode.set = disable", "protocol.pex.set = no", "protocol.encryption.set = allow_incoming",
            "trackers.use_udp.set = yes", "pieces.hash.on_completion.set = no",
            f'schedule2 = add, 1, 0, "load.start=\\"{self.torrent}\\""', f"log.open_file = log, {self.work}/rt.log",
            "log.add_output = info, log", "log.add_output = tracker_debug, log", ""]))
        self.spawn("rtorrent", "-n", "-o", f"import={self.work}/rtorrent.rc")


class Libtorrent(Client):
    name, program = "libtorrent", sys.executable
    protocols = ("v1", "v2", "hybrid")

    @classmethod
    def installed(cls):
        return subprocess.run([sys.executable, "-c", "import libtorrent"], capture_output=True).returncode == 0

    def start(self):
        self.spawn(sys.executable, HERE / "lt_node.py", self.torrent, self.folder, "--listen",
                   f"{self.address}:{self.port}")


CLIENTS = {client.name: client for client in (Aria2, Transmission, QBittorrent, RTorrent, Libtorrent)}
