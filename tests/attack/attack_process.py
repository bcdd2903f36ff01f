"""Runs an attack in a process, so that it can be killed at any time.

A module of attacks has a function for each in `ATTACKS`, and is run as `python -m MODULE NAME JSON`, where `JSON` is its `Aim`.
"""

from __future__ import annotations

import contextlib
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import msgspec

ROOT = Path(__file__).resolve().parents[2]


@contextlib.contextmanager
def attack(
    module: str, name: str, aim: msgspec.Struct, *, wrapper: tuple[str, ...] = (), log: IO[bytes] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs an attack inside the block, and kills it at its end. `wrapper` goes in front of the command (`ip netns exec`).

    On a network the attackers have processors of their own, so here they get the time that others leave: from their first
    instruction, because already the start of a dozen interpreters takes seconds of processor time. The lowest nice value is
    not enough for that: with it, other processes have to wait for the end of its time slice.
    """
    own = ("chrt", "--idle", "0")
    process = subprocess.Popen(
        [*wrapper, *own, sys.executable, "-m", module, name, msgspec.json.encode(aim).decode()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=log or subprocess.DEVNULL,
        cwd=ROOT,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def prepare() -> None:
    """Raises the limit of descriptors to what the machine allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
