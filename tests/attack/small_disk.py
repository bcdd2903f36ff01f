"""A file system that is small enough to be filled."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

_PAGE_BYTES = 4096


@contextlib.contextmanager
def small_disk(folder: Path, kind: str, mib: int) -> Iterator[Path]:
    """A file system of this size; root's business."""
    place = folder / "disk"
    place.mkdir()
    if kind == "tmpfs":
        command = ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "waterflow-attack", str(place)]
    else:
        image = folder / "disk.img"
        with image.open("wb") as file:
            file.truncate(mib << 20)
        made = subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], capture_output=True, text=True, check=False)
        if made.returncode:
            pytest.skip(f"no ext4 can be made here: {made.stderr}")
        command = ["mount", "-o", "loop", str(image), str(place)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"nothing can be mounted here: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=False, capture_output=True)


def fill(place: Path) -> Path:
    """Takes all the space that is left."""
    filler = place / "filler"
    with filler.open("ab", buffering=0) as file:
        for size in (1 << 20, _PAGE_BYTES, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"x" * size)
    return filler
