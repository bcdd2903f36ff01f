"""Runs per hour: what exceeds a repository's quota is refused visibly, started later, and delays no other repository."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

import httpx
import pytest

from tests.integration.reconcile.reconciler_harness import Work
from tests.integration.triggers.trigger_harness import NAP, SECRET, UNIONS, TriggerHarness, served
from tests.patience import PATIENCE_S
from waterflowd.access.repository_quotas import RepositoryLimits
from waterflowd.api.routes.system import _problems
from waterflowd.model.ids import run_stream
from waterflowd.model.records import StartRequest, Trigger, TriggerKind
from waterflowd.reconcile import codes
from waterflowd.reconcile.settings import RepositorySettings
from waterflowd.store.codec import Codec
from waterflowd.testing.memory_log import MemoryLog

PUSHED = "name: pushed\non: push\n" + NAP
HOOKED = "name: hooked\non: {webhook: {name: release, secret: HOOK}, workflow_dispatch: {}}\n" + NAP
#: Due once a year, so that the real time that the test takes makes nothing due.
TIMED = "name: timed\non: {schedule: [{cron: '0 0 1 1 *'}]}\n" + NAP
AFTER = "name: after\non: {workflow_run: {workflows: [hooked]}}\n" + NAP
LIMIT = 3
LIMITS = {"ops": RepositoryLimits(runs_per_hour=LIMIT)}
MINUTE_MS = 60_000
YEAR_MS = 366 * 24 * 60 * MINUTE_MS
#: Two repositories with their names.
Works = tuple[tuple[str, Work], tuple[str, Work]]


def harness_of(log: MemoryLog, *works: tuple[str, Work]) -> TriggerHarness:
    settings = [RepositorySettings(name=name, url=str(work.bare), interval_ms=20_000) for name, work in works]
    return TriggerHarness(log, *settings, limits=LIMITS)


@pytest.fixture
def works(tmp_path: Path) -> Works:
    """Two repositories with one workflow that a push starts; that of `ops` has another one with a webhook."""
    made = []
    for name in ("ops", "docs"):
        work = Work(tmp_path, name)
        files: dict[str, str | None] = {"workflows/pushed.yml": PUSHED}
        work.pushed(files | ({"workflows/hooked.yml": HOOKED} if name == "ops" else {}))
        made.append((name, work))
    return made[0], made[1]


def started(harness: TriggerHarness, name: str) -> int:
    return sum(row.repository == name for row in harness.runs())


def spend(work: Work, harness: TriggerHarness) -> None:
    """Changes the repository so that one more run is due."""
    work.pushed({"README": str(len(harness.runs()))})


async def use_up(harness: TriggerHarness, work: Work) -> None:
    for _ in range(LIMIT):
        spend(work, harness)
        await harness.sync()
    await harness.settled()


async def test_pushes_beyond_the_quota_wait_visibly_and_are_taken_up_together(
    works: Works,
) -> None:
    """Two pushes that waited are one update of the branch, as after `suspend`. Another repository notices nothing."""
    (_, ops), (_, docs) = works
    log = MemoryLog(Codec(UNIONS))
    async with harness_of(log, *works) as harness:
        await harness.sync()
        await harness.sync("docs")
        await use_up(harness, ops)
        assert "3 of 3 runs per hour used" in _problems(harness.services)[0]
        for _ in range(2):
            spend(ops, harness)
        with pytest.raises(Exception, match='repository "ops" has used its quota of 3 runs per hour'):
            await harness.sync()
        (row, _) = harness.repositories.status()
        assert not row.is_ready
        assert row.text.startswith('repository "ops" has used its quota of 3 runs per hour; the next run may start at')
        assert [problem for problem in _problems(harness.services) if "quota" in problem]
        for _ in range(2 * LIMIT):
            spend(docs, harness)
            await harness.sync("docs")
        await harness.settled()
        assert len(harness.runs()) == LIMIT + 2 * LIMIT
        harness.clock.ahead_ms += 21 * MINUTE_MS
        commit = ops.git("rev-parse", "HEAD")
        assert await harness.sync() == commit
        (row, _) = harness.repositories.status()
        assert row.is_ready
        newest = harness.runs()[-1]
        assert (newest.repository, newest.revision) == ("ops", commit)
        assert len(harness.runs()) == LIMIT + 2 * LIMIT + 1


async def test_the_quota_survives_a_restart(works: Works) -> None:
    """Restarting the daemon, or ending it after a refusal, gives no repository more runs; its push still starts."""
    (_, ops), _ = works
    log = MemoryLog(Codec(UNIONS))
    async with harness_of(log, *works) as harness:
        await harness.sync()
        await use_up(harness, ops)
        spend(ops, harness)
        with pytest.raises(Exception, match="quota"):
            await harness.sync()
    async with harness_of(log, *works) as harness:
        with pytest.raises(Exception, match="quota"):
            await harness.sync()
        assert len(harness.runs()) == LIMIT
        harness.clock.ahead_ms += 21 * MINUTE_MS
        await harness.sync()
        assert len(harness.runs()) == LIMIT + 1


def delivery(number: int) -> tuple[bytes, dict[str, str]]:
    body = b"{}"
    signature = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    return body, {
        "Content-Type": "application/json",
        "X-Hub-Signature-256": f"sha256={signature}",
        "X-Waterflow-Delivery": f"number-{number}",
    }


async def test_webhooks_and_starts_beyond_the_quota_are_answered_with_429(works: Works, tmp_path: Path) -> None:
    """With the reason and the time, so that the sender repeats them. A delivery that has started its run needs no quota."""
    log = MemoryLog(Codec(UNIONS))
    async with harness_of(log, *works) as harness, served(harness, tmp_path) as address:
        harness.services.is_open = True
        await harness.sync()
        async with httpx.AsyncClient(base_url=address, timeout=PATIENCE_S) as client:
            for number in range(LIMIT):
                body, headers = delivery(number)
                answer = await client.post("/v1/hooks/release", content=body, headers=headers)
                assert answer.status_code == 202, answer.text
            body, headers = delivery(LIMIT)
            for refused in (
                await client.post("/v1/hooks/release", content=body, headers=headers),
                await client.post("/v1/definitions/workflows/hooked.yml/run", json={}),
            ):
                assert refused.status_code == 429, refused.text
                assert refused.json()["code"] == codes.RUN_QUOTA
                assert "used its quota of 3 runs per hour" in refused.json()["detail"]
                assert 0 < int(refused.headers["Retry-After"]) <= 1_201
            body, headers = delivery(0)
            assert (await client.post("/v1/hooks/release", content=body, headers=headers)).status_code == 202
            assert "waterflow_starts_refused_total 2" in (await client.get("/metrics")).text
            (_, row) = (await client.get("/v1/repositories")).json()["repositories"]
            assert row["quotas"][0] | {"text": ""} == {
                "key": "runs-per-hour",
                "limit": LIMIT,
                "used": LIMIT,
                "exceeded": True,
                "text": "",
            }
            harness.clock.ahead_ms += 21 * MINUTE_MS
            body, headers = delivery(LIMIT)
            assert (await client.post("/v1/hooks/release", content=body, headers=headers)).status_code == 202
        kinds = [row.trigger.kind for row in harness.runs()]
        assert kinds == [TriggerKind.WEBHOOK] * (LIMIT + 1)


async def test_a_schedule_beyond_the_quota_starts_once_when_runs_are_left(tmp_path: Path) -> None:
    """Its due time is neither lost nor started twice, and the schedule of another repository is not delayed."""
    works: list[tuple[str, Work]] = []
    for name in ("ops", "docs"):
        work = Work(tmp_path, name)
        work.pushed({"workflows/timed.yml": TIMED})
        works.append((name, work))
    log = MemoryLog(Codec(UNIONS))
    async with harness_of(log, *works) as harness:
        await harness.sync()
        await harness.sync("docs")

        async def turn(years: int, *expected: tuple[str, int]) -> None:
            """Moves the wall clock; waits until each repository has this many runs."""
            harness.ahead_ms += years * YEAR_MS
            for name, _ in works:
                harness.reconciler.loop(name).repository.notify()
            for name, count in expected:
                await harness.until(lambda: started(harness, name) == count)  # noqa: B023
            await harness.settled()

        loops = harness.reconciler.loops.values()
        await harness.until(lambda: all(len(loop.repository.state.schedules) == 1 for loop in loops))
        for number in range(1, LIMIT + 1):
            await turn(1, ("ops", number), ("docs", number))
        # The quota of `ops` is used up: the refusal changes nothing that is recorded.
        refused = harness.quotas.starts_refused
        await turn(1, ("docs", LIMIT + 1))
        await harness.until(lambda: harness.quotas.starts_refused > refused)
        assert started(harness, "ops") == LIMIT
        assert "3 of 3 runs per hour used" in _problems(harness.services)[0]
        harness.clock.ahead_ms += 21 * MINUTE_MS
        await turn(0, ("ops", LIMIT + 1))
        assert [row.trigger.kind for row in harness.runs()] == [TriggerKind.SCHEDULE] * 2 * (LIMIT + 1)
        # A second tick finds nothing that is due.
        await turn(0, ("ops", LIMIT + 1), ("docs", LIMIT + 1))


async def test_a_chain_of_workflow_runs_ends_at_the_quota_and_continues_later(tmp_path: Path) -> None:
    """A workflow that starts itself after each of its runs starts no more than the quota; each completed run counts once."""
    work = Work(tmp_path, "ops")
    work.pushed({"workflows/first.yml": HOOKED, "workflows/second.yml": AFTER})
    log = MemoryLog(Codec(UNIONS))
    async with harness_of(log, ("ops", work)) as harness:
        await harness.sync()
        found = await harness.repositories.plan("workflows/first.yml", None)
        for _ in range(2):
            trigger = Trigger(kind=TriggerKind.MANUAL, by="ann", principal="ann")
            start = StartRequest(plan=found.plan, repository="ops", revision=found.revision, trigger=trigger)
            await harness.driver.start(start)
        # Two runs were started by a person. One of the two that follow is left.
        await harness.until(lambda: harness.quotas.starts_refused > 0)
        assert len(harness.runs()) == LIMIT
    async with harness_of(log, ("ops", work)) as harness:
        await harness.sync()
        await harness.until(lambda: harness.quotas.starts_refused > 0)
        assert len(harness.runs()) == LIMIT
        harness.clock.ahead_ms += 21 * MINUTE_MS
        harness.reconciler.loop("ops").repository.notify()
        await harness.until(lambda: len(harness.runs()) == LIMIT + 1)
        await harness.settled()
        paths = [row.path for row in harness.runs()]
        assert sorted(paths) == ["workflows/first.yml"] * 2 + ["workflows/second.yml"] * 2
        causes = [harness.log.read(run_stream(row.id))[0].event.trigger.by for row in harness.runs()]
        assert len(set(causes)) == 3
