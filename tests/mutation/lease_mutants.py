"""Mutants of leases: each breaks one rule of time, so that two servers may work at the same time."""

from __future__ import annotations

from tests.mutation.mutant import Mutant

_LEASES, _AGENTS = "waterflowd.engine.rules.leases", "waterflowd.host.agents.handler"
_RUNNER_LEASES, _SESSION = "waterflow_agent.runner.leases", "waterflow_agent.wire.session"

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        f"{_LEASES}:may_start_something", " or _may_move(job)", "", "a job that may move to another server has no lease"
    ),
    Mutant(
        f"{_LEASES}:may_start_something", " or _has_lock(job)", "", "the holder of a concurrency group has no lease"
    ),
    Mutant(
        f"{_LEASES}:_has_lock", "above = above.parent", "above = None", "a job in a job that holds a lock has no lease"
    ),
    Mutant(
        f"{_LEASES}:may_start_something",
        "run.trigger.is_exclusive or ",
        "",
        "a child run has no leases although its parent holds a concurrency group",
    ),
    Mutant(
        "waterflowd.engine.rules.child_runs:of_attempt",
        " and not is_exclusive(run, job, attempt)",
        "",
        "a forced cancel frees a concurrency group while a child run is at work",
        "tests.unit.host.test_child_runs:test_the_next_holder_waits_for_the_child_run_of_the_holder_before",
    ),
    Mutant("waterflowd.dispatch.lowering:draft", "lease_ms=attempt.lease_ms,", "", "an offer does not tell its lease"),
    Mutant(
        f"{_AGENTS}:AgentHandler._give_up",
        "max(self._lost_after_ms, attempt.lease_over_ms)",
        "self._lost_after_ms",
        "the daemon does not wait for the end of a lease",
        # In simulations, the time until a silent session ends is longer than what is missing then.
        "tests.unit.host.test_agents:test_an_attempt_with_a_lease_is_lost_when_its_lease_has_ended",
    ),
    Mutant(
        f"{_AGENTS}:AgentHandler.lose",
        "if attempt.lease_over_ms:",
        "if False:",
        "a revoked agent loses its leases at once",
        "tests.unit.host.test_agents:test_a_revoked_agent_keeps_the_lease_of_its_attempts",
    ),
    Mutant(
        "waterflowd.engine.moves.step_moves:_active_step",
        "attempt.lease_ms > 0 or ",
        "",
        "a forced cancel ends an attempt with a lease that may still run",
        "tests.unit.engine.test_leases:test_a_forced_cancel_replaces_the_cancel_before_it",
    ),
    Mutant(
        "waterflowd.engine.moves.step_moves:_active_step",
        " or step.plan.on_lost is OnLost.HOLD",
        "",
        "a forced cancel ends an attempt on which a person decides, and that may still run",
        "tests.unit.engine.test_leases:test_the_next_holder_waits_until_a_step_that_a_person_decides_on_has_stopped",
    ),
    Mutant(
        "waterflowd.engine.outstanding:stop_timer",
        "due_at += leases.over_after_ms(step.last.lease_ms, step.plan.stop.grace_ms)",
        "pass",
        "a stop counts as unconfirmed before the lease has ended",
    ),
    Mutant(
        f"{_RUNNER_LEASES}:Leases.has_ended",
        "return now >= self._confirmed_at + length_ms",
        "return False",
        "the runner ends no lease",
    ),
    Mutant(
        f"{_SESSION}:Session.take",
        "min(frame.stamp, self._sent_at)",
        "frame.stamp",
        "a frame of the daemon confirms the future",
        "tests.unit.wire.test_session:test_what_was_never_sent_cannot_be_confirmed",
    ),
    Mutant(
        f"{_SESSION}:Session._stamp_at",
        "else self._stamp",
        "else 0",
        "the daemon confirms nothing",
        "tests.unit.wire.test_session:test_the_daemon_confirms_the_newest_stamp_that_it_has_received",
    ),
    Mutant(
        "waterflow_agent.session.handler:SessionHandler.on_confirmed",
        "self._steps.confirm_leases(at)",
        "self._steps.confirm_leases(self._clock.boot_ms() + 15_000)",
        "a lease is counted from later than the confirmed message",
        "tests.unit.agent.test_session_handler:test_confirmations_extend_the_leases_about_once_per_second",
    ),
    Mutant(
        f"{_LEASES}:over_after_ms",
        "(100 + DRIFT_PERCENT)",
        "100",
        "the daemon does not allow for wrong clocks",
        "tests.unit.engine.test_leases:test_the_daemon_waits_for_the_slowest_server_and_the_fastest_daemon",
    ),
    Mutant(
        f"{_LEASES}:over_after_ms",
        "+ KILL_MS",
        "",
        "the daemon does not allow for the time to kill",
        "tests.unit.engine.test_leases:test_the_daemon_waits_for_the_slowest_server_and_the_fastest_daemon",
    ),
    Mutant(
        f"{_LEASES}:over_after_ms",
        "lease_ms + grace_ms",
        "lease_ms",
        "the daemon does not allow for the grace period",
        "tests.unit.engine.test_leases:test_the_daemon_waits_for_the_slowest_server_and_the_fastest_daemon",
    ),
)
