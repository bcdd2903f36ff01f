"""The mirror of a remote: an object directory, and a file that records which objects are complete.

Rules of this file:

- A mirror holds no configuration, hooks, index or work tree. Git would open it as a bare repository without refs.
- The state file is written after the packs are in place, so that everything it lists exists; anything else is fetched again.
  Without a readable state file, or with that of another remote, a mirror starts empty.
- Packs accumulate with each fetch and are never rewritten. Instead a fresh mirror is filled and replaces the old one.

All methods block; they are called from the source's thread, one at a time.
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
#: Commits that are announced to a server. The newest ones are enough, because a fetch is about the newest.
_COMMITS_MAX = 256


class MirrorState(msgspec.Struct, kw_only=True):
    """What is complete in the mirror, oldest first; see `fetch_protocol.FetchRequest`."""

    #: The remote that was fetched.
    remote: str
    complete: tuple[str, ...] = ()
    commits: tuple[str, ...] = ()
    shallow: tuple[str, ...] = ()


class Mirror:
    """One mirror at `path`. It needs no lock, because the daemon locks its data directory."""

    def __init__(self, path: Path, remote: str) -> None:
        self.path = path
        self._remote = remote
        self._fresh = path.with_name(path.name + ".new")
        self.state = MirrorState(remote=remote)

    @property
    def objects(self) -> str:
        """The object directory."""
        return str(self.path / "objects")

    @property
    def fetched_at(self) -> float | None:
        """When the remote was last fetched, in seconds of the wall clock; None if never."""
        try:
            return (self.path / _STATE_FILE).stat().st_mtime
        except OSError:
            return None

    def open(self) -> None:
        """Creates the mirror if it does not exist, and cleans it up."""
        state = self._read_state()
        if state is None or state.remote != self._remote:
            _remove(self.path)
            state = MirrorState(remote=self._remote)
        self.state = state
        _make(self.path)
        self.clean_up()

    def remove(self) -> None:
        """Removes the mirror and the leftovers of its fetches."""
        for path in (self.path, self._fresh, self.path.with_name(self.path.name + ".old")):
            _remove(path)

    def clean_up(self) -> None:
        """Removes the leftovers of interrupted fetches, which may be large."""
        _remove(self._fresh)
        packs = self.path / "objects" / "pack"
        unindexed = [pack for pack in packs.glob("*.pack") if not pack.with_suffix(".idx").exists()]
        for left in (*self.path.glob("objects/tmp_*"), *packs.glob("*.lock"), *unindexed):
            left.unlink(missing_ok=True)

    def pack_count(self) -> int:
        """The number of packs."""
        return sum(1 for name in os.listdir(self.path / "objects" / "pack") if name.endswith(".pack"))

    def begin_fresh(self) -> str:
        """Creates an empty mirror next to this one, and returns its object directory."""
        _remove(self._fresh)
        _make(self._fresh)
        return str(self._fresh / "objects")

    def swap(self, fetched: Fetched) -> None:
        """Replaces this mirror by the fresh one, which this fetch has filled."""
        old = self.path.with_name(self.path.name + ".old")
        _remove(old)
        self.state = MirrorState(remote=self._remote)
        self._write_state(self._fresh, fetched)
        # A crash between the two renames leaves no mirror; the next start creates a new one.
        self.path.rename(old)
        self._fresh.rename(self.path)
        _remove(old)

    def record(self, fetched: Fetched) -> None:
        """Records what a fetch has brought, and its time."""
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


def age_text(fetched_at: float | None) -> str:
    """How long ago the last fetch was, for messages."""
    if fetched_at is None:
        return "never fetched"
    seconds = max(0, int(time.time() - fetched_at))
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"last fetched {seconds // size} {unit} ago"
    return f"last fetched {seconds} s ago"


def _newest(ids: tuple[str, ...], count: int = _COMMITS_MAX) -> tuple[str, ...]:
    """The last `count` ids, each once, at its last position."""
    return tuple(reversed(dict.fromkeys(reversed(ids))))[-count:]


def _make(path: Path) -> None:
    # `mkdir` applies the mode to the last folder only, so the parent is created by itself.
    for folder in (path.parent, path):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in ("objects/pack", "objects/info", "refs/heads"):
        (path / name).mkdir(parents=True, exist_ok=True)
    # It makes Git recognize the repository, for people who want to inspect it; nothing here reads it.
    with suppress(FileExistsError), (path / "HEAD").open("x") as file:
        file.write("ref: refs/heads/main\n")


def _remove(path: Path) -> None:
    with suppress(FileNotFoundError):
        shutil.rmtree(path)
