"""A process that fetches contents of Git LFS, and ends with a response on its output.

Rules of this file: all data of a server is handled in this process, with the limits of a fetch child; it has only the secrets
of this remote. A repository on this machine is read below its `lfs/objects`. The contents that were written before a failure
stay, so that the next attempt continues.
"""

from __future__ import annotations

import os
import resource
import shlex
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

from waterflow_agent.checkout import file_list
from waterflow_agent.errors import WaterflowError
from waterflowd.gitsource import child_process
from waterflowd.gitsource.lfs import batch_api
from waterflowd.gitsource.lfs.batch_api import Endpoint, LfsServer
from waterflowd.gitsource.lfs.partial_content import LfsError, PartialContent
from waterflowd.gitsource.lfs.pointers import LargeFile
from waterflowd.gitsource.lfs.transfer_protocol import (
    StoredFile,
    TransferFailed,
    Transferred,
    TransferRequest,
    TransferResponse,
)
from waterflowd.gitsource.remote import name_resolution, ssh
from waterflowd.gitsource.remote.fetch_errors import FetchError, unreachable
from waterflowd.gitsource.urls import RemoteUrl
from waterflowd.reconcile import codes

_MEMORY_BYTES_MAX = 1 << 30
_READ_BYTES = 1 << 20
_SSH_S = 60.0


def respond(request: TransferRequest) -> TransferResponse:
    """Fetches the contents and returns the response."""
    target = Path(request.target)
    try:
        if request.url is None:
            return Transferred(files=tuple(_copied(request.source, large, target) for large in request.files))
        is_http = request.url.scheme == "http"
        server = LfsServer(_endpoint(request, request.url), request.credentials, allow_http=is_http)
        return Transferred(files=tuple(server.fetch(request.files, target)))
    except FetchError as error:
        failed = error.failure
        return TransferFailed(
            code=failed.code,
            text=_without_secret(failed.text, request),
            is_retryable=failed.is_retryable,
            oid=error.oid if isinstance(error, LfsError) else "",
        )
    except WaterflowError as error:
        return TransferFailed(code=error.code, text=error.text)
    except OSError as error:
        return TransferFailed(code=codes.NOT_THERE, text=f"cannot write an object of Git LFS: {error.strerror}")


def _copied(source: str, large: LargeFile, target: Path) -> StoredFile:
    """Copies a content of a repository on this machine."""
    path = Path(source) / large.oid[:2] / large.oid[2:4] / large.oid
    if not path.is_file():
        text = f"the repository does not have the Git LFS object {large.oid[:12]} below {source}"
        raise LfsError(
            f"{text}; copy it there, for example with git lfs push, or git lfs fetch --all in a clone", large.oid
        )
    with PartialContent(large, target) as partial, path.open("rb") as file:

        def copy_rest() -> None:
            file.seek(partial.offset)
            while chunk := file.read(_READ_BYTES):
                partial.append(chunk)

        return partial.completed(copy_rest)


def _endpoint(request: TransferRequest, url: RemoteUrl) -> Endpoint:
    if url.scheme == "git":
        raise LfsError("git:// has no Git LFS; use https or ssh")
    if url.scheme != "ssh":
        return batch_api.https_endpoint(url)
    return _authenticate(request, url)


def _authenticate(request: TransferRequest, url: RemoteUrl) -> Endpoint:
    """Where the LFS server of an ssh server is, with a token for it."""
    name_resolution.check_host(url.host, url.port, allow_loopback=request.allow_loopback)
    command = f"git-lfs-authenticate {shlex.quote(url.path)} download"
    with tempfile.TemporaryFile(dir=request.target, prefix="tmp_stderr_") as stderr:
        line = [*ssh.arguments(url, request.credentials), command]
        try:
            done = subprocess.run(
                line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, timeout=_SSH_S, check=False
            )
        except FileNotFoundError as error:
            raise ssh.not_installed() from error
        except subprocess.TimeoutExpired as error:
            raise unreachable(f"{url.authority} did not answer git-lfs-authenticate within {_SSH_S:g} s") from error
        if done.returncode:
            failed = ssh.error_from(url, request.credentials, stderr).failure
            text = f"git-lfs-authenticate failed: {failed.text}"
            raise FetchError(failed.code, text, is_retryable=failed.is_retryable)
    try:
        return msgspec.json.decode(done.stdout, type=Endpoint)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        text = f"{url.authority} does not answer git-lfs-authenticate with an address"
        raise LfsError(text) from error


def _without_secret(text: str, request: TransferRequest) -> str:
    """A server may repeat the token in a message that is displayed."""
    login = request.credentials.login
    return text.replace(login.secret, "***") if login is not None else text


def main() -> None:
    """Runs the child: one request, one response."""
    child_process.prepare()
    input_, output = sys.stdin.buffer, sys.stdout.buffer
    request = msgspec.msgpack.decode(child_process.read_request(input_), type=TransferRequest)
    for kind, bound in (
        (resource.RLIMIT_AS, _MEMORY_BYTES_MAX),
        (resource.RLIMIT_FSIZE, file_list.LARGE_FILE_BYTES_MAX),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (bound, bound))
    signal.setitimer(signal.ITIMER_REAL, request.time_s)
    child_process.end_with_the_daemon(input_)
    is_http = request.url is not None and request.url.scheme == "http"
    name_resolution.guard(loopback_only=is_http, allow_loopback=request.allow_loopback)
    response = respond(request)
    signal.setitimer(signal.ITIMER_REAL, 0)
    child_process.write_response(output, msgspec.msgpack.encode(response))
    os._exit(0)
