"""Where `validate` finds workflow files: on disk, or in the commits of a Git range.

Rules of this file: a workflow has a path from the root of its repository, under which it is known and other files name
it, and a shown path, as the person wrote it. Files that it uses come from the same place as the file itself. Only
regular files are read, and no more of them than the language looks at.
"""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from waterflowd.ctl.failures import USAGE, Failure

_SUFFIXES = (".yml", ".yaml")
#: What the file of a composite step is called.
_STEP_FILES = frozenset(["step.yml", "step.yaml", "action.yml", "action.yaml"])
#: The language refuses files beyond 1 MiB; nothing more needs to be read to say so.
_READ_BYTES = (1 << 20) + 1
#: Where a repository has its workflows, if nobody says otherwise.
WORKFLOW_FOLDERS = ("workflows", ".waterflow/workflows")
_GIT_TIMEOUT_S = 120.0


@dataclass(frozen=True, kw_only=True)
class Found:
    """One workflow file to check."""

    #: From the root of its repository.
    path: str
    content: bytes
    #: Other files of the same revision.
    read: Callable[[str], bytes | None]
    #: How a path of the repository is shown.
    shown: Callable[[str], str]

    @property
    def is_step(self) -> bool:
        """Whether it is a composite step and no workflow."""
        return self.path.rpartition("/")[2] in _STEP_FILES


def on_disk(paths: Iterable[str], root: str | None) -> Iterator[Found]:
    """The files, and all workflow files below the folders."""
    for path in paths:
        for file in _files(path):
            yield _from_disk(file, root)


def _files(path: str) -> list[str]:
    if not os.path.isdir(path):
        return [path]
    found = sorted(
        os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names if name.endswith(_SUFFIXES)
    )
    if not found:
        raise Failure(USAGE, f"there are no .yml or .yaml files below {path}", "waterflowctl validate FILE")
    return found


def _from_disk(file: str, root: str | None) -> Found:
    try:
        # Only a regular file or a pipe that is named ends; what a symlink leads to is the user's own choice here.
        with Path(file).open("rb") as opened:
            content = opened.read(_READ_BYTES)
    except OSError as error:
        following = "ls " + (os.path.dirname(file) or ".")
        raise Failure(USAGE, f"{file} cannot be read: {error.strerror}", following) from None
    absolute = Path(os.path.abspath(file))
    base = Path(os.path.abspath(root)) if root is not None else _root_of(absolute)
    inside = absolute.relative_to(base).as_posix() if absolute.is_relative_to(base) else absolute.name

    def shown(path: str) -> str:
        if path == inside:
            return file
        return str(base / path) if os.path.isabs(file) else os.path.relpath(base / path)

    return Found(path=inside, content=content, read=lambda path: _read(base, path), shown=shown)


def _root_of(file: Path) -> Path:
    """The repository that a file belongs to: its working tree, or what its folder of workflows stands in."""
    for folder in file.parents:
        if (folder / ".git").exists():
            return folder
    for folder in file.parents:
        if folder.name == "workflows":
            above = folder.parent
            return above.parent if above.name == ".waterflow" else above
    return file.parent


def _read(base: Path, path: str) -> bytes | None:
    file = base / path
    try:
        if not stat.S_ISREG(file.stat().st_mode) or not file.resolve().is_relative_to(base.resolve()):
            return None
        with file.open("rb") as opened:
            return opened.read(_READ_BYTES)
    except OSError:
        return None


class Range:
    """The files of a Git range `A..B`: as they are in B, where the range touches them or what they use."""

    def __init__(self, text: str, root: str | None) -> None:
        first, dots, last = text.partition("..")
        if not dots or not first or not last.strip(".") or text.startswith("-") or last.startswith("-"):
            raise Failure(USAGE, f"--range takes A..B, not {text}", "waterflowctl validate --range origin/main..HEAD")
        self._root = root or "."
        self._is_symmetric = last.startswith(".")
        self._last = self._commit(last.lstrip("."))
        # Git says zeros where nothing was before, as for a new branch in a hook.
        self._first = None if set(first) == {"0"} else self._commit(first)
        self._blobs = dict(self._tree())

    def changed(self) -> set[str] | None:
        """Paths that the range touches; None for all of them."""
        if self._first is None:
            return None
        dots = "..." if self._is_symmetric else ".."
        listed = self._git("diff", "--name-only", "--no-renames", "-z", f"{self._first}{dots}{self._last}")
        return {os.fsdecode(path) for path in listed.split(b"\0") if path}

    def workflows(self, folders: Sequence[str]) -> Iterator[Found]:
        """The workflow files below the folders, in B."""
        wanted = [folder.strip("/").removeprefix("./") for folder in folders or WORKFLOW_FOLDERS]
        for path in sorted(self._blobs):
            is_wanted = any(path == folder or path.startswith(f"{folder}/") or folder == "." for folder in wanted)
            if is_wanted and path.endswith(_SUFFIXES) and os.path.basename(path) not in _STEP_FILES:
                content = self._read(path)
                assert content is not None
                yield Found(path=path, content=content, read=self._read, shown=lambda shown: shown)

    def _commit(self, name: str) -> str:
        return self._git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}").decode().strip()

    def _tree(self) -> Iterator[tuple[str, tuple[str, int]]]:
        """Regular files of B: blob and size by path."""
        for entry in self._git("ls-tree", "-r", "-l", "-z", "--full-tree", self._last).split(b"\0"):
            facts, _, path = entry.partition(b"\t")
            words = facts.split()
            if len(words) == 4 and words[0] in (b"100644", b"100755"):
                yield os.fsdecode(path), (words[2].decode(), int(words[3]))

    def _read(self, path: str) -> bytes | None:
        blob, size = self._blobs.get(path, ("", 0))
        if not blob:
            return None
        # What is larger is refused for its size alone.
        return self._git("cat-file", "blob", blob) if size < _READ_BYTES else b" " * _READ_BYTES

    def _git(self, *arguments: str) -> bytes:
        command = ["git", "-C", self._root, *arguments]
        try:
            done = subprocess.run(command, capture_output=True, timeout=_GIT_TIMEOUT_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Failure(USAGE, f"git cannot be run: {error}", "git --version") from None
        if done.returncode != 0:
            said = done.stderr.decode("utf-8", "replace").strip().splitlines()
            what = said[-1] if said else f"there is no commit {arguments[-1].removesuffix('^{commit}')}"
            raise Failure(USAGE, f"git {arguments[0]}: {what}", "git log --oneline -5")
        return done.stdout
