"""A process that writes the commits of a repository into packs, and ends with a response on its output.

Rules of this file: it reads objects and writes only below its target; its memory and time are limited, and it ends with the
daemon. Deltas of the repository's own packs are copied as they are: that is three times as fast as inflating everything, and a
fifth of the size. Agents keep files in memory while they receive them, so a pack is split until it is small enough.
"""

from __future__ import annotations

import hashlib
import math
import os
import resource
import signal
import sys
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from pathlib import Path

import msgspec
from dulwich.object_store import DiskObjectStore, MissingObjectFinder
from dulwich.objects import ObjectID
from dulwich.pack import PackHint, write_pack_from_container, write_pack_index_v2

from waterflow_agent.checkout import file_list
from waterflow_agent.errors import Retryable
from waterflowd.gitsource import child_process, objects
from waterflowd.gitsource.history import tree_objects
from waterflowd.gitsource.history.pack_protocol import Packed, PackFailed, PackFile, PackRequest, PackResponse
from waterflowd.reconcile import codes

#: More than the largest public repositories have in a year.
OBJECTS_MAX = 2_000_000
#: The size at which packs are aimed. An agent accepts `file_list.FILE_BYTES_MAX`.
_PACK_BYTES = 24 << 20
#: For Python, the ids and the indexes; the packs that are read are mapped and count in addition.
_MEMORY_BYTES_MAX = 4 << 30
_READ_BYTES = 1 << 20
_Found = list[tuple[ObjectID, PackHint | None]]
_Objects = Sequence[tuple[ObjectID, PackHint | None]]


class _Failed(Exception):
    """Carries the response."""

    def __init__(self, code: str, text: str, *, is_retryable: bool = False) -> None:
        super().__init__(text)
        self.failure = PackFailed(code=code, text=text, is_retryable=is_retryable)


class PackWriter:
    """Writes the packs of one request."""

    def __init__(self, request: PackRequest) -> None:
        self._request = request
        self._target = Path(request.target)
        self._files: list[PackFile] = []
        self._left = request.bytes_max

    def run(self) -> Packed:
        """Writes the packs. Raises `_Failed`, `OSError`, and what dulwich raises for damaged objects."""
        with closing(DiskObjectStore(self._request.objects)) as store:
            found = self._missing(store)
            # Objects of one kind and name are often deltas of each other, so they stay together.
            found.sort(key=lambda item: (item[1][0] or 0, item[1][1] or b"") if item[1] else (0, b""))
            count = self._pack_count(store, found)
            size = math.ceil(len(found) / count) if found else 1
            for start in range(0, len(found), size):
                self._write(store, found[start : start + size])
        return Packed(files=tuple(self._files), objects=len(found))

    def _missing(self, store: DiskObjectStore) -> _Found:
        request = self._request
        if _id(request.revision) not in store:
            text = f"commit {request.revision[:12]} is no longer in any branch or tag of the repository"
            raise _Failed(codes.OBJECT_UNREADABLE, text)
        if request.is_shallow:
            with closing(objects.ObjectStore(request.objects)) as trees:
                return _bounded(request, tree_objects.missing(trees, request.wants, request.haves))
        wants = [want for want in map(_id, request.wants) if want in store]
        return _bounded(
            request,
            MissingObjectFinder(
                store, map(_id, request.haves), [_id(request.revision), *wants], shallow=set(map(_id, request.shallow))
            ),
        )

    def _pack_count(self, store: DiskObjectStore, found: _Objects) -> int:
        """Into how many packs to write the objects: about as large as their share of the repository."""
        total = sum(len(pack.data) for pack in store.packs)
        stored = sum(os.path.getsize(pack.data.path) for pack in store.packs)
        share = min(1.0, len(found) / total) if total else 1.0
        return max(1, math.ceil(stored * share / _PACK_BYTES))

    def _write(self, store: DiskObjectStore, found: _Objects) -> None:
        temporary = self._target / "tmp_pack"
        with temporary.open("wb") as file:
            entries, checksum = write_pack_from_container(
                file.write, store, found, store.object_format, deltify=False, reuse_deltas=True
            )
        size = temporary.stat().st_size
        if size > file_list.FILE_BYTES_MAX:
            self._split(store, found)
            return
        self._left -= size
        if self._left < 0:
            text = f"{_what(self._request)} more than {self._request.bytes_max:,} bytes"
            raise _Failed(codes.LIMIT, f"{text}; raise fetch-max-bytes, or {_instead(self._request)}")
        name = f"pack-{checksum.hex()}"
        with (self._target / "tmp_index").open("wb") as file:
            write_pack_index_v2(file, sorted((sha, *entry) for sha, entry in entries.items()), checksum)
        # The index last: with it the pack counts as complete.
        for kind, path in ((".pack", temporary), (".idx", self._target / "tmp_index")):
            self._files.append(_described(path, name + kind))
            path.rename(self._target / (name + kind))

    def _split(self, store: DiskObjectStore, found: _Objects) -> None:
        if len(found) == 1:
            text = f"object {found[0][0].decode()[:12]} of the repository has more than {file_list.FILE_BYTES_MAX >> 20} MiB"
            raise _Failed(codes.LIMIT, f"{text}; {_instead(self._request)}")
        middle = len(found) // 2
        self._write(store, found[:middle])
        self._write(store, found[middle:])


def _bounded(request: PackRequest, found: Iterable[tuple[ObjectID, PackHint | None]]) -> _Found:
    """The objects as a list. Raises `_Failed` if they are too many."""
    listed: _Found = []
    for item in found:
        listed.append(item)
        if len(listed) > OBJECTS_MAX:
            raise _Failed(codes.LIMIT, f"{_what(request)} more than {OBJECTS_MAX:,} objects; {_instead(request)}")
    return listed


def _what(request: PackRequest) -> str:
    return "the commit has" if request.is_shallow else "the repository's history has"


def _instead(request: PackRequest) -> str:
    if request.is_shallow:
        return "use a checkout without .git: no history, and no step with actions/checkout"
    return "use a checkout without history"


def respond(request: PackRequest) -> PackResponse:
    """Writes the packs and returns the response."""
    try:
        return PackWriter(request).run()
    except _Failed as error:
        return error.failure
    except Retryable as error:
        return PackFailed(code=error.code, text=error.text)
    except objects.TooLarge:
        text = f"a folder of the commit is too large to read; {_instead(request)}"
        return PackFailed(code=codes.LIMIT, text=text, is_retryable=False)
    except MemoryError:
        text = f"the repository takes too much memory to pack; {_instead(request)}"
        return PackFailed(code=codes.LIMIT, text=text, is_retryable=False)
    except KeyError as error:
        missing = error.args[0].decode("ascii", "replace") if isinstance(error.args[0], bytes) else str(error)
        return PackFailed(code=codes.OBJECT_UNREADABLE, text=f"object {missing[:12]} of the history is missing")
    except objects.DAMAGE as error:
        text = f"an object of the history is damaged ({type(error).__name__})"
        return PackFailed(code=codes.OBJECT_UNREADABLE, text=text)
    except OSError as error:
        return PackFailed(code=codes.NOT_THERE, text=f"cannot pack the repository's history: {error.strerror}")


def _described(path: Path, name: str) -> PackFile:
    size = path.stat().st_size
    digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_READ_BYTES):
            digest.update(chunk)
    return PackFile(name=name, blob=digest.digest(), size=size)


def _id(text: str) -> ObjectID:
    return ObjectID(text.encode("ascii"))


def _limit(request: PackRequest) -> None:
    for kind, bound in (
        (resource.RLIMIT_AS, _MEMORY_BYTES_MAX + request.bytes_max),
        (resource.RLIMIT_FSIZE, max(request.bytes_max, file_list.FILE_BYTES_MAX) * 2),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (bound, bound))
    with suppress(OSError):
        # Work in the background: steps and agents come first.
        os.nice(5)


def main() -> None:
    """Runs the child: one request, one response."""
    child_process.prepare()
    input_, output = sys.stdin.buffer, sys.stdout.buffer
    request = msgspec.msgpack.decode(child_process.read_request(input_), type=PackRequest)
    _limit(request)
    signal.setitimer(signal.ITIMER_REAL, request.time_s)
    child_process.end_with_the_daemon(input_)
    response = respond(request)
    signal.setitimer(signal.ITIMER_REAL, 0)
    child_process.write_response(output, msgspec.msgpack.encode(response))
    os._exit(0)
