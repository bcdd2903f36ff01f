"""Which bucket artifacts are in, and the keys for it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

import msgspec

from waterflow_agent.errors import Rejected

#: Names of buckets as S3 allows them, and a prefix of ordinary characters without empty parts, `.` and `..`.
_ADDRESS = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])((?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._-]+)*)/?")
_REGION = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_DEFAULT_REGION = "us-east-1"


class BucketSettings(msgspec.Struct, frozen=True, kw_only=True):
    """A bucket, and how to reach it. The representation does not reveal the secrets."""

    bucket: str
    prefix: str
    #: The service's URL, without a path.
    endpoint: str
    region: str
    access_key_id: str
    secret_access_key: str
    session_token: str = ""
    #: For errors: where the keys are set.
    where: str = "artifacts.access-key-id, artifacts.secret-access-key-file"

    @property
    def address(self) -> str:
        """The bucket and the prefix, for people."""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    def __repr__(self) -> str:
        return f"BucketSettings({self.address!r}, endpoint={self.endpoint!r}, region={self.region!r})"


def parse_address(address: str) -> tuple[str, str]:
    """Bucket and prefix of `s3://bucket/prefix`. Raises `ValueError`."""
    found = _ADDRESS.fullmatch(address)
    if found is None:
        raise ValueError(f"storage: expected s3://bucket/prefix, found {address[:200]!r}")
    return found[1], found[2].strip("/")


def check_endpoint(endpoint: str) -> None:
    """Raises `ValueError` for an endpoint that is not a URL without a path and a login."""
    parts = urlsplit(endpoint)
    is_plain = parts.path in ("", "/") and not (parts.query or parts.fragment or parts.username or parts.password)
    if parts.scheme not in ("http", "https") or not parts.hostname or not is_plain:
        raise ValueError("endpoint: expected a URL without a path and a login, such as https://s3.example.org")


def check_region(region: str) -> None:
    """Raises `ValueError` for what cannot be the name of a region."""
    if not _REGION.fullmatch(region):
        raise ValueError(f"region: expected a name such as eu-central-1, found {region[:64]!r}")


def bucket_settings(
    address: str, *, endpoint: str, region: str, keys: tuple[str, str], environment: Mapping[str, str]
) -> BucketSettings:
    """The settings of the configuration, completed by the usual `AWS_*` variables.

    `keys` are the configured ones, both or none. Raises `Rejected` WF620 if there are none, and `ValueError`.
    """
    bucket, prefix = parse_address(address)
    region = region or environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or _DEFAULT_REGION
    check_region(region)
    endpoint = endpoint or environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL") or ""
    endpoint = endpoint.rstrip("/") or f"https://s3.{region}.amazonaws.com"
    check_endpoint(endpoint)
    common = {"bucket": bucket, "prefix": prefix, "endpoint": endpoint, "region": region}
    if keys[0]:
        return BucketSettings(**common, access_key_id=keys[0], secret_access_key=keys[1])
    access, secret = environment.get("AWS_ACCESS_KEY_ID", ""), environment.get("AWS_SECRET_ACCESS_KEY", "")
    if not (access and secret):
        raise Rejected(
            "WF620",
            f"artifacts.storage: no keys for {address}; next: set artifacts.access-key-id and artifacts.secret-access-key-file,"
            " or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment of the daemon",
        )
    return BucketSettings(
        **common,
        access_key_id=access,
        secret_access_key=secret,
        session_token=environment.get("AWS_SESSION_TOKEN", ""),
        where="AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY",
    )
