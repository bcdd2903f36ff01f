"""Artifacts in a bucket: the real nodes, relay, server and storage, and an S3 service that verifies signatures."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from tests.integration.agent.test_artifacts import Site
from tests.s3_service import ACCESS_KEY, BUCKET, REGION, SECRET_KEY, S3Service
from tests.unit.artifacts.harness import LIMITS
from waterflow_agent.wire import messages
from waterflowd.app.artifacts.bucket import blocks_in
from waterflowd.artifacts.blocks import scope_of
from waterflowd.artifacts.bucket import checking
from waterflowd.artifacts.bucket.cleaning import BucketCleaner
from waterflowd.artifacts.bucket.settings import BucketSettings
from waterflowd.artifacts.bucket.storage import READERS, BucketStorage
from waterflowd.artifacts.storage import StoreThreads
from waterflowd.artifacts.store import ArtifactStore
from waterflowd.model.ids import AgentId, RunId
from waterflowd.testing.awaiting import until
from waterflowd.testing.host import HostHarness

#: Of a request that no agent sends.
_NUMBER = 1


def settings_of(service: S3Service, **changes: Any) -> BucketSettings:
    """How to reach the service."""
    known = BucketSettings(
        bucket=BUCKET,
        prefix="some/prefix",
        endpoint=service.endpoint,
        region=REGION,
        access_key_id=ACCESS_KEY,
        secret_access_key=SECRET_KEY,
    )
    return msgspec.structs.replace(known, **changes)


class BucketSite(Site):
    """A daemon with a bucket, an agent's relay, and a step's directories."""

    def __init__(self, host: HostHarness, storage: BucketStorage, service: S3Service, folder: Path) -> None:
        super().__init__(host, storage.store, folder)
        self.storage = storage
        self.service = service
        self.cleaner = BucketCleaner(storage.store, storage)

    @property
    def scope(self) -> str:
        """The scope of the blocks of the step's run."""
        return scope_of("ops", RunId(self.key.attempt.run))

    async def ask(self, action: messages.ArtifactAction) -> messages.ArtifactResponse:
        """What the daemon answers to the agent."""
        answers: list[messages.ArtifactResponse] = []
        received = self.host.link.watch

        def watch(agent: AgentId, message: messages.DaemonMessage) -> None:
            if isinstance(message, messages.ArtifactResponse) and message.number == _NUMBER:
                answers.append(message)

        self.host.link.watch = watch
        try:
            self.host.agents.artifact_requested(self.agent, messages.ArtifactRequest(self.key, _NUMBER, action))
            await until(lambda: answers)
        finally:
            self.host.link.watch = received
        return answers[0]

    def arrived_of(self, kind: type) -> int:
        """How many requests of a kind have reached the daemon."""
        return sum(isinstance(asked.action, kind) for asked in self.arrived)


def new_storage(service: S3Service, folder: Path) -> BucketStorage:
    """A storage that has not been checked yet."""
    store = ArtifactStore(folder / "artifacts", LIMITS)
    blocks = blocks_in(settings_of(service))
    store.read_from_bucket = blocks.get_now
    return BucketStorage(store, blocks, StoreThreads(READERS))


@asynccontextmanager
async def bucket_site(service: S3Service, folder: Path) -> AsyncIterator[BucketSite]:
    """A site whose bucket has been checked, as at the start of a daemon."""
    storage = new_storage(service, folder)
    assert await checking.try_once(storage, storage.store.root)
    async with HostHarness(artifacts=storage.store, artifact_storage=storage) as host:
        site = BucketSite(host, storage, service, folder)
        await site.start()
        service.seen.clear()
        yield site
        await site.relay.close()
