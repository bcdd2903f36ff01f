"""The own nodes of a server: files below the node path, `<category>/<name>.py`, and classes of packages.

Rules of this file:

- A look (`changed`) is some calls of `stat` and, for what is new, a read and a hash; it is done on the agent's loop. New
  code is loaded by `check.in_child` and nowhere else.
- What a step runs is the text that was checked, from memory: a file that is being written, or broken, is none of its business.
- A version that does not work is reported of as a fault, and the last one that did stays. A file that is gone is gone.
- A file that another user may write is not taken: whoever writes it runs code as the agent's user.
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

#: Own nodes of one agent; they are in memory, and reported of in each `Hello`.
NODES_MAX = 128
#: The entry points of packages that bring nodes.
ENTRY_POINTS = "waterflow.nodes"
#: Of a fault, on the wire.
FAULT_LENGTH_MAX = 300
#: Of a package and its version.
VERSION_LENGTH_MAX = 200


class _Signature(msgspec.Struct, frozen=True):
    """What tells a file from an older state of it without reading it."""

    path: str
    inode: int
    size: int
    changed_ns: int
    modified_ns: int


class _Version(msgspec.Struct, frozen=True, kw_only=True):
    """A version of a node that was not looked at before; `fault` says why it need not be checked."""

    code: Code
    version: str
    origin: str = "server"
    fault: str = ""


class NodeCatalog:
    """All own nodes of one agent. For the loop's thread."""

    def __init__(self, directories: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> None:
        self._directories = list(directories)
        self._environment = os.environ if environment is None else environment
        self._is_full = False
        self._seen: dict[str, _Signature] = {}
        self._codes: dict[str, Code] = {}
        self._reported: dict[str, OwnNode] = {}
        self._packages: list[_Version] | None = None

    def code(self, name: str) -> Code | None:
        """The newest version of the node that works."""
        return self._codes.get(name)

    @property
    def names(self) -> list[str]:
        """The nodes that a step can use here."""
        return sorted(self._codes)

    @property
    def reported(self) -> list[OwnNode]:
        """What the daemon is reported of them, faults included."""
        return [self._reported[name] for name in sorted(self._reported)]

    async def refresh(self) -> None:
        """Looks at everything once, and checks what is new."""
        found = list(self.changed())
        if self._packages is None:
            self._packages = list(_packages())
            found += [one for one in self._packages if one.code.name not in self._seen]
        for one in found:
            try:
                checked = (
                    CheckResult(fault=one.fault) if one.fault else await check.in_child(one.code, self._environment)
                )
            except OSError as error:
                # No process can be had now; as nothing was found out, it is new at the next look too.
                logger.warning("node %s cannot be checked yet: %s", one.code.name, error.strerror)
                if self._seen.pop(one.code.name, None) is None:
                    self._packages = None
            else:
                self._take(one, checked)

    def changed(self) -> Iterator[_Version]:
        """The files that are new or other than before; forgets those that are gone."""
        files = dict(self._files())
        for name in self._seen.keys() - files.keys():
            logger.info("node %s: its file is gone", name)
            for known in (self._seen, self._codes, self._reported):
                known.pop(name, None)
            # A package's node of that name is no longer hidden.
            yield from (one for one in self._packages or () if one.code.name == name)
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
                            logger.warning(
                                "more than %d nodes; %s and what follows is not taken", NODES_MAX, entry.path
                            )
                        self._is_full = True
                        return
                    try:
                        status = entry.stat()
                    except OSError:
                        # Gone between two calls: as if it had never been there.
                        continue
                    taken.add(name)
                    changed, modified = status.st_ctime_ns, status.st_mtime_ns
                    yield name, _Signature(entry.path, status.st_ino, status.st_size, changed, modified)

    def _take(self, found: _Version, checked: CheckResult) -> None:
        name, known = found.code.name, self._reported.get(found.code.name)
        if checked.fault:
            kept = f"; the version {known.version[:12]} stays" if known is not None and known.version else ""
            logger.warning("node %s: %s%s", name, checked.fault, kept)
            fault = checked.fault[:FAULT_LENGTH_MAX]
            if known is None:
                self._reported[name] = OwnNode(name=name, origin=found.origin, version="", fault=fault)
            else:
                self._reported[name] = msgspec.structs.replace(known, fault=fault)
            return
        logger.info("node %s: %s, version %s", name, found.code.shown, found.version[:12])
        self._codes[name] = found.code
        self._reported[name] = OwnNode(
            name=name,
            origin=found.origin,
            version=found.version,
            summary=checked.summary,
            parameters=checked.parameters,
        )


def _entries(path: str) -> list[os.DirEntry[str]]:
    """By name, so that bounds and orders are the same every time; nothing where there is no such directory."""
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
        return refused(f"{path}: {name} is a node of Waterflow; give yours another name [WF723]")
    try:
        # Without O_NONBLOCK a pipe would hold the agent until somebody writes.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        with open(fd, "rb") as file:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                return refused(f"{path}: it is no regular file [WF723]")
            if status.st_mode & stat.S_IWOTH:
                return refused(f"{path}: others may write it; next: chmod o-w {path} [WF723]")
            content = file.read(schema.SOURCE_BYTES_MAX + 1)
        text = content.decode()
    except OSError as error:
        return refused(f"{path}: cannot be read: {error.strerror} [WF723]")
    except UnicodeDecodeError:
        return refused(f"{path}: it is not UTF-8 [WF723]")
    if len(content) > schema.SOURCE_BYTES_MAX:
        return refused(f"{path}: it has more than {schema.SOURCE_BYTES_MAX} bytes; make it a package [WF723]")
    return _Version(code=Code(name=name, path=path, text=text), version=hashlib.sha256(content).hexdigest())


def _packages() -> Iterator[_Version]:
    """The nodes of packages beside the agent; nothing of them is imported here."""
    taken: set[str] = set()
    try:
        entries = importlib.metadata.entry_points(group=ENTRY_POINTS)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        # Of any package that is installed, whether it has nodes or not.
        logger.warning("no nodes of packages: the description of one cannot be read: %s", error)
        return
    for entry in entries:
        package = entry.dist.name if entry.dist is not None else "a package"
        version = entry.dist.version if entry.dist is not None else ""
        if not schema.OWN_NAME.fullmatch(entry.name) or len(taken) >= NODES_MAX:
            logger.warning("%s: %s cannot be a node's name: write category/name", package, entry.name)
            continue
        fault = ""
        if schema.find(entry.name) is not None:
            fault = f"{package}: {entry.name} is a node of Waterflow; give yours another name [WF723]"
        elif entry.name in taken:
            fault = f"{package}: another package has the node {entry.name} too [WF723]"
        taken.add(entry.name)
        code = Code(name=entry.name, entry=entry.value)
        yield _Version(code=code, version=f"{package} {version}"[:VERSION_LENGTH_MAX], origin="package", fault=fault)
