"""Every client as leecher from obt, as seeder to obt, and on obt's tracker over HTTP and UDP."""

import pytest

import obt
from clients import CLIENTS
from conftest import FOREIGN_ADDRESS, TRACKER_ADDRESS, need
from payloads import PAYLOADS, contents, long
from processes import wait_until
from shares import arrived, fetch_torrent, share

# The slowest is Transmission, which asks for nothing in its first ten seconds, and rTorrent's timers.
PATIENCE = 90


def cells(role):
    """Every client with every protocol and payload; what a client cannot do with anybody is skipped aloud."""
    found = []
    for name, client in CLIENTS.items():
        for protocol in client.protocols:
            for payload in PAYLOADS:
                reason = client.cannot(role, protocol, payload)
                marks = [pytest.mark.skip(reason=f"{name} {reason}")] if reason else []
                found.append(pytest.param(client, protocol, payload, id=f"{name}-{protocol}-{payload}", marks=marks))
    return found


@pytest.mark.parametrize("client,protocol,payload", cells("leech"))
def test_it_leeches_from_obt(client, protocol, payload, tmp_path, started, port):
    need(client)
    source = PAYLOADS[payload](tmp_path)
    tracker_port, name = share(tmp_path, started, source, protocol)
    torrent = fetch_torrent(tmp_path, tracker_port, name)
    folder = tmp_path / "leeched"
    leecher = client(torrent, folder, tmp_path / "client", FOREIGN_ADDRESS, port())
    started.append(leecher)
    expected = contents(source)
    wait_until(lambda: arrived(folder, expected), PATIENCE, f"{client.name} fetches; logs in {tmp_path}")


@pytest.mark.parametrize("client,protocol,payload", cells("seed"))
def test_it_seeds_to_obt(client, protocol, payload, tmp_path, started, port):
    seeds_to_obt(client, protocol, PAYLOADS[payload], [], tmp_path, started, port)


@pytest.mark.parametrize("name", list(CLIENTS))
def test_it_seeds_pieces_to_obt_that_are_stored_while_they_come(name, tmp_path, started, port):
    seeds_to_obt(CLIENTS[name], "v1", long, ["--piece-length", "4MiB"], tmp_path, started, port)


def seeds_to_obt(client, protocol, payload, flags, tmp_path, started, port):
    need(client)
    origin = tmp_path / "origin"
    origin.mkdir()
    source = payload(origin)
    state = tmp_path / "state"
    tracker = obt.Daemon("tracker", "--tracker-listen", f"{TRACKER_ADDRESS}:0", state=tmp_path / "tracker-state",
                         log=tmp_path / "tracker.log")
    started.append(tracker)
    tracker_port = tracker.event("listening")["tracker_port"]
    torrent = tmp_path / "made.torrent"
    obt.run("create", "--protocol", protocol, *flags, "-o", torrent, source, state=state)
    obt.run("publish", torrent, "--tracker", f"{TRACKER_ADDRESS}:{tracker_port}",
            "--key-file", tmp_path / "tracker-state/publish.key", state=state)
    torrent = fetch_torrent(tmp_path, tracker_port, source.name)
    seeder = client(torrent, origin, tmp_path / "client", FOREIGN_ADDRESS, port())
    started.append(seeder)

    def held():
        _, found = obt.run("find", TRACKER_ADDRESS, tracker_port, source.name, state=state)
        return any(item["holders"] > 0 for item in (found[0] if found else []))
    wait_until(held, PATIENCE, f"{client.name} announces as a seed; logs in {tmp_path}")
    folder = tmp_path / "got"
    folder.mkdir()
    _, lines = obt.run("get", TRACKER_ADDRESS, tracker_port, "-o", folder, "--", source.name, state=state, seconds=PATIENCE)
    assert contents(folder / source.name) == contents(source)
    assert sum(peer["bytes"] for peer in lines[-1]["from"]) >= lines[-1]["size"]


@pytest.mark.parametrize("scheme", ["http", "udp"])
@pytest.mark.parametrize("name", list(CLIENTS))
def test_it_finds_peers_through_obts_tracker(name, scheme, tmp_path, started, port):
    """A seeder and a leecher of the same foreign client, which know only one announce URL."""
    client = CLIENTS[name]
    need(client)
    origin = tmp_path / "origin"
    origin.mkdir()
    source = PAYLOADS["single"](origin)
    tracker = obt.Daemon("tracker", "--tracker-listen", f"{TRACKER_ADDRESS}:0", state=tmp_path / "tracker-state",
                         log=tmp_path / "tracker.log")
    started.append(tracker)
    tracker_port = tracker.event("listening")["tracker_port"]
    torrent = tmp_path / "made.torrent"
    obt.run("create", "--protocol", "v1", "--announce", f"{scheme}://{TRACKER_ADDRESS}:{tracker_port}/announce",
            "-o", torrent, source, state=tmp_path / "state")
    started.append(client(torrent, origin, tmp_path / "seeder", FOREIGN_ADDRESS, port()))
    folder = tmp_path / "leeched"
    started.append(client(torrent, folder, tmp_path / "leecher", "10.99.0.3", port()))
    expected = contents(source)
    wait_until(lambda: arrived(folder, expected), PATIENCE, f"{name} fetches over {scheme}; logs in {tmp_path}")
