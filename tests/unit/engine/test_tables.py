"""The transition tables: closed, without dead ends; every status that is not final has an owner and a deadline."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from waterflowd.engine import commands, outstanding
from waterflowd.engine.inputs import TimerKind
from waterflowd.engine.state.runs import Job, Run
from waterflowd.model.statuses import ATTEMPT_TRANSITIONS, SEVERITY, TRANSITIONS, AttemptStatus, Conclusion, Status
from waterflowd.testing.scenario import Scenario

Statuses = dict[Any, frozenset[Any]]
TABLES: list[Statuses] = [TRANSITIONS, ATTEMPT_TRANSITIONS]

WORKFLOW = """
jobs:
  first:
    runs-on: web
    steps:
      - uses: sleep
        with: {duration: 1h}
      - run: work
        retry: {max-attempts: 2, initial-interval: 10s}
        on-lost: hold
  second:
    needs: first
    runs-on: web
    steps: [{run: work}]
"""

#: The scenario that brings the first job's second step into each of its statuses.
SCRIPTS = {
    "pending": "start\nwait 1h",
    "dispatched": "connect web-1 web\nstart\nwait 1h",
    "started": "connect web-1 web\nstart\nwait 1h\nstarted first/2",
    "retry": "connect web-1 web\nstart\nwait 1h\nfinish first/2 failure",
    "held": "connect web-1 web\nstart\nwait 1h\nlost first/2",
    "sleeping": "start",
    "unplaced sticky": "connect web-1 web\nstart\nwait 1h\nfinish first/2 failure\ndisconnect web-1\nwait 10s",
    "cancelled": "connect web-1 web\nstart\nwait 1h\ncancel",
}


@pytest.mark.parametrize("table", TABLES)
def test_every_status_reaches_an_end(table: Statuses) -> None:
    """From each status a path leads to a final one, and every transition leads to a status of the table."""
    ends = {status for status, following in table.items() if not following}
    assert ends
    for status in table:
        reached, edge = {status}, {status}
        while edge:
            edge = set(itertools.chain.from_iterable(table[item] for item in edge)) - reached
            reached |= edge
        assert reached & ends
        assert reached <= table.keys()


def test_the_tables_and_orders_are_complete() -> None:
    """Each status has its transitions, and each conclusion its severity."""
    assert set(TRANSITIONS) == set(Status)
    assert set(ATTEMPT_TRANSITIONS) == set(AttemptStatus)
    assert set(SEVERITY) == set(Conclusion)
    assert len(SEVERITY) == len(set(SEVERITY))


def owners(run: Run, job: Job) -> set[str]:
    """Returns who will make the job progress, according to the host's outstanding commands."""
    found: set[str] = set()
    for command in outstanding(run):
        match command:
            case commands.ArmTimer(timer=timer) if timer.job in (job.id, None):
                found.add(timer.kind.value)
            case commands.RequestSlot(job=owner) if owner == job.id:
                found.add("fleet")
            case commands.SendTask(job=owner) if owner == job.id:
                found.add("agent")
            case _:
                pass
    return found


@pytest.mark.parametrize(("name", "script"), SCRIPTS.items(), ids=SCRIPTS)
def test_every_open_job_has_an_owner_and_a_deadline(name: str, script: str) -> None:
    """A queued job waits for its needs and the run's timeout; any other job has an owner and its own timer."""
    scenario = Scenario(WORKFLOW)
    for line in script.splitlines():
        scenario.play(line)
        run = scenario.run
        if not run.seq or run.is_completed:
            continue
        for job in run.jobs:
            found = owners(run, job)
            assert TimerKind.RUN_TIMEOUT.value in found, "the run's time bounds everything"
            if job.status is Status.QUEUED:
                assert any(run.jobs_by_id[need].status is not Status.COMPLETED for need in job.plan.needs)
            elif job.status is not Status.COMPLETED:
                deadline = {TimerKind.JOB_START.value, TimerKind.JOB_TIMEOUT.value} & found
                step = job.current
                assert step is not None
                assert deadline, f"{name}: no deadline after {line!r}"
                mover = {"fleet", "agent", TimerKind.STEP_SLEEP.value, TimerKind.STEP_RETRY.value} & found
                assert mover or step.is_held, f"{name}: nothing advances {step.id} after {line!r}"


@pytest.mark.parametrize(("name", "script"), SCRIPTS.items(), ids=SCRIPTS)
def test_timers_alone_end_every_run_without_attempts_on_agents(name: str, script: str) -> None:
    """Without servers, people and reports, timers end every run unless an agent holds one of its attempts."""
    scenario = Scenario(f"timeout-minutes: 600{WORKFLOW}")
    scenario.play(script)
    scenario.play("wait 1d")
    holders = {
        attempt.agent for job in scenario.run.jobs for step in job.steps for attempt in step.attempts if attempt.is_open
    }
    assert scenario.run.is_completed or holders
    for job in scenario.run.jobs:
        step = job.current
        if step is not None and step.last is not None and step.last.is_open:
            # The agent has been notified; what remains is its report, or that it is given up.
            cancels = [command for command in outstanding(scenario.run) if isinstance(command, commands.CancelTask)]
            assert [(command.job, command.step) for command in cancels] == [(job.id, step.id)]
            scenario.play(f"lost {job.id}/{step.id}")
    assert scenario.run.is_completed, name
