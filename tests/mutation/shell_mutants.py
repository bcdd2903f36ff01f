"""Mutants of the shell of streams on Temporal, which simulations on the in-memory Temporal must notice."""

from __future__ import annotations

from tests.mutation.mutant import Mutant

_SHELL, _EXECUTOR, _TURNS = (
    "waterflowd.temporal.workflow.shell:Stream",
    "waterflowd.temporal.workflow.command_executor:CommandExecutor",
    "waterflowd.temporal.workflow.turns:StreamActivities",
)
_HUNT = "tests.twin.simulation:hunt"
#: For what simulations rarely reach.
_UNIT = "tests.unit.temporal.test_shell:"
_RUNS = "waterflowd.temporal.run_turns:RunTurns"
_RUNS_UNIT = "tests.unit.temporal.test_run_turns:"
_ROOM = f"{_UNIT}test_what_does_not_fit_into_a_task_follows_in_the_next"
_CHECKED = f"{_UNIT}test_inputs_that_arrive_during_the_check_of_a_new_execution_are_taken_first"


def _mutant(where: str, old: str, new: str, meaning: str, test: str = _HUNT) -> Mutant:
    return Mutant(where, old, new, meaning, test)


MUTANTS: tuple[Mutant, ...] = (
    # Inputs.
    _mutant(f"{_SHELL}._receive", "self._number += 1", "pass", "inputs of a stream have one number"),
    _mutant(f"{_SHELL}._receive", "self._wakes.set()", "pass", "an input wakes no turn"),
    _mutant(f"{_SHELL}._receive", ".append(", ".appendleft(", "the newest input is taken first"),
    _mutant(
        f"{_SHELL}.input", "if accepted is None:", "if False:", "what no daemon has sealed becomes an input of a stream"
    ),
    _mutant(
        f"{_SHELL}.run",
        "self._receive(messages.CancelRequested(number=0, reason=reason))",
        "pass",
        "a request to cancel a workflow is lost",
    ),
    _mutant(
        f"{_SHELL}.run", "await asyncio.shield(turns)", "await turns", "a request to cancel a workflow ends its turns"
    ),
    # Turns.
    _mutant(
        f"{_SHELL}._take_turns", "self._wakes.clear()\n", "self._wakes.clear(); return None\n", "a stream ends early"
    ),
    _mutant(
        f"{_SHELL}._take_turns",
        "await self._commands.send_all()",
        "pass",
        "a stream ends before its signals have been delivered",
    ),
    _mutant(f"{_SHELL}._take_turns", "self._record(result)", "pass", "facts of a turn are not recorded"),
    _mutant(f"{_SHELL}._turn", "itertools.islice(self._inputs, INPUTS_MAX)", "self._inputs", "a turn has no limit"),
    _mutant(f"{_SHELL}._turn", "begins=not self._has_begun,", "begins=False,", "nothing is started again"),
    _mutant(
        f"{_SHELL}._turn", "begins=not self._has_begun,", "begins=True,", "each turn starts again what is in flight"
    ),
    _mutant(
        f"{_SHELL}._turn", "past=None if self._has_begun else past,", "past=None,", "an execution begins without facts"
    ),
    _mutant(f"{_SHELL}._turn", "if result.is_cold:", "if False:", "a daemon without the state gets no facts"),
    _mutant(f"{_SHELL}._turn", "seq=len(self._facts),", "seq=0,", "a turn does not know how many facts there are"),
    _mutant(f"{_SHELL}._turn", "state=self._state,", "", "a turn does not know which facts there are"),
    _mutant(f"{_SHELL}._turn", "run_id=self._run_id,", "run_id=workflow.info().run_id,", "a reset is not noticed"),
    _mutant(f"{_SHELL}._turn", "[self._next_run_id] = error.details", "pass", "a reset stream stalls forever"),
    _mutant(f"{_SHELL}._turn", "self._stall(code, text)", "pass", "a turn that fails is repeated forever"),
    _mutant(f"{_SHELL}._record", "self._facts += result.facts", "pass", "facts of a stream are forgotten"),
    _mutant(f"{_SHELL}._record", "self._has_begun = True", "pass", "an execution begins again and again"),
    _mutant(f"{_SHELL}._record", "if item.number not in taken", "if False", "inputs that no turn took are dropped"),
    _mutant(f"{_SHELL}._record", "item.number not in taken", "True", "inputs are taken again"),
    _mutant(
        f"{_SHELL}._record", 'answer.set_result(answers.get(identifier, b""))', "pass", "requests are never answered"
    ),
    _mutant(
        f"{_SHELL}.request",
        "return await answer",
        'return b""',
        "a request is answered before its turn",
    ),
    _mutant(f"{_SHELL}.retry", "self._wakes.set()", "pass", "a stalled stream does not continue"),
    _mutant(
        f"{_SHELL}.retry",
        "workflow.upsert_search_attributes([_stalled_key().value_unset()])",
        "pass",
        "a stall that has ended is still shown",
    ),
    # Commands.
    _mutant(f"{_SHELL}._has_ended", "any(", "False and any(", "a new execution starts again what has ended"),
    _mutant(f"{_EXECUTOR}.start_timer", "max(command.due_at - now, 1)", "1", "timers of streams fire too early"),
    _mutant(f"{_EXECUTOR}.schedule", "if command.id not in self._open:", "if True:", "an activity is scheduled twice"),
    _mutant(
        f"{_EXECUTOR}.cancel_activity",
        "self._waiting.pop(identifier, None)",
        "pass",
        "an activity that waits cannot be cancelled",
    ),
    _mutant(f"{_EXECUTOR}.cancel_activity", "handle.cancel()", "pass", "an open activity is not cancelled"),
    _mutant(f"{_EXECUTOR}.send", "self._has_sent.clear()", "pass", "a stream does not wait for its signals"),
    _mutant(f"{_EXECUTOR}.pump", "if self._task_count >= self._task_max:", "if False:", "a task has no limit"),
    _mutant(
        f"{_EXECUTOR}.pump",
        "self._pump_in_the_next_task()",
        "pass",
        "what does not fit into a task is forgotten",
        _ROOM,
    ),
    _mutant(
        f"{_EXECUTOR}._may_send", " and len(self._sending) < self._open_max", "", "signals in flight have no limit"
    ),
    _mutant(f"{_EXECUTOR}._may_schedule", " and len(self._open) < self._open_max", "", "open activities have no limit"),
    _mutant(
        f"{_EXECUTOR}._pump_in_the_next_task",
        "self._pumping = None",
        "pass",
        "only one task is continued",
        _ROOM,
    ),
    _mutant(f"{_EXECUTOR}._start_activity", "self._receive(outcome)", "pass", "the end of an activity is lost"),
    _mutant(
        f"{_EXECUTOR}._start_activity",
        "if self._open.get(command.id) is handle:",
        "if True:",
        "a cancelled activity is an input",
    ),
    _mutant(
        f"{_EXECUTOR}._start_sending",
        "except FailureError as error:",
        "except AssertionError as error:",
        "a signal that cannot be delivered stops its stream",
    ),
    _mutant(f"{_EXECUTOR}._start_sending", "self._has_sent.set()", "pass", "a stream that sends a signal never ends"),
    _mutant(
        f"{_SHELL}._forget_end",
        "if self._has_ended(identifier):",
        "if False:",
        "what was cancelled is an input",
        _UNIT + "test_the_end_of_what_was_cancelled_is_forgotten",
    ),
    # The next execution.
    _mutant(
        f"{_SHELL}._next_begin", "await self._commands.send_all()", "pass", "a new execution loses signals in flight"
    ),
    _mutant(
        f"{_SHELL}._next_begin",
        "self._number == begin.number and",
        "",
        "inputs are lost between executions",
        _CHECKED,
    ),
    _mutant(f"{_SHELL}._begin", "facts=self._facts,", "", "a new execution begins without facts"),
    _mutant(
        f"{_SHELL}._begin",
        "inputs=[item for item in self._inputs if not isinstance(item, messages.UpdateReceived)],",
        "",
        "a new execution begins without inputs",
    ),
    _mutant(f"{_SHELL}._begin", "number=self._number,", "", "a new execution numbers inputs from the beginning"),
    _mutant(f"{_SHELL}._begin", "subject=self._subject,", "", "a new execution has no subject"),
    _mutant(
        f"{_SHELL}.run",
        "search_attributes=workflow.info().typed_search_attributes",
        "",
        "a stall comes back with the next execution",
    ),
    _mutant(f"{_TURNS}.turn", "if request.run_id != run_id:", "if False:", "a reset execution takes turns"),
    # The engine on it.
    _mutant(
        f"{_RUNS}._turn",
        " or live.state != request.state",
        "",
        "a turn is based on a result that was lost",
        f"{_RUNS_UNIT}test_memory_is_used_only_for_the_facts_that_it_was_made_of",
    ),
    _mutant(
        f"{_RUNS}._take",
        "outstanding=[*issued, *_freed_slots(live.run)]",
        "",
        "a new execution of a run owes nothing",
        f"{_RUNS_UNIT}test_the_next_execution_begins_with_everything_outstanding",
    ),
)
