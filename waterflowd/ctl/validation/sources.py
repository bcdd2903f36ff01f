"""Find the workflow files for `validate`: on disk, or in the commits of a Git range.

Rules of this file: a workflow has a path from the root of its repository, by which other files refer to it, and a display
path, as the user typed it (without `.` and `..`). Files that it uses are read from the same source. Only regular files are
read, up to the size limit of the language.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from waterflowd.ctl.failures import USAGE, Failure

_SUFFIXES = (".yml", ".yaml")
#: Names of files that define a composite step.
_STEP_FILES = frozenset(["step.yml", "step.yaml", "action.yml", "action.yaml"])
#: The language rejects files over 1 MiB, so no more needs to be read.
_READ_BYTES = (1 << 20) + 1
#: The key that every workflow has, at the beginning of a line, or in a mapping that is written in braces.
_JOBS = re.compile(rb"(?m)^(?:\{.*)?[\"']?jobs[\"']?[ \t]*:")
#: Default folders of workflows in a repository.
WORKFLOW_FOLDERS = ("workflows", ".waterflow/workflows")
_GIT_TIMEOUT_S = 120.0


@dataclass(frozen=True, kw_only=True)
class WorkflowFile:
    """One workflow file to check."""

    #: From the root of its repository.
    path: str
    content: bytes
    #: Other files of the same revision.
    read: Callable[[str], bytes | None]
    #: Returns the display path for a path of the repository.
    display_path: Callable[[str], str]

    @property
    def is_step(self) -> bool:
        """Whether it defines a composite step, not a workflow."""
        return self.path.rpartition("/")[2] in _STEP_FILES


def on_disk(paths: Iterable[str], root: str | None) -> Iterator[WorkflowFile]:
    """Yield the files, and all workflow files below the folders.

    Below a folder, a file outside of folders for workflows counts only if it has the key `jobs`: others, such as compose.yml,
    are something else.
    """
    for path in paths:
        is_found = False
        for file in _files(path):
            found = _from_disk(file, root)
            if file == path or found.is_step or _is_in_workflow_folder(file) or _JOBS.search(found.content):
                is_found = True
                yield found
        if not is_found:
            raise Failure(USAGE, f"no workflow files in {path}", "waterflowctl validate FILE")


def _is_in_workflow_folder(file: str) -> bool:
    return "workflows" in Path(os.path.abspath(file)).parts[:-1]


def _files(path: str) -> list[str]:
    if not os.path.isdir(path):
        return [path]
    found = sorted(
        os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names if name.endswith(_SUFFIXES)
    )
    if not found:
        raise Failure(USAGE, f"no .yml or .yaml files in {path}", "waterflowctl validate FILE")
    return found


def _from_disk(file: str, root: str | None) -> WorkflowFile:
    try:
        # The user named this path, so a symbolic link or a pipe is fine.
        with Path(file).open("rb") as opened:
            content = opened.read(_READ_BYTES)
    except OSError as error:
        next_step = "ls " + (os.path.dirname(file) or ".")
        raise Failure(USAGE, f"cannot read {file}: {error.strerror}", next_step) from None
    absolute = Path(os.path.abspath(file))
    base = Path(os.path.abspath(root)) if root is not None else _root_of(absolute)
    inside = absolute.relative_to(base).as_posix() if absolute.is_relative_to(base) else absolute.name

    def display_path(path: str) -> str:
        if path == inside:
            # One spelling for each file, so that it is recognized when another one uses it.
            return os.path.normpath(file)
        return str(base / path) if os.path.isabs(file) else os.path.relpath(base / path)

    return WorkflowFile(
        path=inside, content=content, read=lambda path: read_below(base, path), display_path=display_path
    )


def _root_of(file: Path) -> Path:
    """Return the root of the repository that a file belongs to: its working tree, or the parent of its workflow folder."""
    for folder in file.parents:
        if (folder / ".git").exists():
            return folder
    for folder in file.parents:
        if folder.name == "workflows":
            above = folder.parent
            return above.parent if above.name == ".waterflow" else above
    return file.parent


def read_below(base: Path, path: str) -> bytes | None:
    """Return the content of a regular file below a directory, up to the size limit and one byte; None if there is none."""
    file = base / path
    try:
        if not stat.S_ISREG(file.stat().st_mode) or not file.resolve().is_relative_to(base.resolve()):
            return None
        with file.open("rb") as opened:
            return opened.read(_READ_BYTES)
    except OSError:
        return None


class Range:
    """The workflow files of a Git range `A..B`, as they are in B."""

    def __init__(self, text: str, root: str | None) -> None:
        first, dots, last = text.partition("..")
        if not dots or not first or not last.strip(".") or text.startswith("-") or last.startswith("-"):
            raise Failure(USAGE, f"--range expects A..B, not {text}", "waterflowctl validate --range origin/main..HEAD")
        self._root = root or "."
        self._is_symmetric = last.startswith(".")
        self._last = self._commit(last.lstrip("."))
        # Git passes zeros to hooks for a branch that did not exist.
        self._first = None if set(first) == {"0"} else self._commit(first)
        self._blobs = dict(self._tree())

    def changed(self) -> set[str] | None:
        """Return the paths that the range changes; None means all paths."""
        if self._first is None:
            return None
        dots = "..." if self._is_symmetric else ".."
        listed = self._git("diff", "--name-only", "--no-renames", "-z", f"{self._first}{dots}{self._last}")
        return {os.fsdecode(path) for path in listed.split(b"\0") if path}

    def workflows(self, folders: Sequence[str]) -> Iterator[WorkflowFile]:
        """Yield the workflow files below the folders, in B."""
        prefixes = [folder.strip("/").removeprefix("./") for folder in folders or WORKFLOW_FOLDERS]
        for path in sorted(self._blobs):
            is_included = any(path == folder or path.startswith(f"{folder}/") or folder == "." for folder in prefixes)
            if is_included and path.endswith(_SUFFIXES) and os.path.basename(path) not in _STEP_FILES:
                content = self._read(path)
                assert content is not None
                yield WorkflowFile(path=path, content=content, read=self._read, display_path=lambda path: path)

    def _commit(self, name: str) -> str:
        return self._git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}").decode().strip()

    def _tree(self) -> Iterator[tuple[str, tuple[str, int]]]:
        """Yield the regular files of B: path, blob and size."""
        for entry in self._git("ls-tree", "-r", "-l", "-z", "--full-tree", self._last).split(b"\0"):
            facts, _, path = entry.partition(b"\t")
            words = facts.split()
            if len(words) == 4 and words[0] in (b"100644", b"100755"):
                yield os.fsdecode(path), (words[2].decode(), int(words[3]))

    def _read(self, path: str) -> bytes | None:
        blob, size = self._blobs.get(path, ("", 0))
        if not blob:
            return None
        # The language rejects larger files by their size, so the content does not matter.
        return self._git("cat-file", "blob", blob) if size < _READ_BYTES else b" " * _READ_BYTES

    def _git(self, *arguments: str) -> bytes:
        command = ["git", "-C", self._root, *arguments]
        try:
            done = subprocess.run(command, capture_output=True, timeout=_GIT_TIMEOUT_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Failure(USAGE, f"cannot run git: {error}", "git --version") from None
        if done.returncode != 0:
            errors = done.stderr.decode("utf-8", "replace").strip().splitlines()
            reason = errors[-1] if errors else f"no commit {arguments[-1].removesuffix('^{commit}')}"
            raise Failure(USAGE, f"git {arguments[0]}: {reason}", "git log --oneline -5")
        return done.stdout
