"""Mutants of child runs; see mutants.py."""

from __future__ import annotations

from tests.mutation.mutant import Mutant

_CHILD_RUNS, _NODE = "waterflowd.host.child_runs", "waterflowd.engine.rules.child_runs"
_STEP, _OUTSTANDING = "waterflowd.engine.step", "waterflowd.engine.outstanding"
_DRIVER, _BATCH, _RECOVERY = "waterflowd.host.driver", "waterflowd.host.batch", "waterflowd.host.recovery"

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        f"{_BATCH}:BatchBuilder._index",
        "self._others.extend(",
        "list(",
        "the end of a child run does not reach its step",
    ),
    Mutant(f"{_RECOVERY}:resume", "state.child_runs.request(", "(", "a requested child run is lost at a restart"),
    Mutant(
        f"{_DRIVER}:Driver.start_child_run",
        "if parent is None or not child_runs.is_requested(parent, attempt):",
        "if parent is None:",
        "a child run is started for an attempt that has ended",
    ),
    Mutant(
        f"{_CHILD_RUNS}:trigger_key",
        ":{attempt.number}",
        "",
        "the next attempt keeps the child run of the previous one",
    ),
    Mutant(
        f"{_CHILD_RUNS}:ChildRunRegistry.drop",
        "self._requested.pop(attempt, None)",
        "pass",
        "a child run request is not removed",
    ),
    Mutant(
        f"{_NODE}:ended",
        "_OUTCOMES.get(input.conclusion, Outcome.FAILURE)",
        "Outcome.SUCCESS",
        "a failed child run is a success",
    ),
    Mutant(
        f"{_NODE}:of_attempt",
        "is_forced or ",
        "",
        "a forced cancel waits for the child run",
    ),
    Mutant(
        f"{_OUTSTANDING}:_outstanding_of_child_run",
        "if step.stop or step.is_timed_out:",
        "if False:",
        "a cancel does not reach the child run",
        "tests.unit.host.test_child_runs:test_a_cancel_reaches_the_child_run",
    ),
    Mutant(
        "waterflowd.host.answers:LiveAnswers._watch",
        "child = state.child_runs.look_up(command.run)",
        "return []",
        "a child run that ended before recovery is not found",
        "tests.unit.host.test_child_runs:test_a_child_run_that_ended_before_recovery_is_found_in_the_log",
    ),
    Mutant(
        f"{_CHILD_RUNS}:start_draft",
        "scope=run.trigger.scope,",
        "",
        "a child run may use groups that the token of its parent may not",
        "tests.unit.host.test_child_runs:test_a_child_run_reaches_no_group_outside_the_token_that_started_its_parent",
    ),
    Mutant(
        f"{_CHILD_RUNS}:check_depth",
        ">= chains.CHILD_RUN_DEPTH_MAX",
        ">= 100",
        "child runs have no nesting limit",
    ),
)
