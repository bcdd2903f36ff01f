"""The configuration of Vault: its address, and the path and field of each secret."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec

from waterflowd.secrets import values

#: Secrets that the configuration may map to Vault; each distinct path is one request.
FIELDS_MAX = 500
#: How long values may be cached: a rotated one must take effect some time.
CACHE_S_MAX = 3600.0
TIMEOUT_S_MAX = 60.0
_PLAIN = re.compile(r"[A-Za-z0-9._~/-]*")
_PATH = re.compile(r"[A-Za-z0-9._~@:+, -]+(/[A-Za-z0-9._~@:+, -]+)*")
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class VaultField(NamedTuple):
    """The location of a secret: a path below the mount, and a field there."""

    path: str
    name: str


class VaultSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The `[vault]` table, checked."""

    #: `https://host:port`, without a path.
    address: str
    mount: str
    version: int
    namespace: str
    ca_file: str
    #: Empty if a token is configured.
    role_id: str
    approle_mount: str
    timeout_s: float
    cache_s: float
    #: By normalized name.
    fields: Mapping[str, VaultField]


def check(settings: VaultSettings) -> None:
    """Raises `ValueError` whose message begins with the key."""
    parts = urlsplit(settings.address)
    if (
        parts.scheme not in ("https", "http")
        or not parts.hostname
        or parts.path.strip("/")
        or parts.query
        or "@" in parts.netloc
    ):
        raise ValueError("address: expected https://host:port")
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        raise ValueError("address: http would expose the token and the secrets to the network; use https://")
    if settings.version not in (1, 2):
        raise ValueError("kv-version: expected 1 or 2")
    for key, text in (("mount", settings.mount), ("approle-mount", settings.approle_mount)):
        if not text or not _PLAIN.fullmatch(text) or ".." in text:
            raise ValueError(f"{key}: expected the path of an engine, such as secret")
    if not settings.namespace.isascii() or not settings.namespace.isprintable():
        raise ValueError("namespace: expected a path, such as teams/web")
    if not 0.1 <= settings.timeout_s <= TIMEOUT_S_MAX:
        raise ValueError(f"timeout: expected 100ms to {TIMEOUT_S_MAX:g}s")
    if not 5 <= settings.cache_s <= CACHE_S_MAX:
        raise ValueError("cache: expected 5s to 1h")
    if not 1 <= len(settings.fields) <= FIELDS_MAX:
        raise ValueError(f'secrets: expected 1 to {FIELDS_MAX} lines of NAME = "path#field"')


def fields(table: Mapping[str, str]) -> dict[str, VaultField]:
    """The `[vault.secrets]` table, `NAME = "path#field"`; raises `ValueError`."""
    found: dict[str, VaultField] = {}
    for name, text in table.items():
        path, mark, field = text.partition("#")
        is_path = _PATH.fullmatch(path) and not {".", ".."} & set(path.split("/"))
        if not (mark and field and is_path):
            raise ValueError(f'{name}: expected "path#field", such as "apps/web#password", found "{text[:80]}"')
        found[values.normalize_name(name)] = VaultField(path, field)
    return found
