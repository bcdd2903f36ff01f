"""What all proofs need: programs of this machine, and files that are made once."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def need(*programs: str) -> None:
    """Skips the test if a program is missing, or fails it if `WATERFLOW_PROOF_WHOLE` is set in the environment."""
    missing = [program for program in programs if shutil.which(program) is None]
    if os.geteuid() != 0:
        missing.append("the rights of root")
    if not missing:
        return
    text = f"missing here: {', '.join(missing)}; `make packages-nightly` installs what is needed"
    if os.environ.get("WATERFLOW_PROOF_WHOLE"):
        pytest.fail(text)
    pytest.skip(text)


def once(
    folder: Path, name: str, command: list[str], checkout: Path = REPOSITORY, umask: int = 0o022, **environment: str
) -> Path:
    """Returns the path that the command creates as its last argument. Only one process runs the command."""
    made = folder / name
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            half = folder / f"half-{name}"
            shutil.rmtree(half, ignore_errors=True)
            subprocess.run([*command, str(half)], cwd=checkout, env=os.environ | environment, umask=umask, check=True)
            half.rename(made)
    return made
