"""A small file system that can be filled, and whose power can be cut."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.patience import wait_until

_PAGE_BYTES = 4096


@contextlib.contextmanager
def small_disk(folder: Path, kind: str, mib: int) -> Iterator[Path]:
    """Mounts a file system of this size; needs root."""
    directory = folder / "disk"
    directory.mkdir()
    if kind == "tmpfs":
        command = ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "waterflow-attack", str(directory)]
    else:
        image = _image(folder)
        with image.open("wb") as file:
            file.truncate(mib << 20)
        made = subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], capture_output=True, text=True, check=False)
        if made.returncode:
            pytest.skip(f"no ext4 can be made here: {made.stderr}")
        command = _mount(image, directory)
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"nothing can be mounted here: {mounted.stderr.strip()}")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=False, capture_output=True)


def cut_power(folder: Path) -> None:
    """Simulates a power cut of the ext4 file system of `small_disk`: what has not reached the device is lost.

    All writers must have exited: the device is read until it no longer changes.
    """
    directory, left = folder / "disk", folder / "left.img"
    wait_until(lambda: _copied(_image(folder), left) == _copied(_image(folder), left), "the device to be still")
    subprocess.run(["umount", "--lazy", str(directory)], check=True, capture_output=True)
    os.replace(left, _image(folder))
    subprocess.run(_mount(_image(folder), directory), check=True, capture_output=True)


def _image(folder: Path) -> Path:
    return folder / "disk.img"


def _mount(image: Path, directory: Path) -> list[str]:
    return ["mount", "-o", "loop", str(image), str(directory)]


def _copied(image: Path, to: Path) -> bytes:
    """Copies the image, and returns the hash of the copy."""
    shutil.copyfile(image, to)
    return hashlib.blake2b(to.read_bytes()).digest()


def fill(directory: Path) -> Path:
    """Takes all the space that is left; returns the file that takes it."""
    filler = directory / "filler"
    with filler.open("ab", buffering=0) as file:
        for _ in range(2):
            for size in (1 << 20, _PAGE_BYTES, 1):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(b"x" * size)
            # ext4 frees the blocks of deleted files, and what it has reserved for delayed writes, only then.
            os.fsync(file.fileno())
    return filler
