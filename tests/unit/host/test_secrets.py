"""Secrets that take time to read: steps that need them wait without a slot, other work continues, and no wait is endless."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.patience import PATIENCE_S
from waterflow_agent.errors import Rejected, Retryable
from waterflow_agent.wire import messages
from waterflowd.access.events import SecretsUsed
from waterflowd.dispatch.lowering import Draft, SecretRequest
from waterflowd.engine import commands, events
from waterflowd.model.ids import AUDIT, AgentId, JobId, RunId
from waterflowd.model.reasons import ReasonCode
from waterflowd.model.records import RunSummary
from waterflowd.model.statuses import AttemptStatus, Conclusion
from waterflowd.testing.host import ONE_STEP, HostHarness, ManualClock, stored_fill
from waterflowd.testing.memory_log import MemoryLog

SLOW = 'jobs: {a: {runs-on: web, steps: [{run: work, env: {V: "${{ secrets.SLOW }}"}}]}}'
PLAIN = "jobs: {a: {runs-on: web, steps: [{run: work}]}}"
VALUE = "s3cret-value"
READING = Retryable("WF626", "waiting for secret SLOW: it is being read")


class Source:
    """A scripted source: returns a value, None for an unknown name, or raises an error."""

    def __init__(self, answer: str | Exception | None = READING) -> None:
        self.answer = answer

    def get(self, name: str) -> str | None:
        """See `secrets.sources.Sources.get`."""
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def missing(self, request: SecretRequest) -> list[str]:
        """See `dispatch.lowering.MissingSecrets`."""
        return [name for name in request.names if self.get(name) is None]

    def fill(self, draft: Draft, instance: str) -> messages.Task:
        """See `dispatch.lowering.Fill`."""
        return stored_fill(draft, instance, lambda _, name: self.get(name))

    def host(self, log: MemoryLog | None = None, clock: ManualClock | None = None) -> HostHarness:
        """Returns a host with this source."""
        return HostHarness(log, clock, fill=self.fill, missing_secrets=self.missing)


def reasons(host: HostHarness, run: RunId) -> list[ReasonCode]:
    """Returns the reasons why the run's attempt waited, in order."""
    return [event.reason.code for event in host.events(run) if isinstance(event, events.AttemptWaiting)]


async def news(host: HostHarness) -> None:
    """Reports that a read has finished."""
    host.driver.secrets_read()
    await host.settle()


async def dispatched_without_value(host: HostHarness, source: Source) -> tuple[AgentId, RunSummary]:
    """Returns a run whose secret was cached when it requested a slot, and had expired when it got one."""
    agent = host.enroll("web-1", "web")
    host.hello(agent, slots=1)
    await host.start(PLAIN)
    slow = await host.start(SLOW)
    (offered,) = host.link.offers()
    host.link.take()
    source.answer = READING
    host.finished(agent, offered)
    await host.settle()
    assert host.link.offers() == []
    assert host.state.runs[slow.id].jobs[0].steps[0].attempts[0].status is AttemptStatus.DISPATCHED
    return agent, slow


async def test_a_secret_that_is_being_read_delays_only_its_step() -> None:
    """It takes no slot; another run uses the only one meanwhile. Once the secret is read, the step gets its value."""
    source = Source()
    async with source.host() as host:
        agent = host.enroll("web-1", "web")
        host.hello(agent, slots=1)
        slow = await host.start(SLOW)
        plain = await host.start(PLAIN)
        (offered,) = host.link.offers()
        assert offered.attempt.run == plain.id
        assert reasons(host, slow.id) == [ReasonCode.SECRET_WAITING]
        host.finished(agent, offered)
        await host.settle()
        host.link.take()

        source.answer = VALUE
        await news(host)

        (offer,) = [message for message in host.link.take() if isinstance(message, messages.Offer)]
        assert (offer.task.key.attempt.run, offer.task.env["V"], offer.task.secrets) == (slow.id, VALUE, [VALUE])
        assert VALUE not in str(host.events(slow.id))
        assert not host.state.awaiting_secrets


async def test_only_a_new_reason_is_an_event() -> None:
    """Each reason is recorded once."""
    source = Source()
    async with source.host() as host:
        host.hello(host.enroll("web-1", "web"))
        run = await host.start(SLOW)
        for _ in range(3):
            await news(host)
        assert reasons(host, run.id) == [ReasonCode.SECRET_WAITING]
        source.answer = Retryable("WF626", "waiting for secret SLOW: Vault is sealed")
        await news(host)
        assert "sealed" in host.events(run.id)[-1].reason.text
        assert len(host.state.awaiting_secrets) == 1


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (Rejected("WF626", "cannot read secret SLOW: Vault refuses it"), ReasonCode.SECRET_UNREADABLE),
        (None, ReasonCode.SECRET_MISSING),
    ],
)
async def test_an_unreadable_or_missing_secret_fails_the_step_with_its_code(
    answer: Rejected | None, code: ReasonCode
) -> None:
    """There are two codes: one for the administrator of the source, the other for the author of the file."""
    source = Source()
    async with source.host() as host:
        host.hello(host.enroll("web-1", "web"))
        run = await host.start(SLOW)
        source.answer = answer
        await news(host)
        found = host.log.run(run.id)
        assert found is not None
        assert found.conclusion is Conclusion.FAILURE
        (ended,) = [event for event in host.events(run.id) if isinstance(event, events.AttemptFinished)]
        assert ended.reason.code is code
        assert host.link.offers() == []
        assert host.placed() == {}


async def test_a_cancelled_run_requests_no_secret() -> None:
    """A later value has no effect."""
    source = Source()
    async with source.host() as host:
        host.hello(host.enroll("web-1", "web"))
        run = await host.start(SLOW)
        await host.driver.cancel(run.id, "test")
        source.answer = VALUE
        await news(host)
        assert host.link.offers() == []
        assert host.placed() == {}
        assert not host.state.awaiting_secrets


async def test_a_value_that_expires_before_the_offer_only_delays_it() -> None:
    """The step keeps its slot, and the offer follows once, when the value is available again."""
    source = Source(VALUE)
    async with source.host() as host:
        _, slow = await dispatched_without_value(host, source)
        source.answer = VALUE
        host.driver.secrets_read()
        await news(host)
        assert [key.attempt.run for key in host.link.offers()] == [slow.id]


async def test_a_cancel_before_the_offer_is_repeated_after_it() -> None:
    """The agent did not know the attempt yet: without this the step would run to its end."""
    source = Source(VALUE)
    async with source.host() as host:
        _, slow = await dispatched_without_value(host, source)
        await host.driver.cancel(slow.id, "test")
        host.link.take()
        source.answer = VALUE
        await news(host)
        assert [type(message) for message in host.link.take()] == [messages.Offer, messages.Cancel]


async def test_an_offer_fails_if_its_secret_can_no_longer_be_read() -> None:
    """The slot is released, and the step has the reason."""
    source = Source(VALUE)
    async with source.host() as host:
        await dispatched_without_value(host, source)
        source.answer = Rejected("WF626", "cannot read secret SLOW: Vault is sealed; gave up after 600 s")
        await news(host)
        (offer,) = [message for message in host.link.take() if isinstance(message, messages.Offer)]
        assert offer.task.node == "fail"
        assert "gave up after 600 s [WF626]" in offer.task.params["message"]


async def test_a_reconnected_agent_gets_its_offer_when_the_value_is_available() -> None:
    """Its settlement cannot make the offer yet, and forgets nothing."""
    source = Source(VALUE)
    async with source.host() as host:
        agent, slow = await dispatched_without_value(host, source)
        host.agents.disconnected(agent, "cut")
        host.hello(agent, slots=1, instance="instance-2")
        await host.settle()
        assert host.link.offers() == []
        source.answer = VALUE
        await news(host)
        offers = [message.task for message in host.link.take() if isinstance(message, messages.Offer)]
        assert {(task.key.attempt.run, task.instance) for task in offers} == {(slow.id, "instance-2")}


async def test_a_restarted_daemon_reads_secrets_again_and_repeats_missing_offers() -> None:
    """The restart happens before and after the step has its slot; nothing is lost or fails."""
    source = Source()
    async with source.host() as host:
        host.hello(host.enroll("web-1", "web"))
        waiting = await host.start(SLOW)
        source.answer = VALUE
        sent = await host.start(SLOW)
        assert [key.attempt.run for key in host.link.offers()] == [sent.id]
        log, clock = host.log.reopened(), ManualClock(host.clock.at)

    source.answer = READING
    async with source.host(log, clock) as host:
        host.hello(host.enroll("web-1", "web"))
        await host.settle()
        assert host.link.offers() == []
        source.answer = VALUE
        await news(host)
        assert sorted(key.attempt.run for key in host.link.offers()) == sorted([waiting.id, sent.id])


async def test_a_bug_in_an_offer_stalls_only_its_run() -> None:
    """One secret may concern many runs."""
    source = Source(VALUE)
    async with source.host() as host:
        _, slow = await dispatched_without_value(host, source)
        source.answer = ZeroDivisionError("a bug")
        await news(host)
        assert "a bug" in host.state.stalled[slow.id]
        assert host.is_alive
        await host.start(PLAIN)
        assert len(host.link.offers()) == 1


async def test_a_job_undone_by_a_full_disk_requests_no_secret() -> None:
    """The job is no longer in any log, and the other runs continue."""
    async with HostHarness() as host:
        run = await host.start(ONE_STEP)
        unknown: Any = commands.ListServers(job=JobId("gone"), group="web")
        host.state.awaiting_secrets.append((run.id, unknown))
        host.driver.secrets_read()
        # If the driver had stopped, this would wait forever.
        async with asyncio.timeout(PATIENCE_S):
            await host.driver.pass_through()
        assert host.is_alive


async def test_the_audit_trail_has_every_offer_with_a_secret_and_no_other() -> None:
    """A repeated offer is another use; one that fails because its secret no longer exists sends nothing."""
    source = Source(VALUE)
    async with source.host() as host:
        agent = host.enroll("web-1", "web")
        host.hello(agent)
        await host.settle()
        slow = await host.start(SLOW)
        for answer in (VALUE, None):
            source.answer = answer
            host.agents.disconnected(agent, "cut")
            host.hello(agent)
            await host.settle()
            await host.settle()
        tasks = [message.task for message in host.link.take() if isinstance(message, messages.Offer)]
        assert [task.node for task in tasks] == ["shell", "shell", "fail"]
        used = [record.event for record in host.log.read(AUDIT)]
        use = SecretsUsed(
            at=host.clock.at,
            by=f"run {slow.id}",
            names=("SLOW",),
            run=slow.id,
            part="a/1",
            attempt=1,
            agent=agent,
            server="web-1",
        )
        assert used == [use, use]
