"""Runs an attack in a process, so that it can be killed at any time.

A module of attacks has a function for each in `ATTACKS`, and is run as `python -m MODULE NAME JSON`, where `JSON` is its `Aim`.
"""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import msgspec

ROOT = Path(__file__).resolve().parents[2]


def processors() -> tuple[set[int], set[int]]:
    """The processors of the attacked system, and that of the attackers: the last one, or the only one for both."""
    usable = sorted(os.sched_getaffinity(0))
    return set(usable[:-1]) or set(usable), {usable[-1]}


#: Found once, because a test may limit its own processors.
SYSTEM_PROCESSORS, ATTACKERS_PROCESSORS = processors()


@contextlib.contextmanager
def attack(
    module: str, name: str, aim: msgspec.Struct, *, wrapper: tuple[str, ...] = (), log: IO[bytes] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs an attack inside the block, and kills it at its end. `wrapper` goes in front of the command (`ip netns exec`).

    On a network the attackers have processors of their own, so here they have one of them: from their first instruction,
    because already the start of a dozen interpreters takes seconds of processor time.
    """
    own = ("taskset", "--cpu-list", ",".join(map(str, ATTACKERS_PROCESSORS)))
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
    """Raises the limit of descriptors to what the machine allows, and lowers the priority of this process.

    Other tests may use the attackers' processor, too, so the attackers get what those leave. If the kernel schedules by session
    (autogroup), a nice value counts only among the processes of one session. So the attacker gets a session of its own, with
    the lowest share.
    """
    os.nice(19)
    os.setsid()
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text("19")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
