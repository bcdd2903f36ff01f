"""The catalog of a server's own nodes: files `<category>/<name>.py` below the node path, and classes of packages.

Rules of this file:

- Looking for changes (`changed`) calls `stat`, and reads and hashes what is new; it runs on the agent's event loop. New
  code is only loaded by `check.in_child`.
- A step runs the text that was checked, from memory, whatever happens to the file later.
- A version that does not work is reported as a fault, and the last working version stays in use. A deleted file is removed.
- Files that other users may write are rejected, because they would run as the agent's user.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import os
import stat
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from waterflow_agent.nodes import schema
from waterflow_agent.nodes.own import check
from waterflow_agent.nodes.own.check import CheckResult
from waterflow_agent.nodes.own.code import Code
from waterflow_agent.wire.messages import OwnNode

logger = logging.getLogger(__name__)

#: Own nodes of one agent; they are in memory, and reported in each `Hello`.
NODES_MAX = 128
#: The entry point group of packages with nodes.
ENTRY_POINTS = "waterflow.nodes"
#: Length of a fault on the wire.
FAULT_LENGTH_MAX = 300
#: Length of the name and version of a package.
VERSION_LENGTH_MAX = 200


class _Signature(msgspec.Struct, frozen=True):
    """Detects changes of a file without reading it."""

    path: str
    inode: int
    size: int
    changed_ns: int
    modified_ns: int


class _Version(msgspec.Struct, frozen=True, kw_only=True):
    """A new version of a node; with `fault` it cannot be used and is not checked."""

    code: Code
    version: str
    origin: str = "server"
    fault: str = ""


class NodeCatalog:
    """All own nodes of one agent. Only for the thread of the event loop."""

    def __init__(self, directories: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> None:
        self._directories = list(directories)
        self._environment = os.environ if environment is None else environment
        self._is_full = False
        self._seen: dict[str, _Signature] = {}
        self._codes: dict[str, Code] = {}
        self._reported: dict[str, OwnNode] = {}
        self._packages: list[_Version] | None = None

    def code(self, name: str) -> Code | None:
        """Return the newest working version of the node."""
        return self._codes.get(name)

    @property
    def names(self) -> list[str]:
        """The names of the nodes that can be used."""
        return sorted(self._codes)

    @property
    def reported(self) -> list[OwnNode]:
        """The nodes as they are reported to the daemon, including faults."""
        return [self._reported[name] for name in sorted(self._reported)]

    async def refresh(self) -> None:
        """Look for changes, and check new versions."""
        found = list(self.changed())
        if self._packages is None:
            self._packages = list(_packages())
            found += [version for version in self._packages if version.code.name not in self._seen]
        for version in found:
            try:
                checked = (
                    CheckResult(fault=version.fault)
                    if version.fault
                    else await check.in_child(version.code, self._environment)
                )
            except OSError as error:
                # No process could be started; the version is checked again at the next refresh.
                logger.warning("node %s: cannot be checked yet: %s", version.code.name, error.strerror)
                if self._seen.pop(version.code.name, None) is None:
                    self._packages = None
            else:
                self._add(version, checked)

    def changed(self) -> Iterator[_Version]:
        """Yield the versions of new and changed files; forget deleted ones."""
        files = dict(self._files())
        for name in self._seen.keys() - files.keys():
            logger.info("node %s: removed, because its file was deleted", name)
            for known in (self._seen, self._codes, self._reported):
                known.pop(name, None)
            # It may have hidden a node of a package.
            yield from (version for version in self._packages or () if version.code.name == name)
        for name, signature in files.items():
            if self._seen.get(name) == signature:
                continue
            found = _read(name, signature)
            self._seen[name] = signature
            known_version = self._reported.get(name)
            if known_version is None or known_version.fault or known_version.version != found.version or found.fault:
                yield found

    def _files(self) -> Iterator[tuple[str, _Signature]]:
        taken: set[str] = set()
        for directory in self._directories:
            for category in _entries(directory):
                if not category.is_dir():
                    continue
                for entry in _entries(category.path):
                    name = f"{category.name}/{entry.name.removesuffix('.py')}"
                    if not entry.name.endswith(".py") or name in taken or not schema.OWN_NAME.fullmatch(name):
                        continue
                    if len(taken) >= NODES_MAX:
                        if not self._is_full:
                            logger.warning("more than %d nodes: ignoring %s and all that follow", NODES_MAX, entry.path)
                        self._is_full = True
                        return
                    try:
                        status = entry.stat()
                    except OSError:
                        # Deleted in the meantime.
                        continue
                    taken.add(name)
                    changed, modified = status.st_ctime_ns, status.st_mtime_ns
                    yield name, _Signature(entry.path, status.st_ino, status.st_size, changed, modified)

    def _add(self, found: _Version, checked: CheckResult) -> None:
        name, known = found.code.name, self._reported.get(found.code.name)
        if checked.fault:
            kept = f"; version {known.version[:12]} stays in use" if known is not None and known.version else ""
            logger.warning("node %s: %s%s", name, checked.fault, kept)
            fault = checked.fault[:FAULT_LENGTH_MAX]
            if known is None:
                self._reported[name] = OwnNode(name=name, origin=found.origin, version="", fault=fault)
            else:
                self._reported[name] = msgspec.structs.replace(known, fault=fault)
            return
        logger.info("node %s: %s, version %s", name, found.code.display_path, found.version[:12])
        self._codes[name] = found.code
        self._reported[name] = OwnNode(
            name=name,
            origin=found.origin,
            version=found.version,
            summary=checked.summary,
            parameters=checked.parameters,
        )


def _entries(path: str) -> list[os.DirEntry[str]]:
    """Return the entries sorted by name, so that limits apply to the same files every time; empty if there is no directory."""
    try:
        with os.scandir(path) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return []


def _read(name: str, signature: _Signature) -> _Version:
    path = signature.path

    def refused(text: str) -> _Version:
        return _Version(code=Code(name=name, path=path), version="", fault=text)

    if schema.find(name) is not None:
        return refused(f"{path}: {name} is a built-in node; choose another name [WF723]")
    try:
        # Without O_NONBLOCK, opening a pipe would block the agent.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        with open(fd, "rb") as file:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                return refused(f"{path}: not a regular file [WF723]")
            if status.st_mode & stat.S_IWOTH:
                return refused(f"{path}: writable by other users; next: chmod o-w {path} [WF723]")
            content = file.read(schema.SOURCE_BYTES_MAX + 1)
        text = content.decode()
    except OSError as error:
        return refused(f"{path}: cannot be read: {error.strerror} [WF723]")
    except UnicodeDecodeError:
        return refused(f"{path}: not valid UTF-8 [WF723]")
    if len(content) > schema.SOURCE_BYTES_MAX:
        return refused(f"{path}: larger than {schema.SOURCE_BYTES_MAX} bytes; make it a package [WF723]")
    return _Version(code=Code(name=name, path=path, text=text), version=hashlib.sha256(content).hexdigest())


def _packages() -> Iterator[_Version]:
    """Yield the nodes of installed packages, without importing them."""
    taken: set[str] = set()
    try:
        entries = importlib.metadata.entry_points(group=ENTRY_POINTS)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        # The metadata of any installed package may be broken, whether it has nodes or not.
        logger.warning("cannot load nodes of packages: broken package metadata: %s", error)
        return
    for entry in entries:
        package = entry.dist.name if entry.dist is not None else "a package"
        version = entry.dist.version if entry.dist is not None else ""
        if not schema.OWN_NAME.fullmatch(entry.name) or len(taken) >= NODES_MAX:
            logger.warning("%s: invalid node name %s; expected category/name", package, entry.name)
            continue
        fault = ""
        if schema.find(entry.name) is not None:
            fault = f"{package}: {entry.name} is a built-in node; choose another name [WF723]"
        elif entry.name in taken:
            fault = f"{package}: another package also has the node {entry.name} [WF723]"
        taken.add(entry.name)
        code = Code(name=entry.name, entry=entry.value)
        yield _Version(code=code, version=f"{package} {version}"[:VERSION_LENGTH_MAX], origin="package", fault=fault)
