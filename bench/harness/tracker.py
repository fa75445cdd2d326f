"""The tracker that all clients of a run share: BEP 3 and 23 over HTTP, everybody is told everybody else.

It is neither ours nor anybody's, so no client is at home on it, and it notes when each one came: a run begins only when
every seeder has said that it has all. One announce is answered by one segment, so no delayed acknowledgement of the
tracker's making is in anyone's time.
"""

import socket
import socketserver
import struct
import threading
import time
import urllib.parse

INTERVAL = 1800


class Tracker:
    """Knows who is where by the port that is announced: `seats` maps a port to the address its client listens on. A
    client that connects out from another of the namespace's addresses is still handed out under its own."""

    def __init__(self, address: str, port: int, seats: dict):
        self.seats = seats
        self.lock = threading.Lock()
        self.swarms = {}
        self.first_announce = {}
        self.complete = set()
        owner = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                self.request.settimeout(10)
                self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                head = b""
                while b"\r\n\r\n" not in head and len(head) < 65536:
                    more = self.request.recv(65536)
                    if not more:
                        return
                    head += more
                self.request.sendall(owner.answer(head.split(b" ", 2)[1].decode("latin-1"), self.client_address[0]))

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True
            request_queue_size = 128

        self.server = Server((address, port), Handler)
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 60}, daemon=True).start()

    def answer(self, target: str, source: str) -> bytes:
        path, _, query = target.partition("?")
        if path != "/announce":
            return response(b"404 Not Found", b"")
        told = dict(pair.partition("=")[::2] for pair in query.split("&"))
        info_hash = urllib.parse.unquote_to_bytes(told.get("info_hash", ""))
        port = int(told.get("port", "0"))
        address = self.seats.get(port, source)
        with self.lock:
            self.first_announce.setdefault(port, time.monotonic())
            swarm = self.swarms.setdefault(info_hash, {})
            if told.get("event") == "stopped":
                swarm.pop(port, None)
            else:
                swarm[port] = address
            if told.get("left") == "0":
                self.complete.add(port)
            others = [(host, other) for other, host in swarm.items() if other != port]
        peers = b"".join(socket.inet_aton(host) + struct.pack(">H", other) for host, other in others)
        body = b"d8:completei%de10:incompletei0e8:intervali%de5:peers%d:%se" % (
            len(self.complete), INTERVAL, len(peers), peers)
        return response(b"200 OK", body)

    def has_all(self, port: int) -> bool:
        """Whether the client at this port has announced that nothing is left for it to fetch."""
        with self.lock:
            return port in self.complete


def response(status: bytes, body: bytes) -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Type: text/plain\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (
        status, len(body), body)
