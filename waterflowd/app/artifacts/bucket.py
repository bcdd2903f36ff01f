"""The bucket of `artifacts.storage`: opens it, and checks it for `check-config --connect`.

The library for it is an extra, so it is imported only when it is needed.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from waterflow_agent.errors import Rejected, Retryable
from waterflowd.app.config import Config
from waterflowd.artifacts.bucket.blocks import BucketBlocks
from waterflowd.artifacts.bucket.settings import BucketSettings, bucket_settings
from waterflowd.artifacts.storage import StoreThreads
from waterflowd.artifacts.store import ArtifactStore
from waterflowd.secrets import key_file
from waterflowd.store import layout

if TYPE_CHECKING:
    from waterflowd.artifacts.bucket.cleaning import BucketCleaner
    from waterflowd.artifacts.bucket.storage import BucketStorage


def open_bucket(config: Config) -> BucketBlocks | None:
    """The bucket; None if artifacts are in the data directory. Nothing is read or written yet.

    Raises `Rejected` WF620 for missing keys and without the library, and WF622 for the file of the key.
    """
    if not config.artifacts.storage:
        return None
    settings = _settings(config)
    try:
        return blocks_in(settings)
    except ImportError as error:
        # With this Python: elsewhere, the public index has another project of the name.
        command = f"{sys.executable} -m pip install 'waterflow[s3]'"
        text = f"artifacts.storage: {config.artifacts.storage} needs the library obstore; next: {command}"
        raise Rejected("WF620", text) from error


def blocks_in(settings: BucketSettings) -> BucketBlocks:
    """The blocks in a bucket. Raises `ImportError` without the library."""
    from waterflowd.objects.s3 import S3Keys, S3Objects

    keys = S3Keys(
        access_key_id=settings.access_key_id,
        secret_access_key=settings.secret_access_key,
        session_token=settings.session_token,
        region=settings.region,
        where=settings.where,
    )
    objects = S3Objects(settings.bucket, settings.prefix, endpoint=settings.endpoint, keys=keys)
    return BucketBlocks(objects, settings, time.time)


class ConnectedBucket(NamedTuple):
    """The parts of artifacts in a bucket."""

    storage: BucketStorage
    cleaner: BucketCleaner
    #: Runs as long as the daemon.
    prepare: Callable[[], Coroutine[Any, Any, None]]


def connect(config: Config, store: ArtifactStore) -> ConnectedBucket | None:
    """Connects the store with the configured bucket; None without one. Raises the errors of `open_bucket`."""
    blocks = open_bucket(config)
    if blocks is None:
        return None
    from waterflowd.artifacts.bucket import checking
    from waterflowd.artifacts.bucket.cleaning import BucketCleaner
    from waterflowd.artifacts.bucket.storage import READERS, BucketStorage

    storage = BucketStorage(store, blocks, StoreThreads(READERS))
    store.read_from_bucket = blocks.get_now
    return ConnectedBucket(storage, BucketCleaner(store, storage), lambda: checking.prepare(storage, store.root))


def check_bucket(config: Config) -> tuple[bool, str]:
    """Tries everything that artifacts need from the configured bucket. Returns whether it can be used, and a line for people.

    Raises the errors of `open_bucket`.
    """
    blocks = open_bucket(config)
    assert blocks is not None, "only called with artifacts.storage"
    from waterflowd.artifacts.bucket import checking

    try:
        root = Path(config.data_dir) / layout.ARTIFACT_DIRECTORY
        is_verified = asyncio.run(checking.check(blocks, root, claims=False))
    except Retryable as error:
        return False, f"{error.text} [{error.code}]"
    except OSError as error:
        return False, f"{error.filename} cannot be read: {error.strerror}; run this command as the user of the daemon"
    note = "" if is_verified else f"; {checking.NOT_VERIFIED}"
    return True, f"connected to {blocks.settings.address} at {blocks.settings.endpoint}{note}"


def _settings(config: Config) -> BucketSettings:
    table = config.artifacts
    secret = ""
    if table.secret_access_key_file:
        key = "artifacts.secret-access-key-file"
        secret = key_file.read(Path(table.secret_access_key_file), key, Path(config.data_dir)).strip()
        if not secret:
            raise Rejected(
                "WF622", f"{key}: {table.secret_access_key_file} is empty; it must contain the secret of the key"
            )
    try:
        return bucket_settings(
            table.storage,
            endpoint=table.endpoint,
            region=table.region,
            keys=(table.access_key_id, secret),
            environment=os.environ,
        )
    except ValueError as error:
        raise Rejected("WF620", f"artifacts.{error}") from None
