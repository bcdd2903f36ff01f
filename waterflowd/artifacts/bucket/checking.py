"""Whether the bucket can be used: everything that artifacts need is tried once, with small objects.

The bucket has a mark, `owner`, with the identity of the data directory that uses it: a daemon removes the blocks that it does
not know, so two must not share a prefix. The identity is a file that backups leave out. So a daemon that was restored elsewhere
stops here until somebody has decided.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import secrets
import socket
import ssl
from datetime import UTC, datetime
from pathlib import Path

import httpx
import msgspec

from waterflow_agent.display import escape_for_display
from waterflow_agent.errors import Retryable
from waterflowd.artifacts.bucket.blocks import BucketBlocks
from waterflowd.artifacts.bucket.signing import content_headers, sign
from waterflowd.artifacts.bucket.storage import BucketStorage
from waterflowd.durability import sync_directory

logger = logging.getLogger("waterflow.artifacts")

#: Between two tries while the bucket cannot be used.
RETRY_S = 15.0
#: After a success there is no next one.
_NEVER_S = 1e9
NOT_VERIFIED = (
    "its service does not compare the SHA-256 of what is stored (x-amz-checksum-sha256), so steps send content to the daemon, "
    "which does"
)
_OWNER = "owner"
_VALID_S = 60
_TIMEOUT_S = 20.0


class Owner(msgspec.Struct, frozen=True):
    """The mark in the bucket."""

    id: str
    host: str
    data_dir: str
    since: str


async def prepare(storage: BucketStorage, root: Path) -> None:
    """Checks the bucket until it can be used, and never ends. Artifacts are refused with the reason until then."""
    while True:
        is_usable = await try_once(storage, root)
        await asyncio.sleep(_NEVER_S if is_usable else RETRY_S)


async def try_once(storage: BucketStorage, root: Path) -> bool:
    """Checks the bucket, and tells the storage; returns whether it can be used."""
    try:
        storage.has_verified_uploads = await check(storage.blocks, root)
    except (Retryable, OSError) as error:
        if not storage.is_checked.is_set():
            logger.error("artifacts cannot be stored or fetched: %s", error)
        storage.problem = error.text if isinstance(error, Retryable) else str(error)
        storage.is_checked.set()
        return False
    storage.problem = ""
    storage.is_checked.set()
    address = storage.blocks.settings.address
    if storage.has_verified_uploads:
        logger.info("artifacts are in %s", address)
    else:
        logger.warning("artifacts are in %s; %s", address, NOT_VERIFIED)
    return True


async def check(blocks: BucketBlocks, root: Path, *, claims: bool = True) -> bool:
    """Tries everything. Returns whether the service compares checksums. Raises `Retryable` WF322 with what to correct.

    With `claims`, a prefix without a mark gets that of this data directory.
    """
    key = f"check/{secrets.token_hex(8)}"
    content = os.urandom(64)
    await blocks.objects.put(key, content)
    try:
        if await blocks.objects.size(key) != len(content):
            raise _problem(blocks, "it has not what was stored a moment ago")
        await blocks.objects.names("check")
        is_verified = await _try_addresses(blocks, key, content)
    finally:
        await blocks.objects.delete([key])
    if await blocks.objects.size(key) is not None:
        raise _problem(blocks, "objects cannot be removed; permit s3:DeleteObject")
    await _check_owner(blocks, root, claims=claims)
    return is_verified


async def _try_addresses(blocks: BucketBlocks, key: str, content: bytes) -> bool:
    """Reads and stores as agents do, and tries to store something else than the signed content."""
    headers = content_headers(hashlib.sha256(content).digest(), len(content))
    async with httpx.AsyncClient(verify=ssl.create_default_context(), timeout=_TIMEOUT_S) as client:
        for method, body, signed in (("GET", None, {}), ("PUT", content, headers)):
            url = sign(blocks.settings, method, key, signed, now_s=blocks.wall_s(), valid_s=_VALID_S)
            response = await _request(blocks, client, method, url, body, signed)
            if response.status_code != httpx.codes.OK:
                code = response.text.partition("<Code>")[2].partition("</Code>")[0]
                reason = f"status {response.status_code} ({escape_for_display(code, 60)}) for a signed address"
                raise _problem(blocks, f"{reason}; check its endpoint and region")
        other = bytes(len(content))
        url = sign(blocks.settings, "PUT", key, headers, now_s=blocks.wall_s(), valid_s=_VALID_S)
        return (await _request(blocks, client, "PUT", url, other, headers)).is_client_error


async def _request(
    blocks: BucketBlocks, client: httpx.AsyncClient, method: str, url: str, body: bytes | None, headers: dict[str, str]
) -> httpx.Response:
    try:
        return await client.request(method, url, content=body, headers=headers)
    except httpx.HTTPError as error:
        # The text of the error is the system's; the address, which is a secret for a minute, is not in it.
        raise _problem(blocks, f"its server cannot be reached at a signed address: {type(error).__name__}") from None


async def _check_owner(blocks: BucketBlocks, root: Path, *, claims: bool) -> None:
    mine = await asyncio.to_thread(_identity, root, creates=claims)
    since = datetime.fromtimestamp(blocks.wall_s(), UTC).isoformat(timespec="seconds")
    mark = Owner(mine, socket.gethostname(), str(root.parent), since)
    found = await blocks.objects.get(_OWNER)
    if found is None:
        if not claims:
            return
        if await blocks.objects.create(_OWNER, msgspec.json.encode(mark)):
            return
        found = await blocks.objects.get(_OWNER)
    try:
        owner = msgspec.json.decode(found or b"", type=Owner)
    except msgspec.MsgspecError:
        raise _problem(blocks, f"the object {_OWNER} in it is not Waterflow's; choose another prefix") from None
    if owner.id != mine:
        other = escape_for_display(f"{owner.data_dir} on {owner.host}", 300)
        raise _problem(
            blocks,
            f"it belongs to the daemon with the data directory {other}, since {escape_for_display(owner.since, 40)}. Each "
            "daemon removes blocks that it does not know, so two must not share a prefix. Choose another prefix; or, if that "
            "daemon does not run any longer, for example after a restore, remove the object "
            f"{blocks.settings.address}/{_OWNER}",
        )


def _identity(root: Path, *, creates: bool) -> str:
    """The identity of the data directory; empty if it has none and none is created."""
    path = root / "bucket-identity"
    try:
        return path.read_text("ascii").strip()
    except FileNotFoundError:
        if not creates:
            return ""
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = path.with_suffix(".new")
        identity = secrets.token_hex(16)
        with open(
            os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w", encoding="ascii"
        ) as file:
            file.write(identity + "\n")
            file.flush()
            os.fsync(file.fileno())
        new.rename(path)
        sync_directory(root)
        return identity


def _problem(blocks: BucketBlocks, reason: str) -> Retryable:
    return Retryable("WF322", f"the object storage {blocks.settings.address} cannot be used: {reason}")
