"""Masking: how much twenty secrets reduce the throughput of output, with real processes and in the agent alone."""

from __future__ import annotations

import secrets
import time
from pathlib import Path

from bench.figures import Row
from tests.acceptance.cluster import Cluster
from tests.patience import wait_until
from waterflow_agent.execution.masking import Masks, StreamMasker

SECRETS = 20
#: Small enough that output is sent while the step prints, so both happen at the same time.
MIB = 24
ROUNDS = 5
LINE = (
    b"2026-11-24T13:04:01.123Z INFO [worker-3] GET /api/v1/items?page=12 200 in 12.3 ms from 10.0.0.12 (Mozilla/5.0)\n"
)

WORKFLOW = """jobs:
  a:
    runs-on: web
    steps:
      - run: yes '{line}' | head -c {size}
        env: {{{env}}}
"""


def masking(folder: Path) -> list[Row]:
    """Time from the start of a step until the daemon has all output, with and without secrets: the best of five."""
    values = [secrets.token_urlsafe(24) for _ in range(SECRETS)]
    file = folder / "secrets.toml"
    file.touch(mode=0o600)
    file.write_text("".join(f'S{number} = "{value}"\n' for number, value in enumerate(values)))
    cluster = Cluster(folder)
    with cluster.config.open("a") as config:
        config.write(f'[secrets]\nfile = "{file}"\n')
    times: dict[bool, list[float]] = {False: [], True: []}
    try:
        cluster.start_daemon()
        cluster.add_agent("web-1", "web")
        for _ in range(ROUNDS):
            for is_masked, took in times.items():
                took.append(_print(cluster, SECRETS if is_masked else 0))
    finally:
        cluster.close()
    plain, masked = (MIB / min(took) for took in (times[False], times[True]))
    share = 1 - masked / plain
    scan, match = _scan(values)
    return [
        Row(
            f"masking {SECRETS} secrets: share of the output's throughput",
            f"{share:.0%}",
            "20%",
            share <= 0.2,
            f"{masked:.1f} of {plain:.1f} MiB/s; the scan alone {scan:.0f} MB/s, with a secret in every line {match:.0f} MB/s",
        )
    ]


def _print(cluster: Cluster, count: int) -> float:
    env = ", ".join(f'S{number}: "${{{{ secrets.S{number} }}}}"' for number in range(count))
    began = time.perf_counter()
    cluster.start(WORKFLOW.format(line=LINE.decode().strip(), size=MIB << 20, env=env))
    spools = cluster.agent_dir("web-1") / "runner" / "attempts"
    wait_until(lambda: _sizes(spools) > 1, "the first output", 60)
    wait_until(lambda: _sizes(spools) <= 1, "the last output to be taken", 120)
    return time.perf_counter() - began


def _sizes(spools: Path) -> int:
    """The size of the largest spool on the server in bytes. A spool of one byte is empty."""
    return max((path.stat().st_size for path in spools.glob("*/output")), default=0)


def _scan(values: list[str]) -> tuple[float, float]:
    """Throughput in MB/s for typical lines, and for lines that all contain a secret."""
    masks = Masks(values)
    rates = []
    for line in (LINE, LINE + b"token=" + values[0].encode() + b"\n"):
        text = line * (60_000 // len(line))
        stream, best = StreamMasker(masks), float("inf")
        for _ in range(50):
            began = time.perf_counter()
            stream.feed(text)
            best = min(best, time.perf_counter() - began)
        rates.append(len(text) / best / 1e6)
    return rates[0], rates[1]
