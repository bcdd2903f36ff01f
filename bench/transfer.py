"""`file/transfer`: 1 GB from a file to S3, beside what the library needs by itself, as processes; and the node's memory."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from bench.figures import Row
from waterflow_agent.nodes.host import Request

BYTES = 1_000_000_000
ROUNDS = 5
MEMORY_MB_MAX = 100

#: The same parts, as many at a time, straight from the file.
_LIBRARY = """
import pathlib, sys, obstore
from obstore.store import S3Store
store = S3Store("b", endpoint=sys.argv[1], region="us-east-1", access_key_id="a", secret_access_key="b",
                client_options={"allow_http": True})
obstore.put(store, "k", pathlib.Path(sys.argv[2]), chunk_size=8 << 20, max_concurrency=4)
"""


def transfer(folder: Path) -> list[Row]:
    """The median of a few rounds in turn, so that what else the machine does falls on both."""
    file = folder / "large"
    with file.open("wb") as opened:
        opened.truncate(BYTES)
    sink = subprocess.Popen([sys.executable, "-m", "bench.s3_sink"], stdout=subprocess.PIPE, text=True)
    assert sink.stdout is not None
    try:
        endpoint = sink.stdout.readline().strip()
        library, node, memory = [], [], []
        for _ in range(ROUNDS):
            library.append(_timed([sys.executable, "-c", _LIBRARY, endpoint, str(file)])[0])
            took, peak_mb = _timed(_node(folder, endpoint, file))
            node.append(took)
            memory.append(peak_mb)
    finally:
        sink.kill()
        sink.wait()
        sink.stdout.close()
    factor = statistics.median(node) / statistics.median(library)
    speeds = [BYTES / 1e6 / statistics.median(times) for times in (node, library)]
    return [
        Row(
            "1 GB from a file to S3, against the library's own time",
            f"{factor:.2f} x",
            "1.3 x",
            factor <= 1.3,
            f"{speeds[0]:.0f} of {speeds[1]:.0f} MB/s, processes and a SHA-256 of all of it included",
        ),
        Row(
            "the node's memory meanwhile", f"{max(memory):.0f} MB", f"{MEMORY_MB_MAX} MB", max(memory) <= MEMORY_MB_MAX
        ),
    ]


def _node(folder: Path, endpoint: str, file: Path) -> list[str]:
    params = {
        "source": str(file),
        "destination": "s3://b/k",
        "endpoint": endpoint,
        "access-key": "a",
        "secret-key": "b",
    }
    request = folder / "request"
    request.write_bytes(msgspec.json.encode(Request(node="file/transfer", params=params, workspace=str(folder))))
    return [sys.executable, "-m", "waterflow_agent.nodes.host", str(request)]


def _timed(argv: list[str]) -> tuple[float, float]:
    """Seconds and the most memory in MB of a process that ends well."""
    began = time.perf_counter()
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    took = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, argv
    return took, usage.ru_maxrss * 1024 / 1e6
