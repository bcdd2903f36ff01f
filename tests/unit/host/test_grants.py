"""Grants and environments at run time: an attempt gets a slot only if its job may use the group and read the secrets."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from waterflow_agent.errors import Rejected
from waterflowd.access.policy import AccessPolicy, EnvironmentRules, Grant
from waterflowd.dispatch.lowering import SecretRequest
from waterflowd.engine import events
from waterflowd.model.reasons import ReasonCode
from waterflowd.model.records import RunSummary, StartRequest, Trigger, TriggerKind
from waterflowd.model.statuses import Conclusion, Status
from waterflowd.reconcile.settings import RepositorySettings
from waterflowd.testing.host import HostHarness, agent_id, request

SHOP = RepositorySettings(name="shop", url="/srv/shop.git", webhook_keys=("HOOK",))
PRODUCTION = EnvironmentRules(name="production", groups=("db",), secrets=("PROD_*",))
GRANTS = (
    Grant(secrets=("KEY",), repositories=("shop",), refs=("main",), groups=("web",)),
    Grant(secrets=("PROD_KEY",), repositories=("shop",)),
)
READS = "jobs: {a: {runs-on: web, steps: [{run: work, env: {V: '${{ secrets.KEY }}'}}]}}"
CHOSEN = (
    "on: {workflow_dispatch: {inputs: {where: {default: web}, env: {default: none}}}}\n"
    "jobs: {a: {runs-on: '${{ inputs.where }}', environment: '${{ inputs.env }}', steps: [STEP]}}"
)


class Sources:
    """Sources that know every secret, and record what they were asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def missing(self, request: SecretRequest) -> list[str]:
        """See `dispatch.lowering.MissingSecrets`."""
        self.asked.extend(request.names)
        return []


def guarded(sources: Sources | None = None) -> HostHarness:
    """Returns a host with the configuration above, and an agent in each group."""
    sources = sources or Sources()
    host = HostHarness(missing_secrets=sources.missing)
    access = AccessPolicy([SHOP], [PRODUCTION], GRANTS)
    host.state = host.driver.state = msgspec.structs.replace(host.state, access=access)
    for name in ("web", "db"):
        host.enroll(name, name)
    return host


def of_shop(workflow: str, ref: str | None = "refs/heads/main", **inputs: Any) -> StartRequest:
    trigger = Trigger(kind=TriggerKind.PUSH, ref=ref)
    return msgspec.structs.replace(request(workflow), repository="shop", trigger=trigger, inputs=inputs)


async def started(host: HostHarness, request: StartRequest) -> RunSummary:
    """Starts a run while both agents are connected."""
    for name in ("web", "db"):
        host.hello(agent_id(name))
    return await host.driver.start(request)


def codes(host: HostHarness, row: RunSummary) -> set[ReasonCode]:
    found = [event.reason for event in host.events(row.id) if getattr(event, "reason", None) is not None]
    return {reason.code for reason in found}


@pytest.mark.parametrize(
    ("asks", "is_permitted"),
    [
        ({}, True),
        ({"ref": "refs/heads/feature"}, False),
        ({"ref": "refs/tags/main"}, False),
        ({"ref": None}, False),
    ],
)
async def test_a_secret_without_a_grant_is_refused_before_it_is_read(asks: dict[str, Any], is_permitted: bool) -> None:
    """The step fails with the lines to add, no source is asked, and no server gets the step."""
    sources = Sources()
    async with guarded(sources) as host:
        row = await started(host, of_shop(READS, **asks))
        assert bool(host.link.offers()) is is_permitted
        assert (sources.asked == ["KEY"]) is is_permitted
        if not is_permitted:
            assert row.conclusion is Conclusion.FAILURE
            assert ReasonCode.SECRET_NOT_GRANTED in codes(host, row)
            assert '[[secrets.grants]] secrets = ["KEY"] repositories = ["shop"]' in row.reason.text


async def test_a_group_that_is_known_late_needs_the_grant_too() -> None:
    """The same workflow may read the secret on one group and not on another."""
    text = CHOSEN.replace("STEP", "{run: work, env: {V: '${{ secrets.KEY }}'}}")
    async with guarded() as host:
        assert (await started(host, of_shop(text, where="web"))).status is Status.RUNNING
        row = await started(host, of_shop(text, where="db", env="production"))
        assert (row.conclusion, ReasonCode.SECRET_NOT_GRANTED in codes(host, row)) == (Conclusion.FAILURE, True)


async def test_a_group_of_an_environment_is_refused_without_it() -> None:
    """When the slot is requested, if the group or the environment comes from an expression."""
    text = CHOSEN.replace("STEP", "{run: work}")
    async with guarded() as host:
        row = await started(host, of_shop(text, where="db", env="staging"))
        assert (row.conclusion, ReasonCode.ENVIRONMENT_REQUIRED in codes(host, row)) == (Conclusion.FAILURE, True)
        assert host.link.offers() == []
        row = await started(host, of_shop(text, where="db", env="production"))
        assert row.status is Status.RUNNING
        assert len(host.link.offers()) == 1


@pytest.mark.parametrize(
    ("workflow", "code"),
    [
        (READS.replace("KEY", "OTHER"), "WF529"),
        (READS.replace("KEY", "hook"), "WF529"),
        (READS.replace("KEY", "PROD_KEY"), "WF528"),
        ("jobs: {a: {runs-on: db, steps: [{run: work}]}}", "WF528"),
    ],
)
async def test_what_no_run_could_do_is_refused_before_the_run_exists(workflow: str, code: str) -> None:
    """Every start is checked: this is the one place through which every start passes."""
    async with guarded() as host:
        for repository in ("shop", None):
            with pytest.raises(Rejected) as refused:
                await host.driver.start(msgspec.structs.replace(of_shop(workflow), repository=repository))
            assert refused.value.code == code
            assert "environment: production" in refused.value.text or "KEY" not in workflow or code == "WF529"
        assert host.log.last_seq == 0


async def test_instances_and_called_jobs_have_the_environment_of_the_job_that_became_them() -> None:
    """An instance of a matrix and of `target: each` may use what its job may use."""
    matrix = (
        "jobs: {a: {runs-on: db, environment: production, strategy: {matrix: {n: [1, 2]}},"
        " steps: [{run: work, env: {V: '${{ secrets.PROD_KEY }}'}}]}}"
    )
    each = matrix.replace("runs-on: db", "runs-on: {group: db, target: each}").replace(
        "strategy: {matrix: {n: [1, 2]}},", ""
    )
    every = each.replace("{group: db, target: each}", "all-servers")
    for text, count in ((matrix, 2), (each, 1), (every, 2)):
        async with guarded() as host:
            await started(host, of_shop(text))
            assert len(host.link.offers()) == count, text
    async with guarded() as host:
        await started(host, of_shop("jobs: {a: {runs-on: all-servers, steps: [{run: work}]}}"))
        assert {agent for agent, _ in host.link.sent} == {agent_id("web")}


async def test_the_name_of_an_environment_is_evaluated_once() -> None:
    """Its gate, its variables and its rights have the same name, also without approvers; a condition does not see them."""
    text = (
        "vars: {where: none}\n"
        "jobs: {a: {if: \"vars.where == 'none'\", runs-on: web, environment: 'e-${{ git.branch }}',"
        " steps: [{run: work, env: {V: '${{ vars.where }}'}}]}}"
    )
    async with HostHarness() as host:
        policies = {"e-main": events.Policy(vars={"where": "here"})}
        host.driver.state = msgspec.structs.replace(host.state, policies=lambda request, plan: policies)
        host.hello(host.enroll("w", "web"))
        trigger = Trigger(kind=TriggerKind.PUSH, ref="refs/heads/main", git={"branch": "main"})
        row = await host.driver.start(msgspec.structs.replace(request(text), trigger=trigger))
        entered = [event for event in host.events(row.id) if isinstance(event, events.EnvironmentEntered)]
        assert [event.environment for event in entered] == ["e-main"]
        dispatched = [event for event in host.events(row.id) if isinstance(event, events.AttemptDispatched)]
        assert [event.env for event in dispatched] == [{"V": "here"}]
        again = host.crashed()
        async with again:
            assert again.state.runs[row.id].jobs[0].environments == ("e-main",)
