"""The mirror of a remote: a directory of objects, and a note of what is complete in it.

Rules of this file:

- A mirror holds no configuration, hooks, index or work tree. Git would open it as a bare repository without refs.
- The state is written after the packs that it speaks of are in remote, so what it claims is there; what it does not know of is
  fetched once more. Without a readable state, or with that of another remote, a mirror begins anew.
- Packs pile up with each fetch and are never rewritten. Instead a fresh mirror is filled beside and takes the remote.

All methods block; they are called from the source's own thread, one at a time.
"""

from __future__ import annotations

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from waterflowd.gitsource.remote.fetch_protocol import Fetched

_STATE_FILE = "waterflow.json"
#: Commits that a server is told of: the newest ones. A few are enough, because a fetch is about the newest.
_COMMITS_MAX = 256


class MirrorState(msgspec.Struct, kw_only=True):
    """What is complete in the mirror; see `exchange.FetchRequest`. Oldest first."""

    #: The remote that it came from.
    remote: str
    complete: tuple[str, ...] = ()
    commits: tuple[str, ...] = ()
    shallow: tuple[str, ...] = ()


class Mirror:
    """One mirror on disk, at `path`. Needs no lock: the daemon has one on its data directory."""

    def __init__(self, path: Path, remote: str) -> None:
        self.path = path
        self._remote = remote
        self._fresh = path.with_name(path.name + ".new")
        self.state = MirrorState(remote=remote)

    @property
    def objects(self) -> str:
        """The directory of objects."""
        return str(self.path / "objects")

    @property
    def fetched_at(self) -> float | None:
        """When it was last fetched from the remote, in seconds of the wall clock; None when it never was."""
        try:
            return (self.path / _STATE_FILE).stat().st_mtime
        except OSError:
            return None

    def open(self) -> None:
        """Makes the mirror if it is not there, and clears it."""
        state = self._read_state()
        if state is None or state.remote != self._remote:
            _remove(self.path)
            state = MirrorState(remote=self._remote)
        self.state = state
        _make(self.path)
        self.clear()

    def clear(self) -> None:
        """Removes what a fetch that was ended in the middle has left: it may be large."""
        _remove(self._fresh)
        packs = self.path / "objects" / "pack"
        unindexed = [pack for pack in packs.glob("*.pack") if not pack.with_suffix(".idx").exists()]
        for left in (*self.path.glob("objects/tmp_*"), *packs.glob("*.lock"), *unindexed):
            left.unlink(missing_ok=True)

    def packs(self) -> int:
        """How many packs there are."""
        return sum(1 for name in os.listdir(self.path / "objects" / "pack") if name.endswith(".pack"))

    def begin_fresh(self) -> str:
        """Makes an empty mirror beside this one, and gives its directory of objects."""
        _remove(self._fresh)
        _make(self._fresh)
        return str(self._fresh / "objects")

    def swap(self, fetched: Fetched) -> None:
        """Puts the fresh mirror, which was filled by this fetch, in the remote of this one."""
        old = self.path.with_name(self.path.name + ".old")
        _remove(old)
        self.state = MirrorState(remote=self._remote)
        self._write_state(self._fresh, fetched)
        # A crash between the two leaves no mirror, and the next start makes a new one.
        self.path.rename(old)
        self._fresh.rename(self.path)
        _remove(old)

    def take(self, fetched: Fetched) -> None:
        """Notes what a fetch has brought, and that there was one."""
        if fetched.complete or self.fetched_at is None:
            self._write_state(self.path, fetched)
        else:
            os.utime(self.path / _STATE_FILE)

    def _write_state(self, path: Path, fetched: Fetched) -> None:
        commits = _newest((*self.state.commits, *fetched.commits))
        shallow = {*self.state.shallow, *fetched.shallow}
        self.state = MirrorState(
            remote=self._remote,
            complete=_newest((*self.state.complete, *fetched.complete), len(fetched.object_ids) + _COMMITS_MAX),
            commits=commits,
            shallow=tuple(commit for commit in commits if commit in shallow),
        )
        temporary = path / (_STATE_FILE + ".new")
        with temporary.open("wb") as file:
            file.write(msgspec.json.encode(self.state))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path / _STATE_FILE)

    def _read_state(self) -> MirrorState | None:
        try:
            return msgspec.json.decode((self.path / _STATE_FILE).read_bytes(), type=MirrorState)
        except (OSError, msgspec.MsgspecError):
            return None


def ago(instant: float | None) -> str:
    """How long ago an instant of the wall clock was, for people."""
    if instant is None:
        return "never fetched yet"
    seconds = max(0, int(time.time() - instant))
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"last fetched {seconds // size} {unit} ago"
    return f"last fetched {seconds} s ago"


def _newest(ids: tuple[str, ...], count: int = _COMMITS_MAX) -> tuple[str, ...]:
    """Each once, at its last remote; the last ones."""
    return tuple(reversed(dict.fromkeys(reversed(ids))))[-count:]


def _make(path: Path) -> None:
    # The mode of a parent that is made along the way would be the usual one.
    for folder in (path.parent, path):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in ("objects/pack", "objects/info", "refs/heads"):
        (path / name).mkdir(parents=True, exist_ok=True)
    # Git takes it for a repository, for whoever wants to look; nothing here reads it.
    with suppress(FileExistsError), (path / "HEAD").open("x") as file:
        file.write("ref: refs/heads/main\n")


def _remove(path: Path) -> None:
    with suppress(FileNotFoundError):
        shutil.rmtree(path)
