"""The nodes `file/write`, `file/read`, `file/template` and `file/delete`.

A file is written under a temporary name in the same directory, flushed, and renamed, so that it is never incomplete. `changed`
is only true if something differed; the difference is then printed, except for binary or large files, and for files that others
may not read, which may contain secrets.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import shutil
import stat
import time
from pathlib import Path
from typing import Any

from waterflow_agent.nodes import parameter_values, schema
from waterflow_agent.nodes.node import Context, Node, NodeFailure

#: Differences of larger files are not printed, nor more lines than this.
DIFF_BYTES_MAX = 256 << 10
DIFF_LINES_MAX = 200
_NAME = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_.-]*)\}")


def _checksum(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def failure(what: str, path: Path, error: OSError) -> NodeFailure:
    """Make a failure of an error; a retry can help if the disk is full."""
    return NodeFailure(f"{what} {path}: {error.strerror}", may_retry=error.errno in (28, 122))


def _check_is_file(path: Path) -> None:
    """Raise `NodeFailure` for a pipe or a device, which may never end."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise NodeFailure(f"{path} is not a regular file")


class _Writer:
    """Writes one file, for `file/write` and `file/template`."""

    def __init__(self, context: Context, parameters: schema.FileWrite | schema.FileTemplate, content: bytes) -> None:
        self._context = context
        self._parameters = parameters
        self._content = content
        self._path = context.path(parameters.path)

    def write(self) -> dict[str, Any]:
        """Write the file if its content, mode or owner differs."""
        mode, owner = (
            parameter_values.file_mode(self._parameters.mode),
            parameter_values.file_owner(self._parameters.owner),
        )
        path = self._path
        try:
            before = self._read()
            found = path.stat() if before is not None else None
            differs = before != self._content
            if differs:
                self._show(
                    before,
                    mode if mode is not None else found.st_mode if found is not None else parameter_values.DEFAULT_MODE,
                )
                if self._parameters.backup and before is not None:
                    kept = path.with_name(f"{path.name}.{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}.bak")
                    shutil.copy2(path, kept)
                    self._context.log(f"saved the old file as {kept}")
                self._replace(
                    mode
                    if mode is not None
                    else stat.S_IMODE(found.st_mode)
                    if found is not None
                    else parameter_values.DEFAULT_MODE
                )
            changed = differs | self._adjust(mode, owner)
        except OSError as error:
            raise failure("cannot write", path, error) from error
        self._context.log(f"{path}: {'changed' if changed else 'unchanged'}")
        return {"changed": changed, "path": str(path), "checksum": _checksum(self._content)}

    def _read(self) -> bytes | None:
        if self._path.is_symlink() and not self._parameters.follow:
            raise NodeFailure(f"{self._path} is a symbolic link; set follow: true to write its target")
        if self._path.is_dir():
            raise NodeFailure(f"{self._path} is a directory")
        _check_is_file(self._path)
        try:
            return self._path.read_bytes()
        except FileNotFoundError:
            return None

    def _show(self, before: bytes | None, mode: int) -> None:
        old, new = before or b"", self._content
        if mode & 0o044 == 0 or b"\0" in old + new or max(len(old), len(new)) > DIFF_BYTES_MAX:
            return
        first, second = (part.decode("utf-8", "replace").splitlines(keepends=True) for part in (old, new))
        lines = list(difflib.unified_diff(first, second, str(self._path), str(self._path), n=2))
        for line in lines[:DIFF_LINES_MAX]:
            self._context.log(line.rstrip("\n"))
        if len(lines) > DIFF_LINES_MAX:
            self._context.log(f"... {len(lines) - DIFF_LINES_MAX} more lines")

    def _replace(self, mode: int) -> None:
        path = self._path.resolve() if self._parameters.follow else self._path
        if self._parameters.create_directories:
            path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{path.name}.{os.getpid()}.new")
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with open(fd, "wb") as file:
                file.write(self._content)
                file.flush()
                os.fchmod(file.fileno(), mode)
                if path.exists():
                    found = path.stat()
                    if (found.st_uid, found.st_gid) != (os.geteuid(), os.getegid()) and os.geteuid() == 0:
                        os.fchown(file.fileno(), found.st_uid, found.st_gid)
                os.fsync(file.fileno())
            new.replace(path)
        except BaseException:
            new.unlink(missing_ok=True)
            raise

    def _adjust(self, mode: int | None, owner: tuple[int, int]) -> bool:
        found = self._path.stat()
        changed = False
        if mode is not None and stat.S_IMODE(found.st_mode) != mode:
            self._path.chmod(mode)
            changed = True
        uid, gid = owner
        if (uid not in (-1, found.st_uid)) or (gid not in (-1, found.st_gid)):
            os.chown(self._path, uid, gid)
            changed = True
        return changed


class FileWriteNode(Node[schema.FileWrite]):
    """Writes a file with the given content."""

    parameters = schema.FileWrite

    async def run(self, context: Context, parameters: schema.FileWrite) -> dict[str, Any]:
        """See the base class."""
        return _Writer(context, parameters, parameters.content.encode("utf-8", "surrogateescape")).write()


class FileTemplateNode(Node[schema.FileTemplate]):
    """Writes a file from a template: `${name}` is replaced by a value, `$${` by `${`."""

    parameters = schema.FileTemplate

    async def run(self, context: Context, parameters: schema.FileTemplate) -> dict[str, Any]:
        """See the base class."""
        source = context.path(parameters.source)
        _check_is_file(source)
        try:
            text = source.read_text("utf-8")
        except OSError as error:
            raise failure("cannot read", source, error) from error
        except UnicodeDecodeError as error:
            raise NodeFailure(f"{source} is not valid UTF-8") from error
        missing = sorted({name for name in _NAME.findall(text.replace("$${", "")) if name not in parameters.values})
        if missing:
            raise NodeFailure(f"{source} needs values that are not set: {', '.join(missing)}")
        parts = text.split("$${")
        filled = "${".join(_NAME.sub(lambda found: _text(parameters.values[found[1]]), part) for part in parts)
        return _Writer(context, parameters, filled.encode()).write()


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


class FileReadNode(Node[schema.FileRead]):
    """Reads a file for later steps."""

    parameters = schema.FileRead

    async def run(self, context: Context, parameters: schema.FileRead) -> dict[str, Any]:
        """See the base class."""
        path = context.path(parameters.path)
        try:
            if not path.is_file():
                raise NodeFailure(f"{path} is not a regular file" if path.exists() else f"{path} does not exist")
            with path.open("rb") as file:
                content = file.read(parameters.max_bytes + 1)
        except OSError as error:
            raise failure("cannot read", path, error) from error
        if len(content) > parameters.max_bytes:
            raise NodeFailure(f"{path} is larger than {parameters.max_bytes} bytes; increase max-bytes")
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise NodeFailure(f"{path} is not valid UTF-8") from error
        return {"content": text, "checksum": _checksum(content), "bytes": len(content)}


def _holds(folder: Path, path: Path) -> bool:
    """Return whether the path is the folder or inside it; nothing is inside a symbolic link."""
    return not os.path.islink(folder) and Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def _remove(folder: Path) -> None:
    # By its real path: `a/..` cannot be removed.
    shutil.rmtree(os.path.realpath(folder))


class FileDeleteNode(Node[schema.FileDelete]):
    """Deletes a file or a directory, if it exists."""

    parameters = schema.FileDelete

    async def run(self, context: Context, parameters: schema.FileDelete) -> dict[str, Any]:
        """See the base class."""
        path = context.path(parameters.path)
        if any(_holds(path, kept) for kept in (context.workspace, Path.home())):
            raise NodeFailure(f"refusing to delete {path}: it contains the job's directory or the home directory")
        try:
            if path.is_dir() and not path.is_symlink():
                if not parameters.recursive:
                    raise NodeFailure(f"{path} is a directory; set recursive: true to delete it")
                _remove(path)
            elif path.exists() or path.is_symlink():
                path.unlink()
            else:
                context.log(f"{path}: does not exist")
                return {"changed": False}
        except OSError as error:
            raise failure("cannot delete", path, error) from error
        context.log(f"{path}: deleted")
        return {"changed": True}
