"""The directories of a repository on disk: the Git directory, and the part that linked work trees share."""

from __future__ import annotations

import os
import re
from pathlib import Path

import msgspec

from waterflow_agent.display import escape_for_display
from waterflow_agent.errors import Retryable, Stalled
from waterflowd.reconcile import codes

#: A `.git` file, HEAD and `commondir` hold one short line.
_LINE_BYTES_MAX = 4_096
_CONFIG_BYTES_MAX = 64 << 10
#: A hundred thousand commits.
_SHALLOW_BYTES_MAX = 4 << 20
_EXTENSION = re.compile(r"^\s*(objectformat|refstorage)\s*=\s*(\S+)", re.IGNORECASE | re.MULTILINE)
_UNDERSTOOD = frozenset({"sha1", "files"})


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """Absolute paths of a repository's parts."""

    #: The configured path.
    root: str
    #: Holds HEAD.
    git_directory: str
    #: Holds refs, packed-refs and objects; the Git directory itself unless this is a linked work tree.
    common_directory: str

    @property
    def refs(self) -> str:
        """The directory of loose refs."""
        return os.path.join(self.common_directory, "refs")

    @property
    def objects(self) -> str:
        """The object directory."""
        return os.path.join(self.common_directory, "objects")

    def identity(self) -> tuple[int, int]:
        """Distinguishes this repository from one recreated at the same path; raises `OSError` if it no longer exists."""
        status = os.stat(self.refs)
        return status.st_dev, status.st_ino


def find(path: Path) -> Layout:
    """The layout of the repository at `path`, bare or not; parent directories are not searched.

    Raises `Retryable` WF503 if there is nothing, `Stalled` WF504 if it is not a repository or has an unsupported format.
    """
    try:
        if not path.is_dir():
            raise Retryable(codes.NOT_THERE, f"directory {escape_for_display(str(path))} does not exist")
        git_directory = _git_directory(path)
        common = _line(git_directory / "commondir")
        common_directory = git_directory / common if common else git_directory
        if not ((common_directory / "objects").is_dir() and (common_directory / "refs").is_dir()):
            raise Stalled(codes.NOT_A_REPOSITORY, f"{escape_for_display(str(path))} is not a Git repository")
        _check_format(common_directory / "config")
    except OSError as error:
        raise Retryable(codes.NOT_THERE, f"cannot read {escape_for_display(str(path))}: {error.strerror}") from error
    return Layout(
        root=str(path),
        git_directory=os.path.realpath(git_directory),
        common_directory=os.path.realpath(common_directory),
    )


def shallow(layout: Layout) -> tuple[str, ...]:
    """The commits whose parents the repository does not have; none unless it is a shallow clone."""
    try:
        with open(os.path.join(layout.common_directory, "shallow"), encoding="ascii", errors="replace") as file:
            return tuple(sorted(file.read(_SHALLOW_BYTES_MAX).split()))
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise Retryable(codes.NOT_THERE, f"cannot read the repository: {error.strerror}") from error


def head_ref(layout: Layout) -> str | None:
    """The ref that HEAD names, or None if HEAD is a commit; raises `OSError` if there is no HEAD."""
    with open(os.path.join(layout.git_directory, "HEAD"), encoding="utf-8", errors="replace") as file:
        line = file.read(_LINE_BYTES_MAX).strip()
    return line.removeprefix("ref:").strip() if line.startswith("ref:") else None


def _git_directory(path: Path) -> Path:
    inner = path / ".git"
    if inner.is_dir():
        return inner
    if inner.is_file():
        line = _line(inner)
        if not line.startswith("gitdir:"):
            raise Stalled(codes.NOT_A_REPOSITORY, f"{escape_for_display(str(inner))} does not name a Git directory")
        return path / line.removeprefix("gitdir:").strip()
    return path


def _line(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(_LINE_BYTES_MAX).strip()
    except FileNotFoundError:
        return ""


def _check_format(config: Path) -> None:
    try:
        with config.open(encoding="utf-8", errors="replace") as file:
            text = file.read(_CONFIG_BYTES_MAX)
    except FileNotFoundError:
        return
    for name, value in _EXTENSION.findall(text):
        if value.lower() not in _UNDERSTOOD:
            text = f"{name.lower()} {escape_for_display(value)} of the repository is not supported; use sha1 and files"
            raise Stalled(codes.NOT_A_REPOSITORY, text)
