"""A fetch child: one process for one fetch of one remote, which ends with a response on its output.

Rules of this file:

- All data of a remote is handled in this process. It limits its memory, its time and what it writes; it has only the secrets
  of this remote, and is killed with its children when the daemon ends or the time is up.
- The watched refs are fetched with their trees, and without history if the server supports that. The server is told which
  commits are complete in the mirror, and which of these are shallow, and sends only what is missing.
- A request is written as a whole before the response is read: with a depth, the shallow lines come before the acknowledgements
  of commits, and dulwich would confuse the two.
- Packs go through dulwich, which computes each object's id from its content; the commits and trees of fetched refs are read
  back before they are recorded as complete.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import struct
import sys
import tempfile
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
from waterflowd.gitsource import child_process, objects, reading
from waterflowd.gitsource.remote import https, name_resolution, remote_refs, ssh
from waterflowd.gitsource.remote.fetch_errors import FetchError, no_repository, past_limit, timed_out, unreachable
from waterflowd.gitsource.remote.fetch_protocol import Fetched, FetchFailed, FetchRequest, FetchResponse
from waterflowd.gitsource.tree_walk import TREE_BYTES_MAX
from waterflowd.reconcile import codes

#: Bytes besides the pack: refs, and progress messages of the server.
_OVERHEAD_BYTES_MAX = 64 << 20
#: Bases of a thin pack are appended to it.
_FILE_BYTES_SPARE = 256 << 20
_PACK_HEAD = struct.Struct(">4sII")
_PROTOCOL = 2
#: What dulwich raises for a malformed response.
_MALFORMED = (*objects.DAMAGE, ApplyDeltaError, GitProtocolError, AttributeError, KeyError, TypeError)
_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO})


class _Tcp(TCPGitClient):
    """`git://`, with requests that are written as a whole."""

    def _connect(
        self, cmd: bytes, path: str | bytes, protocol_version: int | None = None
    ) -> tuple[Protocol, Callable[[], bool], IO[bytes] | None]:
        protocol, _, stderr = super()._connect(cmd, path, protocol_version)
        return protocol, lambda: False, stderr


class PackSink:
    """Writes a pack to a file as it arrives, within the limits."""

    def __init__(self, request: FetchRequest, file: IO[bytes]) -> None:
        self._limits = request.limits
        self._file = file
        self._head = b""
        self.bytes = 0
        self.objects = 0

    def write(self, data: bytes) -> int:
        """Writes a chunk; raises `FetchError` WF512 beyond a limit."""
        self.bytes += len(data)
        if self.bytes > self._limits.pack_bytes:
            text = f"the remote sends more than {self._limits.pack_bytes:,} bytes; raise fetch-max-bytes, or watch fewer refs"
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
            raise no_repository("the remote does not send a pack")
        if self.objects > self._limits.objects:
            raise past_limit(f"the remote sends {self.objects:,} objects; the maximum is {self._limits.objects:,}")


class Fetch:
    """One fetch."""

    def __init__(self, request: FetchRequest, stderr: IO[bytes]) -> None:
        self._request = request
        self._stderr = stderr
        self._read_bytes = 0
        self._object_ids: dict[str, str] = {}
        self._wants: list[str] = []

    def run(self) -> Fetched:
        """Fetches; raises `FetchError`, or an exception of the libraries."""
        if self._request.has_history:
            return self._fetch(depth=None)
        try:
            return self._fetch(depth=1)
        except GitProtocolError as error:
            if "shallow" not in str(error):
                raise
        # The server does not support shallow fetches, so shallow commits in the mirror cannot be used either.
        return self._fetch(depth=None)

    def _fetch(self, depth: int | None) -> Fetched:
        request = self._request
        shallow = set(request.shallow) if depth is not None else set()
        commits = [commit for commit in request.commits if depth is not None or commit not in request.shallow]
        # The newest first: they share most with the new commits.
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
            name_resolution.check_host(url.host, url.port, allow_loopback=self._request.allow_loopback)
            client = ssh.client(url, credentials, self._stderr)
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
            if self._read_bytes > self._request.limits.pack_bytes + _OVERHEAD_BYTES_MAX:
                raise past_limit("the remote sends too much data besides the pack")

    def _determine_wants(self, refs: Mapping[Ref, ObjectID], depth: int | None = None) -> list[ObjectID]:
        self._object_ids = remote_refs.object_ids(refs)
        watched = (
            list(self._object_ids.values())
            if self._request.has_history
            else remote_refs.watched_ids(refs, self._object_ids, self._request.patterns)
        )
        complete = set(self._request.complete)
        self._wants = [object_id for object_id in dict.fromkeys(watched) if object_id not in complete]
        return [_id(object_id) for object_id in self._wants]

    def _add(self, file: IO[bytes]) -> None:
        file.seek(0)
        with closing(DiskObjectStore(self._request.objects, fsync_object_files=True)) as store:
            try:
                store.add_thin_pack(file.read, None).close()
            except _MALFORMED as error:
                text = f"the remote sent a damaged pack ({type(error).__name__})"
                raise FetchError(codes.OBJECT_UNREADABLE, text, is_retryable=True) from error

    def _check_wants(self) -> list[str]:
        """The commits of the fetched refs; each of them was read, with its tree."""
        commits = []
        with closing(objects.ObjectStore(self._request.objects)) as store:
            for object_id in self._wants:
                # An object that is too large is complete all the same; reading it fails later, for this ref only.
                with suppress(objects.TooLarge):
                    try:
                        found = reading.commit(store, object_id)
                    except WaterflowError:
                        # For example a tag of a tree, which is fine as long as it exists.
                        store.read(object_id, TREE_BYTES_MAX)
                        continue
                    commits.append(found.id)
                    store.read(found.tree, TREE_BYTES_MAX)
        return commits


def respond(request: FetchRequest) -> FetchResponse:
    """Performs one fetch and returns the response."""
    try:
        with tempfile.TemporaryFile(dir=request.objects, prefix="tmp_stderr_") as stderr:
            return _respond(request, stderr)
    except OSError as error:
        return _os_error(request, error)


def _respond(request: FetchRequest, stderr: IO[bytes]) -> FetchResponse:
    host = request.url.authority
    try:
        return Fetch(request, stderr).run()
    except FetchError as error:
        return error.failure
    except WaterflowError as error:
        return FetchFailed(code=error.code, text=error.text)
    except MemoryError:
        return past_limit(f"the data from {host} takes more memory than a fetch may use").failure
    except NotGitRepository:
        return no_repository(f"{host} has no such repository").failure
    except HangupException:
        return _hangup(request, stderr)
    except _MALFORMED as error:
        if request.url.scheme == "ssh" and stderr.tell():
            return ssh.error_from(request.url, request.credentials, stderr).failure
        return _malformed(host, error)


def _hangup(request: FetchRequest, stderr: IO[bytes]) -> FetchResponse:
    if request.url.scheme == "ssh":
        return ssh.error_from(request.url, request.credentials, stderr).failure
    return unreachable(f"{request.url.authority} closed the connection before its response was complete").failure


def _os_error(request: FetchRequest, error: OSError) -> FetchResponse:
    if error.errno in _DISK:
        text = f"cannot write the mirror: {error.strerror}"
        return FetchFailed(code=codes.NOT_THERE, text=text)
    return unreachable(f"cannot reach {request.url.authority}: {error.strerror or type(error).__name__}").failure


def _malformed(host: str, error: Exception) -> FetchResponse:
    if isinstance(error, GitProtocolError) and str(error):
        return unreachable(f"{host} reports: {escape_for_display(str(error))}").failure
    return unreachable(f"the response of {host} is malformed or incomplete ({type(error).__name__})").failure


def _id(text: str) -> ObjectID:
    return ObjectID(text.encode("ascii"))


class _Watchdog:
    """Ends the process with a response when the time is up, and without one when the daemon has ended."""

    def __init__(self, request: FetchRequest, input_: BinaryIO, output: BinaryIO) -> None:
        self._request = request
        self._input = input_
        self._output = output

    def start(self) -> None:
        """Starts both watches."""
        signal.signal(signal.SIGALRM, self._time_out)
        signal.setitimer(signal.ITIMER_REAL, self._request.limits.time_s)
        child_process.end_with_the_daemon(self._input)

    def _time_out(self, *_: object) -> None:
        write(self._output, timed_out(self._request))
        child_process.end_all()


def _limit(request: FetchRequest) -> None:
    memory = request.limits.memory_bytes + request.limits.pack_bytes
    size = _FILE_BYTES_SPARE + request.limits.pack_bytes
    for kind, bound in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, size),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (bound, bound))


def _without_secret(response: FetchResponse, request: FetchRequest) -> FetchResponse:
    """Removes the token, because a server may repeat it in a message that is displayed."""
    login = request.credentials.login
    if login is None or not isinstance(response, FetchFailed):
        return response
    return msgspec.structs.replace(response, text=response.text.replace(login.secret, "***"))


def write(output: BinaryIO, response: FetchResponse) -> None:
    """Sends the response."""
    child_process.write_response(output, msgspec.msgpack.encode(response))


def main() -> None:
    """Runs the child: one request, one response."""
    child_process.prepare()
    input_, output = sys.stdin.buffer, sys.stdout.buffer
    request = msgspec.msgpack.decode(child_process.read_request(input_), type=FetchRequest)
    _limit(request)
    _Watchdog(request, input_, output).start()
    name_resolution.guard(loopback_only=request.url.scheme == "http", allow_loopback=request.allow_loopback)
    response = _without_secret(respond(request), request)
    signal.setitimer(signal.ITIMER_REAL, 0)
    write(output, response)
    os._exit(0)
