"""Which attempts get a lease, and when it has certainly ended."""

from __future__ import annotations

import itertools

import pytest

from waterflowd.engine import commands, outstanding
from waterflowd.engine.rules import leases
from waterflowd.testing.scenario import Scenario

EXCLUSIVE = {
    "the job may move to another server": "jobs: {a: {runs-on: web, retry: {max-attempts: 2}, steps: [{run: x}]}}",
    "the job holds a slot": "jobs: {a: {runs-on: web, concurrency: {group: p}, steps: [{run: x}]}}",
    "the run holds a slot": "concurrency: {group: p}\njobs: {a: {runs-on: web, steps: [{run: x}]}}",
    "the servers of the job share a slot": (
        "jobs: {a: {runs-on: {group: web, target: each}, concurrency: {group: p}, steps: [{run: x}]}}"
    ),
}
OTHERS = {
    "nothing is retried": "jobs: {a: {runs-on: web, steps: [{run: x}]}}",
    "the step is retried on the same server": "jobs: {a: {runs-on: web, steps: [{run: x, on-lost: retry}]}}",
    "a person decides": "jobs: {a: {runs-on: web, retry: {max-attempts: 2}, steps: [{run: x, on-lost: hold}]}}",
    "each server retries its own": (
        "jobs: {a: {runs-on: {group: web, target: each}, retry: {max-attempts: 2}, steps: [{run: x}]}}"
    ),
}


def dispatched(workflow: str) -> int:
    """Returns the lease of the only attempt of this workflow."""
    scenario = Scenario(workflow)
    scenario.play("connect web-1 web\nstart")
    (lease_ms,) = {
        attempt.lease_ms for job in scenario.run.jobs for step in job.steps_by_id.values() for attempt in step.attempts
    }
    return lease_ms


@pytest.mark.parametrize("workflow", EXCLUSIVE.values(), ids=list(EXCLUSIVE))
def test_an_attempt_whose_end_may_start_something_elsewhere_has_a_lease(workflow: str) -> None:
    """Its server stops it before the daemon gives it up."""
    assert dispatched(workflow) == leases.lease_ms(600_000)


@pytest.mark.parametrize("workflow", OTHERS.values(), ids=list(OTHERS))
def test_every_other_attempt_continues_without_the_daemon(workflow: str) -> None:
    """It is not stopped, because its end starts nothing that could run beside it."""
    assert dispatched(workflow) == 0


def test_a_lease_is_shorter_than_lost_after() -> None:
    """With the default, the daemon waits no longer than `lost-after` for a step with a grace period of a minute."""
    lease_ms = leases.lease_ms(600_000)

    assert lease_ms == 480_000
    assert leases.over_after_ms(lease_ms, 60_000) <= 600_000


def test_a_short_lost_after_does_not_end_leases_between_two_heartbeats() -> None:
    """The lease has a minimum; the daemon waits longer than `lost-after` then."""
    lease_ms = leases.lease_ms(1_000)

    assert lease_ms == leases.LEASE_MS_MIN
    assert leases.over_after_ms(lease_ms, 0) > lease_ms


def test_the_daemon_waits_for_the_slowest_server_and_the_fastest_daemon() -> None:
    """Whatever the grace period: with clocks that are wrong by 1 % each, the step has been killed before."""
    for lease_ms, grace_ms in itertools.product((10_000, 480_000, 86_400_000), (0, 10_000, 3_600_000)):
        ends_after_ms = (lease_ms + grace_ms + leases.KILL_MS) / 0.99
        waited_ms = leases.over_after_ms(lease_ms, grace_ms) / 1.01
        assert waited_ms >= ends_after_ms


def test_the_next_holder_waits_until_a_step_that_a_person_decides_on_has_stopped() -> None:
    """A forced cancel ends a step with `on-lost: hold` only when its server confirms the stop, or does not answer in time."""
    workflow = "jobs: {a: {runs-on: web, concurrency: {group: p}, steps: [{run: x, on-lost: hold}]}}"
    for end in ("finish a/1 cancelled", "wait 2m"):
        scenario = Scenario(workflow)
        scenario.play("connect web-1 web\nstart")
        scenario.play("cancel force")
        assert not scenario.run.is_completed
        scenario.play(end)
        assert scenario.run.is_completed


def test_a_forced_cancel_replaces_the_cancel_before_it() -> None:
    """The leased attempt is still open, so its server is told again; afterwards only the forced cancel is outstanding."""
    scenario = Scenario(EXCLUSIVE["the job holds a slot"])
    scenario.play("connect web-1 web\nstart\ncancel")
    told = scenario.play("cancel force").rpartition("> cancel force")[2]

    assert told.count("! CancelTask a/1#1") == 1
    assert "is_forced=True" in told.rpartition("! CancelTask")[2]
    (cancel,) = [command for command in outstanding(scenario.run) if isinstance(command, commands.CancelTask)]
    assert cancel.is_forced
    scenario.play("finish a/1 cancelled")
    assert scenario.run.is_completed
