"""An artifact that is downloaded: its files are created as they are, and nothing outside of the directory."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from waterflowd.ctl.commands.artifacts import _extract
from waterflowd.ctl.failures import Failure


def archive(*members: tarfile.TarInfo) -> Iterator[bytes]:
    """A tar archive in small chunks; each regular file contains its name."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as made:
        for member in members:
            content = member.name.encode() if member.isreg() else b""
            member.size = len(content)
            made.addfile(member, io.BytesIO(content))
    content = buffer.getvalue()
    for begin in range(0, len(content), 100):
        yield content[begin : begin + 100]


def member(name: str, *, kind: bytes = tarfile.REGTYPE, mode: int = 0o644, target: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.mode, made.linkname = kind, mode, target
    return made


def test_files_are_created_with_their_folders(tmp_path: Path) -> None:
    """An executable file can be executed."""
    place = tmp_path / "out"

    _extract(place, archive(member("a"), member("bin/deep/tool", mode=0o755)))

    assert (place / "a").read_text() == "a"
    assert (place / "bin/deep/tool").read_text() == "bin/deep/tool"
    assert [bool((place / name).stat().st_mode & 0o100) for name in ("a", "bin/deep/tool")] == [False, True]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    "bad",
    [
        member("../outside"),
        member("/outside"),
        member("a/../../outside"),
        member("link", kind=tarfile.SYMTYPE, target="/etc"),
        member("link", kind=tarfile.LNKTYPE, target="first"),
        member("device", kind=tarfile.CHRTYPE),
        member("folder", kind=tarfile.DIRTYPE),
        member("first"),
    ],
    ids=lambda bad: f"{bad.type.decode()} {bad.name}",
)
def test_an_archive_that_is_no_artifact_creates_nothing(tmp_path: Path, bad: tarfile.TarInfo) -> None:
    """The daemon that it comes from need not be trusted. A name that occurs twice is an error, too."""
    with pytest.raises(Failure):
        _extract(tmp_path / "out", archive(member("first"), bad))

    assert list(tmp_path.iterdir()) == []
