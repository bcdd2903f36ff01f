"""The nodes `file/write`, `file/read`, `file/template` and `file/delete`.

A file is written beside its place under a temporary name, flushed, and renamed over it: nobody ever sees half of it. `changed`
is true only where something differed, and then the difference goes to the log (never for what is binary or large, and never for
a file whose mode keeps others from reading it: that is where secrets are).
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

#: A difference of larger files, or of more lines, is not shown.
DIFF_BYTES_MAX = 256 << 10
DIFF_LINES_MAX = 200
_NAME = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_.-]*)\}")


def _checksum(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def failure(what: str, path: Path, error: OSError) -> NodeFailure:
    """Why `what` did not come about; a disk that is full now may have room later."""
    return NodeFailure(f"{what} {path}: {error.strerror}", may_retry=error.errno in (28, 122))


def _check_is_file(path: Path) -> None:
    """Raises `NodeFailure` for a pipe, or a device, which could be read for ever."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise NodeFailure(f"{path} is no file")


class _Writer:
    """What `file/write` and `file/template` have in common: one file, as it should be."""

    def __init__(self, context: Context, given: schema.FileWrite | schema.FileTemplate, content: bytes) -> None:
        self._context = context
        self._given = given
        self._content = content
        self._path = context.path(given.path)

    def write(self) -> dict[str, Any]:
        """Makes the file as it should be, if it is not."""
        mode, owner = parameter_values.file_mode(self._given.mode), parameter_values.file_owner(self._given.owner)
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
                if self._given.backup and before is not None:
                    kept = path.with_name(f"{path.name}.{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}.bak")
                    shutil.copy2(path, kept)
                    self._context.log(f"kept the old file as {kept}")
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
        self._context.log(f"{path}: {'changed' if changed else 'as it should be'}")
        return {"changed": changed, "path": str(path), "checksum": _checksum(self._content)}

    def _read(self) -> bytes | None:
        if self._path.is_symlink() and not self._given.follow:
            raise NodeFailure(f"{self._path} is a link; follow: true writes the file that it leads to")
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
        path = self._path.resolve() if self._given.follow else self._path
        if self._given.create_directories:
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
    """A file with this content."""

    parameters = schema.FileWrite

    async def run(self, context: Context, given: schema.FileWrite) -> dict[str, Any]:
        """See the base class."""
        return _Writer(context, given, given.content.encode("utf-8", "surrogateescape")).write()


class FileTemplateNode(Node[schema.FileTemplate]):
    """A file from a template: `${name}` is a value, `$${` is a dollar sign and a brace."""

    parameters = schema.FileTemplate

    async def run(self, context: Context, given: schema.FileTemplate) -> dict[str, Any]:
        """See the base class."""
        source = context.path(given.source)
        _check_is_file(source)
        try:
            text = source.read_text("utf-8")
        except OSError as error:
            raise failure("cannot read", source, error) from error
        except UnicodeDecodeError as error:
            raise NodeFailure(f"{source} is not UTF-8") from error
        missing = sorted({name for name in _NAME.findall(text.replace("$${", "")) if name not in given.values})
        if missing:
            raise NodeFailure(f"{source} wants values that are not given: {', '.join(missing)}")
        parts = text.split("$${")
        filled = "${".join(_NAME.sub(lambda found: _text(given.values[found[1]]), part) for part in parts)
        return _Writer(context, given, filled.encode()).write()


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


class FileReadNode(Node[schema.FileRead]):
    """The content of a file, for later steps."""

    parameters = schema.FileRead

    async def run(self, context: Context, given: schema.FileRead) -> dict[str, Any]:
        """See the base class."""
        path = context.path(given.path)
        try:
            if not path.is_file():
                raise NodeFailure(f"{path} is no file" if path.exists() else f"{path} does not exist")
            with path.open("rb") as file:
                content = file.read(given.max_bytes + 1)
        except OSError as error:
            raise failure("cannot read", path, error) from error
        if len(content) > given.max_bytes:
            raise NodeFailure(f"{path} has more than {given.max_bytes} bytes; raise max-bytes")
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise NodeFailure(f"{path} is not UTF-8") from error
        return {"content": text, "checksum": _checksum(content), "bytes": len(content)}


def _holds(folder: Path, path: Path) -> bool:
    """Whether `path` is in the folder, or is the folder; in a link there is nothing."""
    return not os.path.islink(folder) and Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def _remove(folder: Path) -> None:
    # By its real name: of `a/..` the last part cannot be removed.
    shutil.rmtree(os.path.realpath(folder))


class FileDeleteNode(Node[schema.FileDelete]):
    """No such file any more."""

    parameters = schema.FileDelete

    async def run(self, context: Context, given: schema.FileDelete) -> dict[str, Any]:
        """See the base class."""
        path = context.path(given.path)
        if any(_holds(path, kept) for kept in (context.workspace, Path.home())):
            raise NodeFailure(f"{path} is not deleted: it holds the job's directory, or the home directory")
        try:
            if path.is_dir() and not path.is_symlink():
                if not given.recursive:
                    raise NodeFailure(f"{path} is a directory; recursive: true deletes all of it")
                _remove(path)
            elif path.exists() or path.is_symlink():
                path.unlink()
            else:
                context.log(f"{path}: not there")
                return {"changed": False}
        except OSError as error:
            raise failure("cannot delete", path, error) from error
        context.log(f"{path}: deleted")
        return {"changed": True}
