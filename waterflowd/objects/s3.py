"""Objects in a bucket of S3 or a compatible service, with the library of the Rust ecosystem (obstore, an extra).

Credentials, region and endpoint come from the usual `AWS_*` variables, else from the cloud machine. A stored object is durable
and visible to every daemon when the service has answered: S3 is strongly consistent.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import timedelta
from typing import Any

import msgspec
import obstore
from obstore import exceptions
from obstore.store import S3Store

from waterflow_agent.errors import Retryable
from waterflowd.model.records import StoredObject

#: Retries of the library; longer outages are the caller's.
_RETRY: Any = {
    "max_retries": 3,
    "retry_timeout": timedelta(seconds=30),
    "backoff": {"init_backoff": timedelta(milliseconds=200), "max_backoff": timedelta(seconds=5), "base": 2},
}
_CONNECT_S, _REQUEST_S = 10, 60
_DENIED = (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError)
#: Objects in one page of a list, which is one request.
_PAGE = 1_000
#: Codes of errors that say what to correct.
_REASONS = {
    "NoSuchBucket": "no such bucket; create it",
    "RequestTimeTooSkewed": "the clock of this machine is wrong; set it, for example with NTP",
    "PermanentRedirect": "the bucket is in another region; set its region",
    "AuthorizationHeaderMalformed": "the bucket is in another region; set its region",
    "QuotaExceeded": "its quota is used up; remove something, or raise the quota",
    "XMinioStorageFull": "its storage is full; free some space there",
}
_CODE = re.compile(r"<Code>(\w{1,60})</Code>")
_STATUS = re.compile(r"status code:? (\d{3})|HTTP status \w+ error \((\d{3})")


class S3Keys(msgspec.Struct, frozen=True, kw_only=True):
    """How to sign requests. The representation does not reveal the secrets."""

    access_key_id: str
    secret_access_key: str
    session_token: str = ""
    region: str
    #: For the error of a refused request: where the keys are set.
    where: str

    def __repr__(self) -> str:
        return f"S3Keys(access_key_id={self.access_key_id!r}, region={self.region!r})"


class S3Objects:
    """Implements `ports.Objects` and `ports.BucketObjects`."""

    def __init__(
        self, bucket: str, prefix: str = "", *, endpoint: str | None = None, keys: S3Keys | None = None
    ) -> None:
        """`endpoint` is the service's URL; without one it is Amazon's, or that of the environment, as are the keys."""
        self._where = "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY" if keys is None else keys.where
        self._address = f"s3://{bucket}/{prefix}".rstrip("/")
        options: dict[str, Any] = {
            "connect_timeout": timedelta(seconds=_CONNECT_S),
            "timeout": timedelta(seconds=_REQUEST_S),
            "allow_http": bool(endpoint and endpoint.startswith("http://")),
        }
        known: dict[str, Any] = {} if endpoint is None else {"endpoint": endpoint}
        if keys is not None:
            known |= {
                "region": keys.region,
                "access_key_id": keys.access_key_id,
                "secret_access_key": keys.secret_access_key,
            }
            if keys.session_token:
                known["session_token"] = keys.session_token
        self._store = S3Store(bucket, prefix=prefix or None, client_options=options, retry_config=_RETRY, **known)  # type: ignore[arg-type]

    async def put(self, key: str, content: bytes) -> None:
        """See `ports.Objects`."""
        with self._failures():
            await obstore.put_async(self._store, key, content, use_multipart=False)

    async def get(self, key: str) -> bytes | None:
        """See `ports.Objects`."""
        with self._failures():
            try:
                found = await obstore.get_async(self._store, key)
                return bytes(await found.bytes_async())
            except FileNotFoundError as error:
                if _is_object_missing(error):
                    return None
                raise

    def get_now(self, key: str) -> bytes | None:
        """See `ports.BucketObjects`."""
        with self._failures():
            try:
                return bytes(obstore.get(self._store, key).bytes())
            except FileNotFoundError as error:
                if _is_object_missing(error):
                    return None
                raise

    async def names(self, folder: str) -> list[str]:
        """See `ports.Objects`."""
        with self._failures():
            found = await obstore.list_with_delimiter_async(self._store, prefix=folder)
        return sorted(item["path"].rpartition("/")[2] for item in found["objects"])

    async def folders(self, folder: str) -> list[str]:
        """See `ports.BucketObjects`."""
        with self._failures():
            found = await obstore.list_with_delimiter_async(self._store, prefix=folder)
        return sorted(path.rstrip("/").rpartition("/")[2] for path in found["common_prefixes"])

    async def create(self, key: str, content: bytes) -> bool:
        """See `ports.BucketObjects`."""
        with self._failures():
            try:
                await obstore.put_async(self._store, key, content, mode="create", use_multipart=False)
            except (FileExistsError, exceptions.AlreadyExistsError, exceptions.PreconditionError):
                return False
        return True

    async def size(self, key: str) -> int | None:
        """See `ports.BucketObjects`."""
        with self._failures():
            try:
                return (await obstore.head_async(self._store, key))["size"]
            except FileNotFoundError:
                return None

    async def pages(self, folder: str) -> AsyncIterator[list[StoredObject]]:
        """See `ports.BucketObjects`."""
        with self._failures():
            async for page in obstore.list(self._store, prefix=folder, chunk_size=_PAGE):
                yield [
                    StoredObject(item["path"].rpartition("/")[2], item["size"], item["last_modified"]) for item in page
                ]

    async def delete(self, keys: Sequence[str]) -> None:
        """See `ports.BucketObjects`."""
        with self._failures(), contextlib.suppress(FileNotFoundError):
            await obstore.delete_async(self._store, list(keys))

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        """Raises `Retryable` for errors of the library."""
        try:
            yield
        except (exceptions.BaseError, OSError) as error:
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> Retryable:
        """The error for people; messages of the library contain whole requests."""
        text, code = str(error).partition("\n\nDebug source")[0], _code(error)
        found = _STATUS.search(text)
        status = (found[1] or found[2]) if found else ""
        if code in _REASONS:
            reason = _REASONS[code]
        elif status in ("401", "403") or isinstance(error, _DENIED):
            denied = f"access denied ({code})" if code else "access denied"
            reason = f"{denied}; check {self._where} and the policy"
        elif status:
            reason = f"status {status} ({code})" if code else f"status {status}"
        elif "certificate" in text.lower():
            reason = "the certificate of its server is not trusted; add its authority to the system's certificates"
        elif "/latest/" in text:
            # The metadata service, where cloud machines get credentials, is the last source that is tried.
            reason = "no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        else:
            reason = "its server cannot be reached, or did not answer in time"
        return Retryable("WF322", f"the object storage {self._address} cannot be used: {reason}")


def _is_object_missing(error: FileNotFoundError) -> bool:
    """Whether the object is missing, and not its bucket."""
    return _code(error) in ("", "NoSuchKey")


def _code(error: Exception) -> str:
    found = _CODE.search(str(error))
    return found[1] if found else ""
