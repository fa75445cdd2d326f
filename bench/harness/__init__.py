"""Measures obt beside other clients: one run at a time, each in namespaces of its own, every byte compared.

`rounds` takes the options and interleaves the runs; `one_run`, `one_command`, `one_tracker`, `one_fanout` and `one_failover`
are a run, a process of its own; `clients` knows how each client is started, `namespaces` makes machines behind links,
`tracker` is where clients find each other, `asking` asks the members of a tracker again and again, `flows` sees how fast
bytes come, `measure` reads the operating system's accounts, `payloads` makes what is sent, `report` prints the tables.
"""

import sys
from pathlib import Path

BENCH = Path(__file__).resolve().parents[1]
# Processes with a log and an end are those of the interop tests.
sys.path.append(str(BENCH.parent / "tests/interop"))
