"""Programs from the npm registry that tests compare with: pinned by version and hash, installed once for all workers."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

#: A slow answer of the registry on a busy machine is not a reason to give up.
INSTALL_S_MAX = 300


class Unavailable(Exception):
    """The package cannot be installed on this machine; the text gives the reason."""


def missing_program() -> str | None:
    """Returns the name of a missing program that a package needs."""
    return next((program for program in ("node", "npm") if shutil.which(program) is None), None)


def installed(files: Sequence[Path], cache: Path) -> Path:
    """Returns the folder in `cache` that contains the files, including a `package-lock.json`, and the packages that it lists.

    Raises Unavailable.
    """
    digest = hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()
    folder = cache / digest[:16]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            for file in files:
                shutil.copy(file, folder / file.name)
            _install(folder)
            (folder / "complete").touch()
    return folder


def _install(folder: Path) -> None:
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=3"]
    try:
        done = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=INSTALL_S_MAX
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"npm ci took longer than {INSTALL_S_MAX} s") from None
    if done.returncode:
        raise Unavailable(f"npm ci failed: {done.stderr.strip()[-500:]}")
