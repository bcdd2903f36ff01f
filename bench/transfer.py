"""`file/transfer`: the time to send 1 GB from a file to S3, compared with the library alone, and the node's memory.

Both run as processes. They send to moto, which stores objects like a real server, and to a sink over TLS, as with
Amazon S3. The sink is so fast that only the sender is measured.
"""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from bench.figures import Row
from tests.attack.arena import memory_bytes
from tests.integration.transfer.transfer_harness import certified
from waterflow_agent.nodes.host import NodeRequest

BYTES = 1_000_000_000
ROUNDS = 5
MEMORY_MB_MAX = 100
BUCKET = "bench"

#: Uploads with the library alone: with the same part size and concurrency as the node.
_LIBRARY = f"""
import pathlib, sys, obstore
from obstore.store import S3Store
endpoint, file, authority = sys.argv[1:]
client = {{"allow_http": True, "timeout": "1h"}}
if authority:
    client["root_certificate"] = pathlib.Path(authority).read_bytes()
store = S3Store("{BUCKET}", endpoint=endpoint, region="us-east-1", access_key_id="a", secret_access_key="b",
                client_options=client)
obstore.put(store, "k", pathlib.Path(file), chunk_size=8 << 20, max_concurrency=4)
"""
_MOTO = f"""
import logging, time
import boto3
from moto.server import ThreadedMotoServer
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
endpoint = "http://{{}}:{{}}".format(*server.get_host_and_port())
client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
client.create_bucket(Bucket="{BUCKET}")
print(endpoint, flush=True)
time.sleep(1e9)
"""


def transfer(folder: Path) -> list[Row]:
    """The median of a few rounds. Library and node take turns, so that other load affects both."""
    file = folder / "large"
    with file.open("wb") as opened:
        opened.truncate(BYTES)
    authority, certificate = certified(folder)
    with _served("-m", "bench.s3_sink", str(certificate)) as endpoint:
        fast = _Compared(folder, endpoint, file, str(authority), ROUNDS)
    with _served("-c", _MOTO) as endpoint:
        # Each round takes ten seconds.
        slow = _Compared(folder, endpoint, file, "", 3)
    memory_mb = max(fast.memory_mb, slow.memory_mb)
    return [
        fast.row("over TLS to a sink"),
        slow.row("to moto"),
        Row("the node's memory meanwhile", f"{memory_mb:.0f} MB", f"{MEMORY_MB_MAX} MB", memory_mb <= MEMORY_MB_MAX),
    ]


@contextlib.contextmanager
def _served(*arguments: str) -> Iterator[str]:
    """Runs a server in a separate process and yields its address."""
    server = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        yield server.stdout.readline().strip()
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


class _Compared:
    """The times of the library and the node, and the node's memory."""

    def __init__(self, folder: Path, endpoint: str, file: Path, authority: str, rounds: int) -> None:
        library, node, memory = [], [], []
        for _ in range(rounds):
            library.append(_timed([sys.executable, "-c", _LIBRARY, endpoint, str(file), authority])[0])
            took, peak_mb = _timed(_node(folder, endpoint, file, authority))
            node.append(took)
            memory.append(peak_mb)
        self.library_s = statistics.median(library)
        self.node_s = statistics.median(node)
        self.memory_mb = max(memory)

    def row(self, whereto: str) -> Row:
        """The node's time as a multiple of the library's."""
        factor = self.node_s / self.library_s
        speeds = [BYTES / 1e6 / took for took in (self.node_s, self.library_s)]
        return Row(
            f"1 GB from a file to S3, {whereto}, against the library's own time",
            f"{factor:.2f} x",
            "1.3 x",
            factor <= 1.3,
            f"{speeds[0]:.0f} of {speeds[1]:.0f} MB/s, processes and a SHA-256 of all of it included",
        )


def _node(folder: Path, endpoint: str, file: Path, authority: str) -> list[str]:
    params = {
        "source": str(file),
        "destination": f"s3://{BUCKET}/k",
        "endpoint": endpoint,
        "access-key": "a",
        "secret-key": "b",
    }
    if authority:
        params["verify"] = authority
    request = folder / "request"
    request.write_bytes(msgspec.json.encode(NodeRequest(node="file/transfer", params=params, workspace=str(folder))))
    return [sys.executable, "-m", "waterflow_agent.nodes.host", str(request)]


def _timed(argv: list[str]) -> tuple[float, float]:
    """Duration in seconds and peak memory in MB of a process that must succeed."""
    began = time.perf_counter()
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    peak = 0
    # Not with `wait4`: its peak includes the memory of this process at the time of the fork.
    while process.poll() is None:
        with contextlib.suppress(OSError, AssertionError):
            peak = max(peak, memory_bytes(process.pid, "VmHWM"))
        time.sleep(0.01)
    took = time.perf_counter() - began
    assert process.returncode == 0, argv
    return took, peak / 1e6
