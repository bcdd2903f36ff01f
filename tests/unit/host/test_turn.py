"""A turn: what the host knows at once is part of it, everything else is left to the host; it needs no store."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from waterflowd.dsl import compile_workflow
from waterflowd.engine import Run, commands, events, fold, inputs, outstanding
from waterflowd.host import turn
from waterflowd.model import ids, plan
from waterflowd.model.ids import AgentId, AttemptNo, JobId, StepId
from waterflowd.model.records import Trigger, TriggerKind
from waterflowd.model.statuses import Outcome

NOW = 1_700_000_000_000
RUN = ids.run_id(NOW, 1)
TWO_JOBS = "jobs: {a: {runs-on: web, steps: [{run: x}, {run: y}]}, b: {runs-on: web, steps: [{run: z}]}}"
AGENT = AgentId("agent-1")


def run_of(workflow: str) -> Run:
    compiled = compile_workflow("w.yml", workflow.encode()).plan
    assert compiled is not None
    return Run(RUN, plan.decode(compiled))


def start() -> inputs.StartRun:
    trigger = Trigger(kind=TriggerKind.CLI, by="uid:0", principal="uid:0")
    return inputs.StartRun(plan_hash="h", number=1, trigger=trigger, repository=None, revision=None, inputs={}, vars={})


def granted(job: str, step: str, number: int = 1, agent: AgentId = AGENT) -> inputs.SlotGranted:
    return inputs.SlotGranted(
        job=JobId(job),
        step=StepId(step),
        attempt=AttemptNo(number),
        epoch=1,
        agent=agent,
        agent_name="web-1",
        boot_id="boot",
        facts={},
    )


def finished(job: str, step: str) -> inputs.TaskFinished:
    return inputs.TaskFinished(
        job=JobId(job),
        step=StepId(step),
        attempt=AttemptNo(1),
        epoch=1,
        agent=AGENT,
        outcome=Outcome.SUCCESS,
        exit_code=0,
        started_at=NOW,
        finished_at=NOW,
    )


class Nothing:
    """A host that knows nothing at once."""

    def answer(self, run: Run, command: commands.Command) -> Sequence[inputs.Input] | None:
        return None


class Slots:
    """A host that grants every slot at once, and writes down what it was asked."""

    def __init__(self) -> None:
        self.asked: list[commands.Command] = []

    def answer(self, run: Run, command: commands.Command) -> Sequence[inputs.Input] | None:
        match command:
            case commands.RequestSlot(job=job, step=step, attempt=number):
                self.asked.append(command)
                return [granted(job, step, number)]
            case commands.FreeSlot():
                self.asked.append(command)
                return []
        return None


def kinds(items: Sequence[object]) -> list[str]:
    return [type(item).__name__ for item in items]


def test_what_is_not_known_at_once_is_left_to_the_host_in_order() -> None:
    """The run waits for the answers, which are inputs of later turns."""
    run = run_of(TWO_JOBS)

    taken = turn.take(run, [start()], NOW, Nothing())

    left = [item for item in taken.commands if isinstance(item, commands.RequestSlot)]
    assert [item.job for item in left] == ["a", "b"]
    assert kinds(taken.facts)[0] == "RunCreated"
    assert "AttemptDispatched" not in kinds(taken.facts)
    assert (taken.taken, taken.error) == (1, None)


def test_answers_that_are_known_at_once_are_part_of_the_turn() -> None:
    """One turn leads from the start to the tasks; the requests are not among the commands that are left."""
    run, host = run_of(TWO_JOBS), Slots()

    taken = turn.take(run, [start()], NOW, host)

    assert kinds(taken.facts).count("AttemptDispatched") == 2
    assert kinds(taken.commands).count("SendTask") == 2
    assert "RequestSlot" not in kinds(taken.commands)


def test_the_slot_of_an_ended_step_is_free_before_the_next_one_asks() -> None:
    """On a server with one slot, the next step of the job would wait for itself otherwise."""
    run, host = run_of(TWO_JOBS), Slots()
    turn.take(run, [start()], NOW, host)
    host.asked.clear()

    turn.take(run, [finished("a", "1")], NOW, host)

    assert kinds(host.asked) == ["FreeSlot", "RequestSlot"]


def test_a_slot_that_comes_too_late_is_freed() -> None:
    """The attempt has another slot already, or has ended: only the host knows that the slot exists."""
    run, host = run_of(TWO_JOBS), Slots()
    turn.take(run, [start()], NOW, host)
    host.asked.clear()

    taken = turn.take(run, [granted("a", "1", agent=AgentId("agent-2"))], NOW, host)

    assert taken.facts == []
    assert host.asked == [
        commands.FreeSlot(job=JobId("a"), step=StepId("1"), attempt=AttemptNo(1), agent=AgentId("agent-2"))
    ]


def test_the_same_slot_granted_twice_is_kept() -> None:
    """Answers may be repeated."""
    run, host = run_of(TWO_JOBS), Slots()
    turn.take(run, [start()], NOW, host)
    host.asked.clear()

    turn.take(run, [granted("a", "1")], NOW, host)

    assert host.asked == []


def test_an_input_that_raises_ends_the_turn_with_what_came_before() -> None:
    """The facts before it are valid; the inputs from it on were not taken."""
    run = run_of(TWO_JOBS)

    taken = turn.take(run, [start(), inputs.Input(), inputs.CancelRun(by="ann")], NOW, Slots())

    assert taken.taken == 1
    assert taken.error is not None
    assert kinds(taken.facts)[0] == "RunCreated"
    assert "CancelRequested" not in kinds(taken.facts)


def test_a_value_that_cannot_be_stored_is_not_a_fact() -> None:
    """It would fail the facts of other runs in the same transaction."""
    huge = msgspec.structs.replace(start(), inputs={"n": 1 << 70})

    taken = turn.take(run_of(TWO_JOBS), [huge], NOW, Slots())

    assert taken.facts == []
    assert "cannot be stored" in str(taken.error)


def test_after_a_recovery_outstanding_commands_go_through_a_turn() -> None:
    """The facts of the first turns are all that another host needs to continue."""
    first = run_of(TWO_JOBS)
    facts: list[events.RunEvent] = list(turn.take(first, [start()], NOW, Nothing()).facts)
    again, host = fold(RUN, first.plan, facts), Slots()

    taken = turn.take(again, [], NOW, host, tuple(outstanding(again)))

    assert kinds(host.asked) == ["RequestSlot", "RequestSlot"]
    assert kinds(taken.facts).count("AttemptDispatched") == 2
    assert kinds(taken.commands).count("SendTask") == 2
    assert "ArmTimer" in kinds(taken.commands)
