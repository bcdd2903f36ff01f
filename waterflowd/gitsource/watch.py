"""Notices that the refs of a local repository may have moved.

Rules of this file:

- Single directories are watched, never recursively: the parent of the repository, its root, the Git directory, and each
  directory of refs. `objects/` is never watched, because its thousands of files say nothing about refs.
- A watch belongs to an inode, and silently stops working when the directory is replaced. So the watched directories are
  compared with the disk after each event and every few seconds, and any difference creates a new watch.
- A change is reported right after the watch is armed, so that changes before that are not missed.
- A report is only a hint. A lost one costs time and nothing else, because the refs are also read regularly.

Where inotify does not work (network file systems, no watches left) nothing is watched, and `state` says so.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Protocol

from watchfiles._rust_notify import RustNotify, WatchfilesRustInternalError

from waterflow_agent.errors import WaterflowError
from waterflowd.gitsource import git_layout, mounts
from waterflowd.reconcile.source import WatchStatus

#: A push is noticed this long after its last file operation; 100 wake-ups a second cost 0.1 % of a processor.
_STEP_MS = 10
_DEBOUNCE_MS = 50
#: How often the watched directories are compared with the disk when nothing happens.
_CHECK_MS = 2_000
#: How long to wait before trying again to watch.
_RETRY_S = 30.0
#: Delay before a directory that vanished during arming is looked for again.
_VANISHED_RETRY_S = 0.05
#: Directories of one repository; each takes an inotify watch, of which a user has about ten thousand.
_DIRECTORIES_MAX = 1_000

#: Path to device and inode.
Directories = dict[str, tuple[int, int]]


class DirectoryWatch(Protocol):
    """A watch of watchfiles."""

    def watch(
        self, debounce_ms: int, step_ms: int, timeout_ms: int, stop_event: threading.Event, /
    ) -> set[tuple[int, str]] | Literal["signal", "stop", "timeout"]:
        """Blocks until something changes."""
        ...

    def close(self) -> None:
        """Stops watching."""
        ...


def watch_directories(paths: list[str]) -> DirectoryWatch:
    """Watches directories, not recursively; `OSError` or `WatchfilesRustInternalError` if that fails."""
    # The arguments: debug, force polling, polling delay, recursive, ignore permission denied.
    return RustNotify(paths, False, False, 0, False, True)


class Watcher:
    """A thread that calls `report` (from that thread) whenever the refs may have moved or `state` has changed."""

    def __init__(
        self,
        path: Path,
        report: Callable[[], None],
        open_watch: Callable[[list[str]], DirectoryWatch] = watch_directories,
    ) -> None:
        self._path = path
        self._report = report
        self._open_watch = open_watch
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"watch {path.name}", daemon=True)
        self.state = WatchStatus(is_watching=False, code="starting", text="starting to watch for pushes")

    def start(self) -> None:
        """Starts the thread. Call it once."""
        self._thread.start()

    def close(self) -> None:
        """Makes the thread end soon. Idempotent; does not wait."""
        self._stop.set()

    def join(self, timeout_s: float) -> None:
        """Waits for the end of the thread."""
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                network = self._network_type()
                if network:
                    text = f"the repository is on {network}, which does not report changes; its refs are polled"
                    self._wait_unwatched("network-file-system", text)
                else:
                    self._watch(_directories(self._path))
            except FileNotFoundError:
                self._stop.wait(_VANISHED_RETRY_S)
            except (OSError, WatchfilesRustInternalError) as error:
                text = f"cannot watch for changes ({error}); the refs are polled; check fs.inotify.max_user_watches"
                self._wait_unwatched("watch-failed", text)

    def _network_type(self) -> str:
        try:
            with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
                table = file.read()
        except OSError:
            # Without the table nothing is known, and the regular reading of the refs covers a wrong guess.
            return ""
        kind = mounts.file_system_type(os.path.realpath(self._path), table)
        return kind if kind in mounts.NETWORK_TYPES else ""

    def _watch(self, directories: Directories) -> None:
        if len(directories) > _DIRECTORIES_MAX:
            text = f"the refs are in more than {_DIRECTORIES_MAX:,} directories; they are polled instead of watched"
            self._wait_unwatched("too-many-directories", text)
            return
        watch = self._open_watch(list(directories))
        try:
            self.state = WatchStatus(is_watching=True, code="watching", text="pushes are noticed at once")
            self._report()
            while not self._stop.is_set():
                changes = watch.watch(_DEBOUNCE_MS, _STEP_MS, _CHECK_MS, self._stop)
                if isinstance(changes, set) and any(self._is_relevant(path) for _, path in changes):
                    self._report()
                if _directories(self._path) != directories:
                    return
        finally:
            watch.close()

    def _is_relevant(self, path: str) -> bool:
        """Whether the path is about refs. Lock files precede every change; files of a work tree do not matter."""
        if path.endswith(".lock"):
            return False
        return os.path.basename(path) in ("HEAD", "packed-refs") or "/refs" in path

    def _wait_unwatched(self, code: str, text: str) -> None:
        if self.state.code != code:
            self.state = WatchStatus(is_watching=False, code=code, text=text)
            self._report()
        self._stop.wait(_RETRY_S)


def _directories(path: Path) -> Directories:
    """The directories to watch now. Without a repository: the nearest existing parent."""
    directories: Directories = {}
    above = path.parent
    while not above.is_dir() and above != above.parent:
        above = above.parent
    _add(directories, str(above))
    try:
        found = git_layout.find(path)
    except WaterflowError:
        if path.is_dir():
            _add(directories, str(path))
            if (path / ".git").is_dir():
                _add(directories, str(path / ".git"))
        return directories
    for directory in (found.root, found.git_directory, found.common_directory):
        _add(directories, directory)
    for directory, _, _ in os.walk(found.refs):
        _add(directories, directory)
        if len(directories) > _DIRECTORIES_MAX:
            break
    return directories


def _add(directories: Directories, directory: str) -> None:
    try:
        status = os.stat(directory)
    except FileNotFoundError:
        return
    directories[directory] = (status.st_dev, status.st_ino)
