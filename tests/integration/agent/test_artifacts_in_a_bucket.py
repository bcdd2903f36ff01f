"""Artifacts in a bucket: steps transfer directly, with addresses that permit exactly that; failures, and who may read what."""

from __future__ import annotations

import asyncio
import hashlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import msgspec
import pytest

from tests import s3_service
from tests.integration.agent.bucket_site import BucketSite, bucket_site, new_storage, settings_of
from tests.integration.agent.test_artifacts import various
from tests.s3_service import Refusal, S3Service
from tests.unit.artifacts.harness import LIMITS, NOW, OTHER, SCOPE, Prepared, attempt
from waterflow_agent.errors import Rejected, Retryable, Stalled
from waterflow_agent.nodes.artifacts import bucket as bucket_client
from waterflow_agent.nodes.node import NodeFailure
from waterflow_agent.wire import messages
from waterflowd.app.artifacts.bucket import blocks_in
from waterflowd.artifacts import files as artifact_files
from waterflowd.artifacts import server as server_module
from waterflowd.artifacts.bucket import checking
from waterflowd.artifacts.reading import ArtifactReader
from waterflowd.artifacts.reruns import KeptArtifacts
from waterflowd.host.history import LogHistory
from waterflowd.model.ids import RunId
from waterflowd.time_slices import TimeSlices

LARGE = {"dist/a": b"a" * 300_000, "dist/b": b"b" * 300_000}


@pytest.fixture
def service() -> Iterator[S3Service]:
    with s3_service.serving() as running:
        yield running


@pytest.fixture
async def site(service: S3Service, tmp_path: Path) -> AsyncIterator[BucketSite]:
    async with bucket_site(service, tmp_path) as made:
        yield made


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket_client, "_PAUSES_S", (0.01,) * 5)


def refuse(status: int, code: str, *, times: int, method: str = "PUT") -> Callable[[str, str, bool], None]:
    """Refuses the first requests of agents."""
    left = times

    def decide(found: str, key: str, is_signed_address: bool) -> None:
        nonlocal left
        if is_signed_address and found == method and left > 0:
            left -= 1
            raise Refusal(status, code)

    return decide


def run_of(site: BucketSite) -> RunId:
    return RunId(site.key.attempt.run)


async def test_files_go_to_the_bucket_and_come_from_it_directly(site: BucketSite) -> None:
    """The daemon carries no content of them, in either direction; the files arrive as they were."""
    site.write(various())

    outputs = await site.upload(name="site", path="dist/")
    await site.download(name="site", path="out")

    record = site.store.of_run(run_of(site), 0)[0]
    content = {digest.hex() for digest in site.store.table(record).digests()}
    stored = {seen.key.rpartition("/")[2] for seen in site.service.of_agents("PUT")}
    assert site.read("out") == site.read("dist")
    assert outputs["digest"] == f"sha256:{record.digest.hex()}"
    assert content < stored
    assert {seen.key.rpartition("/")[2] for seen in site.service.of_agents("GET")} == content
    assert site.arrived_of(messages.StoreBlock) == 0
    assert record.is_in_bucket
    assert {digest.hex() for _, digest, _ in site.store.blocks.listed()} == {
        digest.hex() for digest in (*record.table, *record.listing)
    }


async def test_what_the_bucket_has_is_not_sent_again(site: BucketSite) -> None:
    """Equal content of a repository is stored once, also in a bucket."""
    site.write(various())
    await site.upload(name="site", path="dist/")
    site.service.seen.clear()

    outputs = await site.upload(name="again", path="dist/")

    assert outputs["files"] == len(various())
    assert site.service.of_agents("PUT") == []


@pytest.mark.parametrize("every", [2, 3])
async def test_lost_requests_are_repeated_in_the_next_session(site: BucketSite, every: int) -> None:
    """Nothing is lost when the daemon was away: addresses are asked for again."""
    site.write(various(20))
    site.loses_every = every

    await site.upload(name="site", path="dist/")
    await site.download(name="site", path="out")

    assert site.lost
    assert site.read("out") == site.read("dist")


async def test_an_address_that_has_expired_is_replaced(site: BucketSite) -> None:
    """A slow or paused step comes too late; the service then refuses, and the daemon signs again."""
    site.write(LARGE)
    site.service.refuse = refuse(403, "AccessDenied", times=2)
    await site.upload(name="site", path="dist/")
    site.service.refuse = refuse(403, "AccessDenied", times=2, method="GET")

    await site.download(name="site", path="out")

    assert site.read("out") == site.read("dist")
    assert [seen.status for seen in site.service.of_agents("GET")].count(403) == 2


async def test_an_address_stores_one_content_and_nothing_else(site: BucketSite) -> None:
    """Other content, another key, another method, without the checksum, and after its time: the service refuses all of them."""
    digest, block = next(iter(Prepared("x", {"a": b"content"}).blocks.items()))
    found = await site.storage.find(SCOPE, messages.FindBlocks([digest], [len(block)]), lambda size: None)
    (address,) = found.addresses
    bare = {name: value for name, value in address.headers.items() if name == "content-length"}
    async with httpx.AsyncClient() as client:

        async def status(method: str, url: str, content: bytes, headers: dict[str, str]) -> int:
            return (await client.request(method, url, content=content, headers=headers)).status_code

        assert await status("PUT", address.url, bytes(len(block)), address.headers) == 400
        other = {**address.headers, **dict(s3_headers(bytes(len(block))))}
        assert await status("PUT", address.url, bytes(len(block)), other) == 403
        assert await status("PUT", address.url, block, bare) == 403
        elsewhere = address.url.replace(digest.hex(), hashlib.sha256(b"?").hexdigest())
        assert await status("PUT", elsewhere, block, address.headers) == 403
        assert await status("GET", address.url, block, address.headers) == 403
        assert await status("DELETE", address.url, block, address.headers) == 403
        site.service.ahead = timedelta(minutes=6)
        assert await status("PUT", address.url, block, address.headers) == 403
        site.service.ahead = timedelta()
        assert site.service.keys("some/prefix/blocks") == []
        assert await status("PUT", address.url, block, address.headers) == 200


def s3_headers(content: bytes) -> list[tuple[str, str]]:
    from waterflowd.artifacts.bucket.signing import content_headers

    return list(content_headers(hashlib.sha256(content).digest(), len(content)).items())


async def test_a_server_that_does_not_reach_the_bucket_uses_the_daemon(
    site: BucketSite, capfd: pytest.CaptureFixture[str]
) -> None:
    """With one warning that names the endpoint; the files arrive."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
    site.storage.blocks.settings = settings_of(site.service, endpoint=endpoint)
    site.write(LARGE)

    await site.upload(name="site", path="dist/")
    await site.download(name="site", path="out")

    warnings = [line for line in capfd.readouterr().err.splitlines() if "goes through the daemon" in line]
    assert len(warnings) == 2
    assert all(endpoint in line for line in warnings)
    assert site.read("out") == site.read("dist")
    assert site.service.of_agents("PUT") == site.service.of_agents("GET") == []
    assert site.store.of_run(run_of(site), 0)[0].is_in_bucket


async def test_without_checksums_of_the_service_the_daemon_stores(service: S3Service, tmp_path: Path) -> None:
    """Otherwise an agent could store something else than it said; steps still read directly."""
    service.verifies_checksums = False
    async with bucket_site(service, tmp_path) as site:
        site.write(LARGE)
        await site.upload(name="site", path="dist/")
        await site.download(name="site", path="out")

        assert site.read("out") == site.read("dist")
        assert service.of_agents("PUT") == []
        assert service.of_agents("GET") != []


async def test_an_older_agent_sends_content_to_the_daemon(site: BucketSite) -> None:
    """Its requests lack the new fields; it gets the same answers as without a bucket."""
    prepared = Prepared("site", {"a": b"one", "b": b"two"})
    digests = list(prepared.blocks)
    name = attempt(run_of(site))
    allowed: list[int] = []
    assert await site.storage.find(SCOPE, messages.FindBlocks(digests), allowed.append) == messages.MissingBlocks(
        list(range(len(digests)))
    )
    for digest, block in prepared.blocks.items():
        await site.storage.put(SCOPE, messages.StoreBlock(digest, block))

    record = await site.storage.commit(name, SCOPE, prepared.commit, NOW)

    asked = messages.ReadBlock("site", record.digest, messages.ArtifactPart.CONTENT, 0)
    assert await site.storage.read(record, site.store.table(record), asked) == messages.BlockRead(b"onetwo")
    assert allowed == []
    with pytest.raises(Rejected, match="WF331"):
        await site.storage.put(SCOPE, messages.StoreBlock(digests[0], b"something else"))


async def test_a_commit_of_blocks_that_the_bucket_does_not_have_is_refused(site: BucketSite) -> None:
    """An agent only says that it has stored them: each is looked for, whichever is missing, and its size compared."""
    prepared = Prepared("site", LARGE)
    for digest, block in prepared.blocks.items():
        await site.storage.put(SCOPE, messages.StoreBlock(digest, block))
    # The list of files first: once the daemon has fetched it, it does not need the bucket's any longer.
    content = [digest for digest in prepared.blocks if digest not in prepared.commit.table]
    for digest in reversed(content):
        key, block = f"some/prefix/blocks/{SCOPE}/{digest.hex()}", prepared.blocks[digest]
        site.service.remove(key)
        with pytest.raises(Rejected, match="WF333"):
            await site.storage.commit(attempt(), SCOPE, prepared.commit, NOW)
        assert site.store.records.runs() == []
        site.service.put(key, block)
    largest = max(prepared.blocks, key=lambda digest: len(prepared.blocks[digest]))
    site.service.put(f"some/prefix/blocks/{SCOPE}/{largest.hex()}", b"short")
    with pytest.raises(Rejected, match="WF331"):
        await site.storage.commit(attempt(), SCOPE, prepared.commit, NOW)


async def test_blocks_that_were_removed_before_the_commit_are_sent_again(site: BucketSite) -> None:
    """A cleaner, or somebody with access to the bucket, came in between."""
    site.write(LARGE)
    removed: list[str] = []

    def decide(method: str, key: str, is_signed_address: bool) -> None:
        # The daemon looks for what the commit names: one block is gone, once.
        if method == "HEAD" and not removed and len(site.service.of_agents("PUT")) >= 4:
            removed.append(key)
            site.service.remove(key)

    site.service.refuse = decide

    await site.upload(name="site", path="dist/")
    await site.download(name="site", path="out")

    assert removed
    assert site.read("out") == site.read("dist")


@pytest.mark.parametrize(
    ("status", "code", "text"),
    [
        (507, "XMinioStorageFull", r"status 507 \(XMinioStorageFull\)"),
        (503, "SlowDown", r"status 503 \(SlowDown\)"),
    ],
)
async def test_a_full_or_broken_service_fails_the_step_and_a_retry_may_help(
    site: BucketSite, status: int, code: str, text: str
) -> None:
    """It is tried several times first; nothing can be seen of the artifact."""
    site.write(LARGE)
    site.service.refuse = refuse(status, code, times=1_000)
    with pytest.raises(NodeFailure, match=text) as caught:
        await site.upload(name="site", path="dist/")
    assert caught.value.may_retry
    assert site.store.of_run(run_of(site), 0) == []

    site.service.refuse = refuse(status, code, times=3)
    await site.upload(name="site", path="dist/")


async def test_a_denied_transfer_fails_with_what_to_check(site: BucketSite) -> None:
    """Three addresses in turn were refused, so it is not their time."""
    site.write(LARGE)
    await site.upload(name="site", path="dist/")
    site.service.refuse = refuse(403, "AccessDenied", times=1_000, method="GET")

    with pytest.raises(Rejected, match=r"403 \(AccessDenied\).*check the policy"):
        await site.download(name="site", path="out")

    assert not list((site.workspace / "out").iterdir())


async def test_a_damaged_object_leaves_the_destination_as_it_was(site: BucketSite) -> None:
    """The step computes the SHA-256 itself."""
    site.write({**LARGE, "out/a": b"old"})
    await site.upload(name="site", path="dist/")
    record = site.store.of_run(run_of(site), 0)[0]
    key = f"some/prefix/blocks/{record.scope}/{site.store.table(record).digest(1).hex()}"
    site.service.put(key, b"?" * 10)

    with pytest.raises(Rejected, match="WF762"):
        await site.download(name="site", path="out")

    assert site.read("out") == {"a": b"old"}


async def test_addresses_are_only_for_artifacts_of_the_run(site: BucketSite) -> None:
    """Another run's artifact, also of the same repository, cannot be named; nor a block that it does not have."""
    other = Prepared("secret", LARGE)
    scope = site.scope
    for digest, block in other.blocks.items():
        await site.storage.put(scope, messages.StoreBlock(digest, block))
    record = await site.storage.commit(attempt(OTHER), scope, other.commit, NOW)
    site.write({"a": b"mine"})
    await site.upload(name="mine", path="a")
    mine = site.store.of_run(run_of(site), 0)[0]

    for asked in (
        messages.ReadBlock("secret", record.digest, messages.ArtifactPart.CONTENT, 0, 64),
        messages.ReadBlock("mine", record.digest, messages.ArtifactPart.CONTENT, 0, 64),
        messages.ReadBlock("mine", mine.digest, messages.ArtifactPart.CONTENT, 1, 64),
    ):
        answer = await site.ask(asked)
        assert (answer.code, answer.result) == ("WF334", None), asked
    found = (await site.ask(messages.ReadBlock("mine", mine.digest, messages.ArtifactPart.CONTENT, 0, 64))).result
    assert isinstance(found, messages.BlockAddresses)
    assert len(found.blocks) == 1
    assert f"/blocks/{scope}/{site.store.table(mine).digest(0).hex()}?" in found.blocks[0].url


async def test_blocks_of_caches_are_in_the_data_directory(site: BucketSite) -> None:
    """Whatever the storage of artifacts is."""
    blocks = Prepared("x", {"a": b"of a cache"}).blocks
    digests = list(blocks)
    every = messages.MissingBlocks(list(range(len(digests))))
    assert (await site.ask(messages.FindBlocks(digests, [], is_for_cache=True))).result == every

    for digest, block in blocks.items():
        stored = await site.ask(messages.StoreBlock(digest, block, is_for_cache=True))
        assert stored.result == messages.ArtifactAccepted()

    found = (await site.ask(messages.FindBlocks(digests, [], is_for_cache=True))).result
    assert found == messages.MissingBlocks([])
    assert {digest for _, digest, _ in site.store.blocks.listed()} == set(digests)
    assert site.service.keys("some/prefix/blocks") == []


async def test_limits_count_what_agents_store_by_themselves(site: BucketSite, monkeypatch: pytest.MonkeyPatch) -> None:
    """All artifacts together, before an address is given; and what one attempt stores."""
    site.write(LARGE)
    site.store.limits = msgspec.structs.replace(LIMITS, total_bytes=400_000)
    with pytest.raises(NodeFailure, match=r"artifacts\.max-bytes"):
        await site.upload(name="site", path="dist/")
    assert site.service.of_agents("PUT") == []

    digests = [hashlib.sha256(bytes([number])).digest() for number in range(4)]
    sizes = [messages.ARTIFACT_BLOCK_BYTES_MAX] * len(digests)
    monkeypatch.setattr(server_module, "_ATTEMPT_SLACK_BYTES", 3 * sum(sizes))
    site.store.limits = msgspec.structs.replace(LIMITS, artifact_bytes=1)
    for _ in range(2):
        assert (await site.ask(messages.FindBlocks(digests, sizes))).code == ""
    assert "artifact-max-bytes" in (await site.ask(messages.FindBlocks(digests, sizes))).text


async def test_the_cleaner_removes_what_no_artifact_has_after_a_day(site: BucketSite) -> None:
    """Content of artifacts, and what was stored today, stays."""
    site.write(LARGE)
    await site.upload(name="kept", path="dist/a")
    await site.upload(name="gone", path="dist/b")
    now = datetime.now(UTC)
    kept = {digest.hex() for digest in site.store.table(site.store.of_run(run_of(site), 0)[1]).digests()}
    site.store.records.remove(run_of(site), "gone")
    assert await site.cleaner.round(now) == 0
    site.service.age(timedelta(days=2))
    young = Prepared("young", {"x": b"young"})
    digest, block = next(iter(young.blocks.items()))
    await site.storage.put(SCOPE, messages.StoreBlock(digest, block))

    removed = await site.cleaner.round(now)

    left = {key.rpartition("/")[2] for key in site.service.keys("some/prefix/blocks")}
    assert removed >= 300_000
    assert left == {*kept, digest.hex()}
    await site.download(name="kept", path="out")


async def test_the_cleaner_keeps_blocks_of_a_commit_that_came_meanwhile(site: BucketSite) -> None:
    """It has read the records before; then it looks again."""
    prepared = Prepared("late", LARGE)
    for digest, block in prepared.blocks.items():
        await site.storage.put(site.scope, messages.StoreBlock(digest, block))
    site.service.age(timedelta(days=2))
    committing: list[asyncio.Task[object]] = []

    loop = asyncio.get_running_loop()

    def decide(method: str, key: str, is_signed_address: bool) -> None:
        # The list of the scope's blocks is asked for after the records were read.
        if method == "GET" and not key.startswith("some/") and not committing:
            asyncio.run_coroutine_threadsafe(commit(), loop).result()

    async def commit() -> None:
        task = asyncio.ensure_future(site.storage.commit(attempt(), site.scope, prepared.commit, NOW))
        committing.append(task)
        await task

    site.service.refuse = decide

    await site.cleaner.round(datetime.now(UTC))

    assert committing
    record = site.store.of_run(RunId(attempt().run), NOW)[0]
    for digest in site.store.table(record).digests():
        assert await site.storage.blocks.get(site.scope, digest) == prepared.blocks[digest]


async def test_a_commit_waits_while_blocks_are_removed(site: BucketSite) -> None:
    """Then it does not find them, and the step sends them again."""
    prepared = Prepared("late", LARGE)
    for digest, block in prepared.blocks.items():
        await site.storage.put(site.scope, messages.StoreBlock(digest, block))
    site.service.age(timedelta(days=2))
    outcomes: list[asyncio.Task[object]] = []
    loop = asyncio.get_running_loop()

    def decide(method: str, key: str, is_signed_address: bool) -> None:
        if method == "POST" and not outcomes:
            loop.call_soon_threadsafe(begin)

    def begin() -> None:
        committing = site.storage.commit(attempt(), site.scope, prepared.commit, NOW)
        outcomes.append(asyncio.ensure_future(committing))

    site.service.refuse = decide

    await site.cleaner.round(datetime.now(UTC))

    (failure,) = await asyncio.gather(*outcomes, return_exceptions=True)
    assert isinstance(failure, Rejected)
    assert failure.code == "WF333"


async def test_a_download_through_the_api_reads_ranges_from_the_bucket(site: BucketSite) -> None:
    """As an archive, and as single files."""
    site.write(LARGE)
    await site.upload(name="site", path="dist/")
    kept = KeptArtifacts(site.store, LogHistory(site.host.log, site.host.feed, TimeSlices()))
    reader = ArtifactReader(site.store, site.host.artifacts, kept, site.host.clock)

    opened = await reader.open(run_of(site), "site")
    offset, size = opened.file("b")
    chunks = [chunk async for chunk in reader.chunks(opened.read_content, offset + 10, offset + size)]

    assert b"".join(chunks) == LARGE["dist/b"][10:]
    archive = b"".join([chunk async for chunk in reader.chunks(opened.read_tar, 0, opened.tar_size)])
    assert LARGE["dist/a"] in archive


async def test_a_backup_has_everything_but_the_content(site: BucketSite) -> None:
    """The check reads what is in the data directory."""
    site.write(LARGE)
    await site.upload(name="site", path="dist/")

    listed = list(artifact_files.files_in(site.store.root))

    assert len(listed) == 3
    assert sum(path.stat().st_size for path in listed) < 10_000
    assert artifact_files.examine(site.store.root).artifacts == 1
    assert all(files for _, files in artifact_files.salvageable(site.store.root))


async def test_artifacts_from_before_and_after_the_bucket_can_be_read(site: BucketSite) -> None:
    """Each record says where its content is; without the bucket, the sentence names the key."""
    prepared = Prepared("before", {"a": b"one"})
    for digest, block in prepared.blocks.items():
        site.store.store(site.scope, digest, block)
    site.store.commit(attempt(run_of(site)), site.scope, prepared.commit, NOW)
    site.write({"b": b"two"})
    await site.upload(name="after", path="b")

    await site.download(path="out")

    assert site.read("out") == {"before/a": b"one", "after/b": b"two"}
    site.store.read_from_bucket = None
    record = next(record for record in site.store.of_run(run_of(site), 0) if record.is_in_bucket)
    with pytest.raises(Stalled, match=r"artifacts\.storage is not set"):
        site.store.content(record, site.store.table(record).digest(0))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"bucket": "nothing-here"}, "no such bucket; create it"),
        ({"secret_access_key": "wrong"}, r"access denied \(SignatureDoesNotMatch\); check artifacts.access-key-id"),
        ({"access_key_id": "WRONG"}, r"access denied \(InvalidAccessKeyId\); check artifacts.access-key-id"),
        ({"region": "eu-west-9"}, "in another region; set its region"),
    ],
)
async def test_the_check_says_what_is_wrong(
    service: S3Service, tmp_path: Path, changes: dict[str, str], text: str
) -> None:
    """With the next step, and without the secret."""
    blocks = blocks_in(settings_of(service, **changes))

    with pytest.raises(Retryable, match=text) as caught:
        await checking.check(blocks, tmp_path / "artifacts")

    assert "s3://" in caught.value.text
    assert "wrong" not in caught.value.text
    assert s3_service.SECRET_KEY not in caught.value.text


async def test_a_wrong_clock_and_denied_actions_are_named(service: S3Service, tmp_path: Path) -> None:
    """What can be written but not removed would grow forever."""
    blocks = new_storage(service, tmp_path).blocks
    service.ahead = timedelta(hours=1)
    with pytest.raises(Retryable, match="the clock of this machine is wrong"):
        await checking.check(blocks, tmp_path / "artifacts")
    service.ahead = timedelta()

    for method in ("PUT", "HEAD", "GET", "POST"):

        def deny(found: str, key: str, is_signed_address: bool, denied: str = method) -> None:
            if found == denied:
                raise Refusal(403, "AccessDenied")

        service.refuse = deny
        with pytest.raises(Retryable, match=r"WF322"):
            await checking.check(blocks, tmp_path / "artifacts")


async def test_two_daemons_do_not_share_a_prefix(service: S3Service, tmp_path: Path) -> None:
    """Each would remove the other's blocks. The first one stays the owner; without the mark, the next one becomes it."""
    first, second = tmp_path / "one/artifacts", tmp_path / "two/artifacts"
    blocks = new_storage(service, tmp_path).blocks
    assert await checking.check(blocks, first)
    assert await checking.check(blocks, first)
    with pytest.raises(Retryable, match=rf"belongs to the daemon with the data directory {tmp_path}/one on .*owner"):
        await checking.check(blocks, second)

    service.remove("some/prefix/owner")

    assert await checking.check(blocks, second)


async def test_requests_wait_for_the_first_check_and_fail_with_its_reason(service: S3Service, tmp_path: Path) -> None:
    """A daemon that has just started has not looked at its bucket yet."""
    storage = new_storage(service, tmp_path)
    waiting = asyncio.ensure_future(storage.find(SCOPE, messages.FindBlocks([b"x" * 32]), lambda size: None))
    service.refuse = refuse_all
    assert not await checking.try_once(storage, storage.store.root)
    with pytest.raises(Retryable, match=r"artifacts cannot be stored or fetched: .*AccessDenied"):
        await waiting

    service.refuse = lambda *_: None
    assert await checking.try_once(storage, storage.store.root)
    found = await storage.find(SCOPE, messages.FindBlocks([b"x" * 32]), lambda size: None)
    assert found.positions == [0]
    await storage.threads.close()


def refuse_all(*_: object) -> None:
    raise Refusal(403, "AccessDenied")
