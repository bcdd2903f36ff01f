"""Objects of S3 and compatible services (MinIO, Ceph, R2, ...).

Objects larger than a part are uploaded in parts, several at a time. The object appears when all parts are complete; if
the upload fails or the step is cancelled, the parts are aborted. Objects are read in ranges, each bound to the version that was
listed, so that a replaced object is detected and versions are never mixed.

Credentials: `access-key` and `secret-key`, else the `AWS_*` variables of the step's environment, else those of the cloud
machine.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import msgspec
import obstore
from obstore import exceptions
from obstore.store import S3Store

from waterflow_agent.nodes import schema
from waterflow_agent.nodes.node import NodeFailure
from waterflow_agent.nodes.transfer import names
from waterflow_agent.nodes.transfer.address import Address
from waterflow_agent.nodes.transfer.content import Content
from waterflow_agent.nodes.transfer.endpoints import Listing, SourceFile

#: S3 allows 10,000 parts per object: 78 GiB with this size. Larger files of known size use larger parts.
PART_BYTES = 8 << 20
PARTS_MAX = 10_000
#: Parts that are sent at a time; more would not be faster, and each is in memory.
_PARTS_AT_ONCE = 4
#: Retries of the library; longer outages are left to the step's `retry`.
_RETRY = {
    "max_retries": 3,
    "retry_timeout": timedelta(seconds=60),
    "backoff": {"init_backoff": timedelta(milliseconds=200), "max_backoff": timedelta(seconds=5), "base": 2},
}
#: Time for aborting an upload after a cancel.
_ABORT_S = 8.0
_CODE = re.compile(r"<Code>(\w{1,60})</Code>")
#: What the system said, in the library's description of an error.
_SYSTEM_MESSAGE = re.compile(r'message: "([^"]{1,200})"')
_STATUS = re.compile(r"status code:? (\d{3})")
#: Paths of the metadata service, where cloud machines get credentials; the last source that is tried.
_MACHINE_KEYS = ("/latest/api/token", "/latest/meta-data")
#: Error codes of S3 for which a retry can help, besides status 5xx.
_MAY_PASS = frozenset(["SlowDown", "RequestTimeout", "ServiceUnavailable", "InternalError", "OperationAborted"])


class S3Access(msgspec.Struct, frozen=True, kw_only=True):
    """Endpoint and credentials. None means the environment."""

    endpoint: str | None
    region: str | None
    access_key: str | None
    secret_key: str | None
    session_token: str | None
    verify: bool | str
    timeout_s: float


def access(parameters: schema.Storage, env: dict[str, str], timeout_s: float) -> S3Access:
    """Read parameters and environment. Raises `NodeFailure`."""
    if (parameters.access_key is None) != (parameters.secret_key is None):
        raise NodeFailure("access-key and secret-key must be set together")
    endpoint = parameters.endpoint or env.get("AWS_ENDPOINT_URL_S3") or env.get("AWS_ENDPOINT_URL")
    if endpoint and not endpoint.startswith(("http://", "https://")):
        raise NodeFailure("endpoint: expected a URL that starts with https:// or http://")
    return S3Access(
        endpoint=endpoint or None,
        region=parameters.region or env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION") or "us-east-1",
        access_key=parameters.access_key,
        secret_key=parameters.secret_key,
        session_token=parameters.session_token,
        verify=parameters.verify,
        timeout_s=timeout_s,
    )


def _store(bucket: str, access: S3Access) -> S3Store:
    timeout = timedelta(seconds=access.timeout_s)
    client: dict[str, Any] = {
        "connect_timeout": min(timeout, timedelta(seconds=30)),
        "read_timeout": timeout,
        # Of a whole request, which transfers one part; read_timeout ends stalled requests.
        "timeout": timeout + timedelta(hours=1),
        "allow_http": bool(access.endpoint and access.endpoint.startswith("http://")),
    }
    if access.verify is False:
        client["allow_invalid_certificates"] = True
    elif isinstance(access.verify, str):
        try:
            client["root_certificate"] = Path(access.verify).read_bytes()
        except OSError as error:
            raise NodeFailure(f"verify: {access.verify}: {error.strerror}") from error
    config = {
        "endpoint": access.endpoint,
        "region": access.region,
        "access_key_id": access.access_key,
        "secret_access_key": access.secret_key,
        "session_token": access.session_token,
    }
    known: dict[str, Any] = {name: value for name, value in config.items() if value is not None}
    # TLS protects the content, so parts need not be hashed and signed; clients of Amazon do the same.
    known["unsigned_payload"] = not client["allow_http"] and access.verify is not False
    try:
        return S3Store(bucket, **known, client_options=client, retry_config=_RETRY)  # type: ignore[arg-type]
    except (exceptions.BaseError, ValueError) as error:
        raise NodeFailure(f"s3://{bucket}: {str(error).splitlines()[0]}") from error


def _server(access: S3Access) -> str:
    """Return the server for messages, without what may be secret."""
    if access.endpoint is None:
        return f"Amazon S3 in {access.region}"
    parsed = urlsplit(access.endpoint)
    return f"{parsed.scheme}://{parsed.netloc.rpartition('@')[2]}"


def _cause(text: str) -> str:
    """Return what the system said, from the library's description of an error."""
    if "dns error" in text:
        return "its host name has no address"
    found = _SYSTEM_MESSAGE.search(text)
    return found[1] if found else "the request timed out, or the connection was closed"


class S3:
    """A source and target: an object, everything below a prefix (with a trailing slash), or what matches a pattern."""

    def __init__(self, address: Address, access: S3Access) -> None:
        self._address = address
        # Without the trailing slash, which the library does not support.
        self._key = address.path.strip("/")
        self._is_folder = not self._key or address.path.endswith("/")
        self._store = _store(address.host, access)
        self._server = _server(access)
        _checked(self._key, address)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def list_files(self) -> Listing:
        """See `endpoints`."""
        try:
            if names.is_pattern(self._key):
                folder, pattern = names.split(self._key)
                matches = names.compile_pattern(pattern).fullmatch
                entries = [entry async for entry in self._list(folder) if matches(entry.name)]
            elif self._is_folder:
                entries = [entry async for entry in self._list(self._key)]
            else:
                found = await obstore.head_async(self._store, self._key)
                return Listing(entries=[_entry(found, self._key.rpartition("/")[2])], is_many=False)
        except (exceptions.BaseError, FileNotFoundError, OSError) as error:
            raise self._failure(error, self._key) from error
        return Listing(entries=sorted(entries, key=lambda entry: entry.name), is_many=True)

    async def _list(self, folder: str) -> AsyncIterator[SourceFile]:
        count = 0
        # The library appends the slash, so that only keys below the folder are listed.
        async for chunk in obstore.list(self._store, prefix=folder or None):
            for found in chunk:
                if found["size"] == 0 and not await self._exists(found["path"]):
                    continue
                count += 1
                if count > names.FILES_MAX:
                    raise NodeFailure(f"{self._address} has more than {names.FILES_MAX} objects; transfer it in parts")
                below = found["path"][len(folder) + 1 if folder else 0 :]
                yield _entry(found, names.checked(below, self._address))

    async def _exists(self, key: str) -> bool:
        """Return whether an empty object exists. Folder markers have a trailing slash, which the listing hides."""
        try:
            await obstore.head_async(self._store, key)
        except FileNotFoundError:
            return False
        return True

    async def read(self, entry: SourceFile) -> AsyncGenerator[bytes]:
        """See `endpoints`."""
        assert entry.size is not None
        starts = range(0, entry.size, PART_BYTES)
        # Read one range ahead.
        ahead = asyncio.ensure_future(self._range(entry, 0)) if starts else None
        try:
            for start in starts:
                assert ahead is not None
                content = await ahead
                following = start + PART_BYTES
                ahead = asyncio.ensure_future(self._range(entry, following)) if following < entry.size else None
                yield content
        except (exceptions.BaseError, FileNotFoundError, OSError) as error:
            raise self._failure(error, entry.key) from error
        finally:
            if ahead is not None:
                ahead.cancel()
                await asyncio.gather(ahead, return_exceptions=True)

    async def _range(self, entry: SourceFile, start: int) -> bytes:
        assert entry.size is not None
        options: dict[str, Any] = {"range": (start, min(start + PART_BYTES, entry.size))}
        if entry.version is not None:
            options["if_match"] = entry.version
        result = await obstore.get_async(self._store, entry.key, options=options)  # type: ignore[arg-type]
        return bytes(await result.bytes_async())

    async def delete(self, entry: SourceFile) -> None:
        """See `endpoints`. Between the look at the object and its deletion is a moment: S3 deletes without conditions."""
        try:
            if _entry(await obstore.head_async(self._store, entry.key), entry.name) != entry:
                text = f"s3://{self._address.host}/{entry.key} has changed since it was listed; it was not deleted"
                raise NodeFailure(text, may_retry=True)
            await obstore.delete_async(self._store, entry.key)
        except FileNotFoundError:
            return
        except (exceptions.BaseError, OSError) as error:
            raise self._failure(error, entry.key) from error

    async def is_folder(self) -> bool:
        """See `Target`: only with a trailing slash, or for a whole bucket."""
        return self._is_folder

    async def write(self, name: str | None, content: Content) -> None:
        """See `endpoints`."""
        key = self._key if name is None else f"{self._key}/{name}".strip("/")
        _checked(key, self._address)
        upload = _Upload(content)
        try:
            if await upload.is_small():
                await obstore.put_async(self._store, key, upload.beginning, use_multipart=False)
            else:
                await self._put(key, upload)
        except NodeFailure:
            raise
        except (exceptions.BaseError, FileNotFoundError, OSError, ValueError) as error:
            raise upload.failure or self._failure(error, key) from error

    async def _put(self, key: str, upload: _Upload) -> None:
        size = max(PART_BYTES, -(-(upload.content.size or 0) // (PARTS_MAX - 1)))
        at_once = max(1, min(_PARTS_AT_ONCE, _PARTS_AT_ONCE * PART_BYTES // size))
        put = asyncio.ensure_future(
            obstore.put_async(self._store, key, upload, use_multipart=True, chunk_size=size, max_concurrency=at_once)
        )
        try:
            await asyncio.shield(put)
        except asyncio.CancelledError:
            # The library aborts the upload if its source fails, but not if it is cancelled.
            upload.stop()
            await asyncio.wait([put], timeout=_ABORT_S)
            put.cancel()
            await asyncio.gather(put, return_exceptions=True)
            raise

    def _failure(self, error: Exception, key: str) -> NodeFailure:
        """Make a failure with the error code of the server; messages of the library contain whole requests."""
        location = f"s3://{self._address.host}/{key}"
        text = str(error).partition("\n\nDebug source")[0]
        found, status = _CODE.search(text), _STATUS.search(text)
        code = found[1] if found else ""
        if code == "NoSuchBucket":
            return NodeFailure(f"{location}: no such bucket at {self._server}")
        if isinstance(error, FileNotFoundError):
            return NodeFailure(f"{location}: no such object at {self._server}; append a slash for everything below it")
        if isinstance(error, exceptions.PreconditionError | exceptions.NotModifiedError):
            return NodeFailure(f"{location} changed while it was being read", may_retry=True)
        if isinstance(error, exceptions.InvalidPathError):
            return NodeFailure(
                f"{location}: the server lists an invalid name, or one that leads out of the destination"
            )
        if isinstance(error, exceptions.PermissionDeniedError | exceptions.UnauthenticatedError):
            reason = f"access denied{f' ({code})' if code else ''}"
            return NodeFailure(
                f"{location}: {reason}; next: check access-key, secret-key and their permissions at {self._server}"
            )
        if status is not None:
            may_retry = status[1] in ("408", "429") or status[1] >= "500" or code in _MAY_PASS
            answer = f"status {status[1]}{f' ({code})' if code else ''} from {self._server}"
            return NodeFailure(f"{location}: {answer}", may_retry=may_retry)
        if any(path in text for path in _MACHINE_KEYS):
            return NodeFailure(f"{location}: no credentials; next: set access-key and secret-key, or AWS_* variables")
        if "certificate" in str(error).lower():
            return NodeFailure(
                f"{location}: the certificate of {self._server} is not trusted; next: set verify to the file of its authority"
            )
        return NodeFailure(f"{location}: cannot reach {self._server}: {_cause(str(error))}", may_retry=True)


def _entry(found: Any, name: str) -> SourceFile:
    modified = found["last_modified"].timestamp()
    return SourceFile(name=name, key=found["path"], size=found["size"], version=found.get("e_tag"), modified=modified)


def _checked(key: str, address: Address) -> None:
    parts = key.split("/") if key else []
    if any(part in ("", ".", "..") for part in parts) or not key.isprintable():
        raise NodeFailure(
            f"{address}: invalid key {key!r}: empty parts, dots and unprintable characters are not allowed"
        )


class _Upload:
    """The content as an iterator for the library, which can be stopped and remembers its failure."""

    def __init__(self, content: Content) -> None:
        self.content = content
        self.failure: NodeFailure | None = None
        self.beginning = b""
        self._chunks = aiter(content)
        self._step: asyncio.Future[bytes] | None = None
        self._is_stopped = False

    async def is_small(self) -> bool:
        """Return whether the content fits into one part, which is then in `beginning`."""
        parts: list[bytes] = []
        async for chunk in self._chunks:
            parts.append(chunk)
            if sum(map(len, parts)) > PART_BYTES:
                break
        self.beginning = b"".join(parts)
        return len(self.beginning) <= PART_BYTES

    def stop(self) -> None:
        """Make the current and the next read fail."""
        self._is_stopped = True
        if self._step is not None:
            self._step.cancel()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self.beginning:
            beginning, self.beginning = self.beginning, b""
            return beginning
        if self._is_stopped:
            raise InterruptedError
        self._step = asyncio.ensure_future(anext(self._chunks))
        try:
            return await self._step
        except NodeFailure as failure:
            self.failure = failure
            raise
        except asyncio.CancelledError:
            raise InterruptedError from None
        finally:
            self._step = None
