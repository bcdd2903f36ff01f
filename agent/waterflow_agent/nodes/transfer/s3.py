"""Objects of S3, and of what speaks its language (MinIO, Ceph, R2, ...).

What is larger than a part is sent in parts, several at a time. The object appears when all of them are together; when
something fails, and when the step is cancelled, the parts are thrown away at the server. What is read comes in ranges, each
bound to the object that was listed, so that what is replaced meanwhile is noticed and never mixed.

Keys, and access in general: `access-key` and `secret-key`, else the `AWS_*` variables of the step's environment, else what
the machine in the cloud has.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

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

#: S3 takes 10,000 parts of an object at most: with these 78 GiB. A larger file of a known size has larger ones.
PART_BYTES = 8 << 20
PARTS_MAX = 10_000
#: On their way at a time; more would not be faster, and each is in memory.
_PARTS_AT_ONCE = 4
#: The library tries again by itself for so long; what lasts longer is for the step's `retry`.
_RETRY = {
    "max_retries": 3,
    "retry_timeout": timedelta(seconds=60),
    "backoff": {"init_backoff": timedelta(milliseconds=200), "max_backoff": timedelta(seconds=5), "base": 2},
}
#: How long the server has for throwing parts away after a cancel.
_ABORT_S = 8.0
_CODE = re.compile(r"<Code>(\w{1,60})</Code>")
_STATUS = re.compile(r"status code:? (\d{3})")
#: Where a machine in the cloud has its keys: the last place to look, which no other machine has.
_MACHINE_KEYS = ("/latest/api/token", "/latest/meta-data")
#: What S3 says when trying again can help, beside a status 5xx.
_MAY_PASS = frozenset(["SlowDown", "RequestTimeout", "ServiceUnavailable", "InternalError", "OperationAborted"])


class S3Access(msgspec.Struct, frozen=True, kw_only=True):
    """How a server is reached and entered. What is None comes from the environment."""

    endpoint: str | None
    region: str | None
    access_key: str | None
    secret_key: str | None
    session_token: str | None
    verify: bool | str
    timeout_s: float


def access(given: schema.FileTransfer, env: dict[str, str], timeout_s: float) -> S3Access:
    """What the parameters and the environment say. Raises `NodeFailure`."""
    if (given.access_key is None) != (given.secret_key is None):
        raise NodeFailure("access-key and secret-key go together")
    endpoint = given.endpoint or env.get("AWS_ENDPOINT_URL_S3") or env.get("AWS_ENDPOINT_URL")
    if endpoint and not endpoint.startswith(("http://", "https://")):
        raise NodeFailure("endpoint: expected an address that begins with https:// or http://")
    return S3Access(
        endpoint=endpoint or None,
        region=given.region or env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION") or "us-east-1",
        access_key=given.access_key,
        secret_key=given.secret_key,
        session_token=given.session_token,
        verify=given.verify,
        timeout_s=timeout_s,
    )


def _store(bucket: str, access: S3Access) -> S3Store:
    timeout = timedelta(seconds=access.timeout_s)
    client: dict[str, Any] = {
        "connect_timeout": min(timeout, timedelta(seconds=30)),
        "read_timeout": timeout,
        # Of a whole request, of which each moves one part; the other one ends those that stand still.
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
    # Over TLS nobody can change what is sent, so no part is hashed once more to be signed; so do Amazon's own clients.
    known["unsigned_payload"] = not client["allow_http"] and access.verify is not False
    try:
        return S3Store(bucket, **known, client_options=client, retry_config=_RETRY)  # type: ignore[arg-type]
    except (exceptions.BaseError, ValueError) as error:
        raise NodeFailure(f"s3://{bucket}: {str(error).splitlines()[0]}") from error


class S3:
    """A source and a target: an object, with a slash at its end all below it, or what matches a pattern."""

    def __init__(self, address: Address, access: S3Access) -> None:
        self._address = address
        # Without the slash at its end, which the library does not know.
        self._key = address.path.strip("/")
        self._is_folder = not self._key or address.path.endswith("/")
        self._store = _store(address.host, access)
        _checked(self._key, address)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def find(self) -> Listing:
        """See the contract."""
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
        # The slash is the library's: what only begins with the folder's name is not below it.
        async for chunk in obstore.list(self._store, prefix=folder or None):
            for found in chunk:
                if found["size"] == 0 and not await self._is_there(found["path"]):
                    continue
                count += 1
                if count > names.FILES_MAX:
                    raise NodeFailure(f"{self._address} has more than {names.FILES_MAX} objects; transfer it in parts")
                below = found["path"][len(folder) + 1 if folder else 0 :]
                yield _entry(found, names.checked(below, self._address))

    async def _is_there(self, key: str) -> bool:
        """Whether the empty object is one. Marks of folders have a slash at their end, which the list hides."""
        try:
            await obstore.head_async(self._store, key)
        except FileNotFoundError:
            return False
        return True

    async def read(self, entry: SourceFile) -> AsyncGenerator[bytes]:
        """See the contract."""
        assert entry.size is not None
        starts = range(0, entry.size, PART_BYTES)
        # One range ahead of what is asked for.
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

    async def is_folder(self) -> bool:
        """See the contract: only by the slash at its end, or as a whole bucket."""
        return self._is_folder

    async def write(self, name: str | None, content: Content) -> None:
        """See the contract."""
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
            # The library throws the parts away when its source fails, and not when it is cancelled itself.
            upload.stop()
            await asyncio.wait([put], timeout=_ABORT_S)
            put.cancel()
            await asyncio.gather(put, return_exceptions=True)
            raise

    def _failure(self, error: Exception, key: str) -> NodeFailure:
        """Why, in the server's own short words: the long ones of the library hold whole requests."""
        place = f"s3://{self._address.host}/{key}"
        text = str(error).partition("\n\nDebug source")[0]
        found, status = _CODE.search(text), _STATUS.search(text)
        code = found[1] if found else ""
        if code == "NoSuchBucket":
            return NodeFailure(f"{place}: there is no such bucket")
        if isinstance(error, FileNotFoundError):
            return NodeFailure(f"{place}: there is no such object; a slash at its end stands for all below it")
        if isinstance(error, exceptions.PreconditionError | exceptions.NotModifiedError):
            return NodeFailure(f"{place} has changed while it was read", may_retry=True)
        if isinstance(error, exceptions.InvalidPathError):
            return NodeFailure(f"{place}: the server lists a name that would lead out of the destination, or is none")
        if isinstance(error, exceptions.PermissionDeniedError | exceptions.UnauthenticatedError):
            why = f"access was refused{f' ({code})' if code else ''}"
            return NodeFailure(f"{place}: {why}; next: look at access-key, secret-key and what they may do")
        if status is not None:
            may_retry = status[1] in ("408", "429") or status[1] >= "500" or code in _MAY_PASS
            return NodeFailure(f"{place}: status {status[1]}{f' ({code})' if code else ''}", may_retry=may_retry)
        if any(path in text for path in _MACHINE_KEYS):
            return NodeFailure(f"{place}: there are no keys; next: give access-key and secret-key, or AWS_* variables")
        if "certificate" in str(error).lower():
            return NodeFailure(
                f"{place}: the server's certificate is not trusted; next: give verify the authority's file"
            )
        return NodeFailure(f"{place}: the server cannot be reached, or answers too late", may_retry=True)


def _entry(found: Any, name: str) -> SourceFile:
    return SourceFile(name=name, key=found["path"], size=found["size"], version=found.get("e_tag"))


def _checked(key: str, address: Address) -> None:
    parts = key.split("/") if key else []
    if any(part in ("", ".", "..") for part in parts) or not key.isprintable():
        raise NodeFailure(f"{address}: {key!r} is no key; empty parts, dots and what cannot be printed are refused")


class _Upload:
    """The content as the library takes it: an iterator that can be stopped from outside, and remembers why it failed."""

    def __init__(self, content: Content) -> None:
        self.content = content
        self.failure: NodeFailure | None = None
        self.beginning = b""
        self._chunks = aiter(content)
        self._step: asyncio.Future[bytes] | None = None
        self._is_stopped = False

    async def is_small(self) -> bool:
        """Whether all of it is in `beginning`: no more than a part."""
        parts: list[bytes] = []
        async for chunk in self._chunks:
            parts.append(chunk)
            if sum(map(len, parts)) > PART_BYTES:
                break
        self.beginning = b"".join(parts)
        return len(self.beginning) <= PART_BYTES

    def stop(self) -> None:
        """Makes the next step fail, and the one that is waited for."""
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
