"""A fetch child: one process for one fetch of one remote, which ends with an answer on its output.

Rules of this file:

- Whatever a remote sends ends in this process. It bounds its own memory, time, and what it writes; it has no secrets but
  those of this remote, and it is ended with everything it has started when the daemon is gone or the time is up.
- Fetched are the watched tips, each with its tree and without its history where the server can do that. The server is told
  which commits are complete here (and which of these have no parents here, or it would leave out what only those bring), and
  sends the difference.
- Requests are written as a whole before an answer is read: with a depth, answers to the depth come before those to the
  commits, and dulwich would take the ones for the others.
- Packs go through dulwich, which computes each object's id from its content; what a tip leads to is read back before it is
  called complete.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import struct
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from typing import IO, BinaryIO

import msgspec
from dulwich.client import GitClient, TCPGitClient
from dulwich.errors import ApplyDeltaError, GitProtocolError, HangupException, NotGitRepository
from dulwich.object_store import DiskObjectStore, ObjectStoreGraphWalker
from dulwich.objects import ObjectID
from dulwich.protocol import Protocol
from dulwich.refs import Ref

from waterflow_agent.display import escape_for_display
from waterflow_agent.errors import WaterflowError
from waterflowd.gitsource import objects, reading
from waterflowd.gitsource.remote import https, name_resolution, remote_refs, ssh
from waterflowd.gitsource.remote.fetch_errors import FetchError, no_repository, past_limit, unreachable
from waterflowd.gitsource.remote.fetch_protocol import LENGTH, Answer, Fetched, FetchFailed, FetchRequest, encode_frame
from waterflowd.reconcile import codes

#: Beside the pack: refs, and what the server says while it works.
_TALK_BYTES_MAX = 64 << 20
#: A tree's objects that the pack leans on are appended to it.
_FILE_BYTES_SPARE = 256 << 20
_PACK_HEAD = struct.Struct(">4sII")
_PROTOCOL = 2
_TREE_BYTES_MAX = 16 << 20
#: What dulwich raises for an answer that makes no sense, besides `objects.DAMAGE`.
_NONSENSE = (*objects.DAMAGE, ApplyDeltaError, GitProtocolError, AttributeError, KeyError, TypeError)
_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO})


class _Tcp(TCPGitClient):
    """`git://`, with requests written as a whole."""

    def _connect(
        self, cmd: bytes, path: str | bytes, protocol_version: int | None = None
    ) -> tuple[Protocol, Callable[[], bool], IO[bytes] | None]:
        protocol, _, said = super()._connect(cmd, path, protocol_version)
        return protocol, lambda: False, said


class PackSink:
    """Takes a pack as it comes, within the limits, into a file."""

    def __init__(self, request: FetchRequest, file: IO[bytes]) -> None:
        self._limits = request.limits
        self._file = file
        self._head = b""
        self.bytes = 0
        self.objects = 0

    def write(self, data: bytes) -> int:
        """Keeps a piece; raises `FetchError` WF512 past a limit."""
        self.bytes += len(data)
        if self.bytes > self._limits.pack_bytes:
            text = f"the remote sends more than {self._limits.pack_bytes:,} bytes: raise fetch-max-bytes, or watch fewer refs"
            raise past_limit(text)
        if len(self._head) < _PACK_HEAD.size:
            self._head += data[: _PACK_HEAD.size - len(self._head)]
            self._check_head()
        return self._file.write(data)

    def _check_head(self) -> None:
        if len(self._head) < _PACK_HEAD.size:
            return
        magic, _, self.objects = _PACK_HEAD.unpack(self._head)
        if magic != b"PACK":
            raise no_repository("what the remote sends is no pack")
        if self.objects > self._limits.objects:
            raise past_limit(f"the remote sends {self.objects:,} objects; at most {self._limits.objects:,} are taken")


class Fetch:
    """One fetch."""

    def __init__(self, request: FetchRequest, said: IO[bytes]) -> None:
        self._request = request
        self._said = said
        self._read_bytes = 0
        self._object_ids: dict[str, str] = {}
        self._wants: list[str] = []

    def run(self) -> Fetched:
        """Fetches; raises `FetchError`, or whatever the libraries raise."""
        try:
            return self._fetch(depth=1)
        except GitProtocolError as error:
            if "shallow" not in str(error):
                raise
        # A server that cannot leave the history out. What came from one that could has no history to build on.
        return self._fetch(depth=None)

    def _fetch(self, depth: int | None) -> Fetched:
        request = self._request
        shallow = set(request.shallow) if depth is not None else set()
        commits = [commit for commit in request.commits if depth is not None or commit not in request.shallow]
        # The newest first: they have most in common with what is new.
        walker = ObjectStoreGraphWalker(
            [_id(commit) for commit in reversed(commits)], lambda _: [], shallow={_id(commit) for commit in shallow}
        )
        with tempfile.TemporaryFile(dir=request.objects, prefix="tmp_fetch_") as file:
            sink = PackSink(request, file)
            with closing(self._client()) as client:
                result = client.fetch_pack(
                    self._path(),
                    self._determine_wants,
                    walker,
                    sink.write,
                    depth=depth,
                    ref_prefix=[b"HEAD", b"refs/heads/", b"refs/tags/"],
                    protocol_version=_PROTOCOL,
                )
            head_ref = remote_refs.head_ref(result.symrefs, result.refs)
            if sink.objects:
                self._add(file)
        commits = self._check_wants()
        new_shallow = {commit.decode("ascii") for commit in result.new_shallow or ()}
        return Fetched(
            head_ref=head_ref,
            object_ids=self._object_ids,
            complete=tuple(self._wants),
            commits=tuple(commits),
            shallow=tuple(commit for commit in commits if commit in new_shallow),
            pack_bytes=sink.bytes,
            objects=sink.objects,
        )

    def _client(self) -> GitClient:
        url, credentials = self._request.url, self._request.credentials
        client: GitClient
        if url.scheme == "ssh":
            name_resolution.check_host(url.host, url.port)
            client = ssh.client(url, credentials, self._said)
        elif url.scheme == "git":
            client = _Tcp(url.host, url.port)
        else:
            client = https.client(url, credentials)
        client._report_activity = self._count
        return client

    def _path(self) -> str:
        return self._request.url.path

    def _count(self, count: int, direction: str) -> None:
        if direction == "read":
            self._read_bytes += count
            if self._read_bytes > self._request.limits.pack_bytes + _TALK_BYTES_MAX:
                raise past_limit("the remote talks without end")

    def _determine_wants(self, refs: Mapping[Ref, ObjectID], depth: int | None = None) -> list[ObjectID]:
        self._object_ids = remote_refs.object_ids(refs)
        watched = remote_refs.watched_ids(refs, self._object_ids, self._request.patterns)
        held = set(self._request.complete)
        self._wants = [tip for tip in dict.fromkeys(watched) if tip not in held]
        return [_id(tip) for tip in self._wants]

    def _add(self, file: IO[bytes]) -> None:
        file.seek(0)
        with closing(DiskObjectStore(self._request.objects, fsync_object_files=True)) as store:
            try:
                store.add_thin_pack(file.read, None).close()
            except _NONSENSE as error:
                text = f"the pack that the remote sent is damaged ({type(error).__name__})"
                raise FetchError(codes.OBJECT_UNREADABLE, text, is_retryable=True) from error

    def _check_wants(self) -> list[str]:
        """The commits that the new tips lead to; each of them was read, with its tree."""
        commits = []
        with closing(objects.Objects(self._request.objects)) as store:
            for tip in self._wants:
                # What is too large to be read is there all the same; whoever reads it says so, of this ref alone.
                with suppress(objects.TooLarge):
                    try:
                        found = reading.commit(store, tip)
                    except WaterflowError:
                        # Such as the tag of a tree, which is no fault of the fetch as long as it is there.
                        store.read(tip, _TREE_BYTES_MAX)
                        continue
                    commits.append(found.id)
                    store.read(found.tree, _TREE_BYTES_MAX)
        return commits


def answer(request: FetchRequest) -> Answer:
    """Does one fetch, and gives what came of it."""
    try:
        with tempfile.TemporaryFile(dir=request.objects, prefix="tmp_said_") as said:
            return _answer(request, said)
    except OSError as error:
        return _os_error(request, error)


def _answer(request: FetchRequest, said: IO[bytes]) -> Answer:
    host = request.url.authority
    try:
        return Fetch(request, said).run()
    except FetchError as refused:
        return refused.answer
    except WaterflowError as error:
        return FetchFailed(code=error.code, text=error.text)
    except MemoryError:
        return past_limit(f"what {host} sends takes more memory than a fetch may have").answer
    except NotGitRepository:
        return no_repository(f"{host} knows no such repository").answer
    except HangupException:
        return _hangup(request, said)
    except _NONSENSE as error:
        if request.url.scheme == "ssh" and said.tell():
            return ssh.explained(request.url, request.credentials, said).answer
        return _nonsense(host, error)


def _hangup(request: FetchRequest, said: IO[bytes]) -> Answer:
    if request.url.scheme == "ssh":
        return ssh.explained(request.url, request.credentials, said).answer
    return unreachable(f"{request.url.authority} closed the connection before its answer was complete").answer


def _os_error(request: FetchRequest, error: OSError) -> Answer:
    if error.errno in _DISK:
        text = f"the mirror cannot be written: {error.strerror}"
        return FetchFailed(code=codes.NOT_THERE, text=text)
    return unreachable(f"{request.url.authority} cannot be reached: {error.strerror or type(error).__name__}").answer


def _nonsense(host: str, error: Exception) -> Answer:
    if isinstance(error, GitProtocolError) and str(error):
        return unreachable(f"{host} says: {escape_for_display(str(error))}").answer
    return unreachable(f"what {host} answers is not to be understood, or broke off ({type(error).__name__})").answer


def _id(text: str) -> ObjectID:
    return ObjectID(text.encode("ascii"))


class _Clock:
    """Ends the process with an answer when the time is up, and without one when the daemon is gone."""

    def __init__(self, request: FetchRequest, requests: BinaryIO, answers: BinaryIO) -> None:
        self._request = request
        self._requests = requests
        self._answers = answers

    def start(self) -> None:
        """Arms both."""
        signal.signal(signal.SIGALRM, self._time_is_up)
        signal.setitimer(signal.ITIMER_REAL, self._request.limits.time_s)
        threading.Thread(target=self._wait_for_end, name="daemon", daemon=True).start()

    def _time_is_up(self, *_: object) -> None:
        host, time_s = self._request.url.authority, self._request.limits.time_s
        text = f"{host} did not finish in {time_s:g} s: it hangs, or raise fetch-timeout"
        write(self._answers, FetchFailed(code=codes.TOO_SLOW, text=text))
        _end_all()

    def _wait_for_end(self) -> None:
        while self._requests.read(1):
            pass
        _end_all()


def _end_all() -> None:
    """Ends this process and those that it has started."""
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _limit(request: FetchRequest) -> None:
    memory = request.limits.memory_bytes + request.limits.pack_bytes
    size = _FILE_BYTES_SPARE + request.limits.pack_bytes
    for kind, bound in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, size),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (bound, bound))


def _without_secret(given: Answer, request: FetchRequest) -> Answer:
    """A server may say the token back, and what it says is shown."""
    login = request.credentials.login
    if login is None or not isinstance(given, FetchFailed):
        return given
    return msgspec.structs.replace(given, text=given.text.replace(login.secret, "***"))


def write(answers: BinaryIO, given: Answer) -> None:
    """Sends the one answer."""
    answers.write(encode_frame(msgspec.msgpack.encode(given)))
    answers.flush()


def main() -> None:
    """Runs as the child: one request, one answer."""
    os.umask(0o077)
    for number in (signal.SIGINT, signal.SIGTERM):
        # They are for the daemon, whose end ends the input.
        signal.signal(number, signal.SIG_IGN)
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    request = msgspec.msgpack.decode(requests.read(LENGTH.unpack(requests.read(LENGTH.size))[0]), type=FetchRequest)
    _limit(request)
    _Clock(request, requests, answers).start()
    name_resolution.guard(loopback_only=request.url.scheme == "http")
    given = _without_secret(answer(request), request)
    signal.setitimer(signal.ITIMER_REAL, 0)
    write(answers, given)
    os._exit(0)
