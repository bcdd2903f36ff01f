"""`self-approval = false`: two people are involved in every deployment, whatever a commit claims about its author."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from waterflow_agent.errors import Rejected
from waterflowd.app.config import EnvironmentTable
from waterflowd.app.environments import Environments
from waterflowd.model.ids import JobId
from waterflowd.model.reasons import ReasonCode
from waterflowd.model.records import RunSummary, Trigger, TriggerKind
from waterflowd.model.statuses import Conclusion, Status
from waterflowd.testing.host import HostHarness, request

DEPLOY = "jobs: {a: {runs-on: web, environment: production, steps: [{run: work}]}}"
OWN_RULE = DEPLOY.replace("environment: production", "environment: {name: other, may-approve-own: false}")
PUSH = Trigger(kind=TriggerKind.PUSH, by="alice", ref="refs/heads/main")


def host_with(**settings: Any) -> HostHarness:
    """Returns a host whose environment `production` does not allow self-approval."""
    host = HostHarness()
    table = EnvironmentTable(**{"name": "production", "self_approval": False, **settings})
    state = msgspec.structs.replace(host.state, policies=Environments([table]).policies)
    host.state = host.driver.state = state
    return host


async def started(host: HostHarness, trigger: Trigger, workflow: str = DEPLOY) -> RunSummary:
    host.hello(host.enroll("w", "web"))
    return await host.driver.start(msgspec.structs.replace(request(workflow), trigger=trigger))


async def approve(host: HostHarness, row: RunSummary, by: str) -> bool:
    """Approves the job; returns whether it has a server then."""
    await host.driver.decide(row.id, JobId("a"), None, by, is_approved=True)
    return bool(host.link.offers())


@pytest.mark.parametrize("settings", [{}, {"approvers": ("alice", "bob", "carol")}, {"minimum": 1}])
@pytest.mark.parametrize(
    "trigger",
    [
        PUSH,
        Trigger(kind=TriggerKind.SCHEDULE, by="schedule"),
        Trigger(kind=TriggerKind.WEBHOOK, by="hook:release"),
        Trigger(kind=TriggerKind.WORKFLOW_RUN, by="run:01"),
        Trigger(kind=TriggerKind.API, by="anonymous"),
    ],
    ids=lambda trigger: trigger.kind.value,
)
async def test_a_run_without_an_authenticated_starter_needs_two_approvers(
    settings: dict[str, Any], trigger: Trigger
) -> None:
    """One person alone could have caused it, whatever the author of the commit is called."""
    async with host_with(**settings) as host:
        row = await started(host, trigger)
        assert (
            "2 approvals, because the run has no authenticated starter" in host.state.runs[row.id].jobs[0].reason.text
        )
        assert not await approve(host, row, "alice")
        with pytest.raises(Rejected, match="already approved"):
            await approve(host, row, "alice")
        assert await approve(host, row, "bob")


@pytest.mark.parametrize("author", ["bob", "alice", "", "uid:0"])
async def test_the_author_of_a_commit_is_never_compared_with_a_principal(author: str) -> None:
    """A forged author neither lets the real one approve alone, nor keeps another person from approving."""
    async with host_with() as host:
        row = await started(host, msgspec.structs.replace(PUSH, by=author))
        for name in ("alice", "bob"):
            is_running = await approve(host, row, name)
        assert is_running


async def test_the_principal_that_started_a_run_may_not_approve_it() -> None:
    """One other person is enough; also for a run that follows from it, whose `by` names the run."""
    for trigger in (
        Trigger(kind=TriggerKind.MANUAL, by="alice", principal="alice"),
        Trigger(kind=TriggerKind.WORKFLOW_RUN, by="run:01", principal="alice"),
        Trigger(kind=TriggerKind.RERUN, by="alice", principal="alice", git={"author": "bob"}),
    ):
        async with host_with() as host:
            row = await started(host, trigger)
            with pytest.raises(Rejected, match="alice started the run and may not approve it"):
                await approve(host, row, "alice")
            assert await approve(host, row, "bob")


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"unattended": "refuse"}, "refuses runs without an authenticated starter"),
        ({"approvers": ("alice",)}, "requires two approvers"),
    ],
)
async def test_an_environment_may_refuse_such_runs(settings: dict[str, Any], text: str) -> None:
    """By its configuration, or because it has only one approver. A person's start is accepted."""
    async with host_with(**settings) as host:
        row = await started(host, PUSH)
        assert (row.status, row.conclusion) == (Status.COMPLETED, Conclusion.FAILURE)
        assert text in row.reason.text
        codes = [event.reason.code for event in host.events(row.id) if getattr(event, "reason", None) is not None]
        assert ReasonCode.UNATTENDED_REFUSED in codes
        row = await started(host, Trigger(kind=TriggerKind.MANUAL, by="bob", principal="bob"))
        assert row.status is not Status.COMPLETED


async def test_the_rule_of_the_file_counts_the_same() -> None:
    """`may-approve-own: false` in a workflow, without a configured environment: two approvers for a push, one for a person."""
    async with host_with() as host:
        row = await started(host, PUSH, OWN_RULE)
        assert not await approve(host, row, "alice")
        assert await approve(host, row, "bob")
    async with host_with() as host:
        row = await started(host, Trigger(kind=TriggerKind.MANUAL, by="alice", principal="alice"), OWN_RULE)
        with pytest.raises(Rejected):
            await approve(host, row, "alice")
        assert await approve(host, row, "bob")


async def test_with_self_approval_one_person_is_enough() -> None:
    """The default: nothing changes for a push."""
    async with host_with(self_approval=True, minimum=1) as host:
        row = await started(host, PUSH)
        assert await approve(host, row, "alice")
