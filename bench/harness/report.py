"""Tables in Markdown: medians with the smallest and the largest, failures shown, the machine and its noise beside them."""

import json
import os
import statistics
from pathlib import Path

GIB = 1 << 30
MIB = 1 << 20


def load(path: Path) -> list:
    return [json.loads(line) for line in path.read_text().splitlines()]


def print_report(records, columns, goals=()):
    """A table a case, and under it what the goals are about: obt against the best other."""
    print(machine(records))
    if any(record["disturbed"] for record in records):
        print('\n"+1" beside the runs that were ok: one more in which others used too much CPU time; in no median.')
    for case in unique(record["case"] for record in records):
        of_case = [record for record in records if record["case"] == case]
        print(f"\n**{case}**\n")
        print(table(of_case, columns))
        for line in [*(line for goal in goals for line in ratios(of_case, *goal)), *failures(of_case)]:
            print(f"\n{line}")
    print()
    for subject in unique(record["subject"] for record in records):
        settings = next(record.get("settings") for record in records if record["subject"] == subject)
        if settings:
            print(f"- {subject}: {settings}")


def table(records, columns) -> str:
    lines = ["| client | ok | " + " | ".join(title for title, _ in columns) + " |",
             "|---|---|" + "---|" * len(columns)]
    for subject in unique(record["subject"] for record in records):
        runs = [record for record in records if record["subject"] == subject]
        quiet = [record for record in runs if not record["disturbed"]]
        good = [record for record in quiet if "failed" not in record]
        cells = [spread([value(record) for record in good]) for _, value in columns]
        ok = f"{len(good)}/{len(quiet)}" + (f" +{len(runs) - len(quiet)}" if len(quiet) < len(runs) else "")
        lines.append(f"| {subject} {runs[0].get('version', '')} | {ok} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def spread(values) -> str:
    values = [value for value in values if value is not None]
    if not values:
        return "–"
    low, middle, high = (number(value) for value in (min(values), statistics.median(values), max(values)))
    return middle if len(values) == 1 else f"{middle} ({low}–{high})"


def number(value: float) -> str:
    if value == 0 or 0.995 <= abs(value) < 99.5:
        return f"{value:.2f}"
    return f"{value:.0f}" if abs(value) >= 99.5 else f"{value:.3f}"


def ratios(records, title: str, value, bounds=()):
    """The medians of obt to that of the best other client, and to the bounds, which are no clients."""
    medians = {}
    for subject in unique(record["subject"] for record in records):
        values = [value(record) for record in records
                  if record["subject"] == subject and "failed" not in record and not record["disturbed"]]
        if values:
            medians[subject] = statistics.median(values)
    others = [subject for subject in medians if not subject.startswith("obt") and subject not in bounds]
    beside = [(f"the best other ({best})", best) for best in sorted(others, key=medians.get)[:1]]
    beside += [(f"the {bound}", bound) for bound in bounds if bound in medians]
    return [f"{title}: {subject} to {told}: **{medians[subject] / medians[other]:.2f}**"
            for subject in medians if subject.startswith("obt") for told, other in beside]


def failures(records):
    return [f"failed: {record['subject']}: {record['failed']}" for record in records if "failed" in record]


def unique(values) -> list:
    return list(dict.fromkeys(values))


def per_gib(name: str):
    return lambda record: record[name] / record["size"] * GIB


def mebibytes(name: str):
    return lambda record: record[name] / MIB


def plain(name: str):
    return lambda record: record.get(name)


def milliseconds(name: str):
    return lambda record: None if record.get(name) is None else record[name] * 1000


def percent(name: str):
    return lambda record: record[name] * 100


def machine(records) -> str:
    cpu = next((line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")), os.uname().machine)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    loads = [record["load"] for record in records]
    warm = [record["warm_seconds_per_gib"] for record in records if "warm_seconds_per_gib" in record]
    cache = f"; filling page cache alone takes {spread(warm)} s a GiB" if warm else ""
    return (f"{cpu}, {os.cpu_count()} CPUs, {memory:.0f} GiB, Linux {os.uname().release}, "
            f"TCP {', '.join(unique(record['congestion'] for record in records))}; "
            f"load average at the start of the runs {min(loads):.1f} to {max(loads):.1f}{cache}")


def all_cpu(record):
    return (record["download_cpu"] + record["seed_cpu"]) / record["size"] * GIB


# What most tables show of a download.
DOWNLOAD_COLUMNS = [
    ("wall s", plain("wall")),
    ("last byte verified s", plain("verified")),
    ("compared equal s", plain("equal")),
    ("CPU-s/GiB", per_gib("download_cpu")),
    ("seeders' CPU-s/GiB", per_gib("seed_cpu")),
    ("peak anon MiB", mebibytes("download_anon")),
    ("peak RSS MiB", mebibytes("download_rss")),
    ("others' CPU %", percent("others")),
]
