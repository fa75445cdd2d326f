"""What every interop test stands on: addresses of this namespace, ports of its own, processes that end with it."""

import itertools
import os

import pytest

from clients import CLIENTS
from obt import BINARY

# Transmission does not talk to 127/8; `scripts/interop` puts these on the loopback of a namespace of its own.
TRACKER_ADDRESS = "10.99.0.1"
FOREIGN_ADDRESS = "10.99.0.2"
# Each worker of pytest-xdist has a stretch of its own; what a client needs besides lies 1,000 above.
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
PORTS = itertools.count(20_000 + 3_000 * WORKER, 2)


def pytest_report_header():
    missing = [name for name, client in CLIENTS.items() if not client.installed()]
    return [f"obt: {BINARY}", f"missing clients: {', '.join(missing) or 'none'}"]


@pytest.fixture
def started():
    """Everything appended is stopped at the end, last first."""
    processes = []
    yield processes
    for process in reversed(processes):
        process.stop()


@pytest.fixture
def port():
    return lambda: next(PORTS)


def need(client):
    """Skips aloud where a client is missing; in CI that is a failure."""
    if client.installed():
        return
    if os.environ.get("CI"):
        pytest.fail(f"{client.name} is not installed")
    pytest.skip(f"{client.name} is not installed")
