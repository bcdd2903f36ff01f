"""Turns of a run, called as the shell calls them: what they record, order, answer and repeat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from tests.lease_terms import TERMS
from waterflow_agent.errors import Stalled
from waterflow_agent.wire.messages import TaskId
from waterflowd.access.policy import AccessPolicy
from waterflowd.dsl import compile_workflow
from waterflowd.engine import Run, events, fold, inputs, outstanding
from waterflowd.fleet import events as fleet_events
from waterflowd.fleet.placement import Placement, Server
from waterflowd.fleet.registry import Registry
from waterflowd.model import ids, plan
from waterflowd.model.ids import AgentId, AttemptId, AttemptNo, JobId, StepId
from waterflowd.model.reasons import ReasonCode, reason
from waterflowd.model.records import Trigger, TriggerKind
from waterflowd.model.statuses import Conclusion, Outcome, Status
from waterflowd.reconcile.settings import RepositorySettings
from waterflowd.temporal import orders, run_commands, run_turns
from waterflowd.temporal.run_turns import RunTurns
from waterflowd.temporal.workflow import messages
from waterflowd.testing.scenario import dump

NOW = 1_700_000_000_000
RUN = ids.run_id(NOW, 1)
STREAM = f"run/{RUN}"
AGENT = AgentId("SHA256:one")
ONE = "jobs: {a: {runs-on: web, steps: [{run: x}]}}"
TWO = "jobs: {a: {runs-on: web, steps: [{run: x}, {run: y}]}, b: {runs-on: web, steps: [{run: z}]}}"
LOST_AFTER_MS = 600_000


def engine(access: AccessPolicy | None = None, servers: Sequence[str] = ()) -> RunTurns:
    registry = Registry()
    for name in servers:
        registry.apply(
            fleet_events.AgentApproved(
                at=NOW, agent=AgentId(name), name=name, groups=("web",), public_key="k", machine_id="m", by="t"
            )
        )
    return RunTurns(registry, Placement(registry), access or AccessPolicy(), lost_after_ms=LOST_AFTER_MS, terms=TERMS)


class Stream:
    """A stream as its shell has it, with the commands that turns have given."""

    def __init__(self, workflow: str, turns: RunTurns | None = None) -> None:
        # Other files mean that the workflow is one of a repository.
        compiled = compile_workflow("w.yml", workflow.encode(), {"x.yml": ONE.encode()})
        assert compiled.plan is not None, compiled.diagnostics
        self.subject = compiled.plan
        self.turns = turns or engine()
        self.facts: list[bytes] = []
        self.state = b""
        self.now = NOW
        self.number = 0
        self.has_begun = False
        self.commands: list[messages.AnyCommand] = []
        self.requests: list[messages.TurnRequest] = []

    def past(self) -> messages.Past:
        return messages.Past(subject=self.subject, facts=list(self.facts))

    async def start(self, **settings: Any) -> list[messages.AnyCommand]:
        trigger = Trigger(kind=TriggerKind.CLI, by="uid:0", principal="uid:0")
        given = {"repository": None, "revision": None, "inputs": {}, "vars": {}, **settings}
        return await self.feed(inputs.StartRun(plan_hash="h", number=7, trigger=trigger, **given))

    async def feed(self, *arrived: inputs.Input | messages.AnyInput) -> list[messages.AnyCommand]:
        """One turn; returns its commands."""
        numbered: list[messages.AnyInput] = []
        for item in arrived:
            self.number += 1
            if isinstance(item, inputs.Input):
                numbered.append(messages.SignalReceived(number=self.number, content=orders.INPUTS.pack(item)))
            else:
                numbered.append(msgspec.structs.replace(item, number=self.number))
        result = await self.turn(numbered)
        assert result.taken == [item.number for item in numbered]
        return list(result.commands)

    async def turn(self, numbered: list[messages.AnyInput]) -> messages.TurnResult:
        request = messages.TurnRequest(
            stream=STREAM,
            seq=len(self.facts),
            now=self.now,
            inputs=numbered,
            begins=not self.has_begun,
            past=None if self.has_begun else self.past(),
            state=self.state,
        )
        self.requests.append(request)
        result = await self.turns(request)
        if result.is_cold:
            assert self.has_begun
            self.requests.append(msgspec.structs.replace(request, past=self.past()))
            result = await self.turns(self.requests[-1])
        assert not result.is_cold
        assert result.seq == request.seq + len(result.facts)
        self.has_begun, self.state = True, result.state
        self.facts += result.facts
        self.commands += result.commands
        return result

    async def continue_as_new(self) -> list[messages.AnyCommand]:
        """The next execution begins."""
        self.has_begun, self.state = False, b""
        return await self.feed()

    def events(self) -> list[events.RunEvent]:
        return [run_turns.FACTS.unpack(STREAM, fact).event for fact in self.facts]

    def run(self) -> Run:
        return fold(RUN, plan.decode(self.subject), self.events())

    def attempt(self, job: str, step: str) -> AttemptId:
        number = self.run().jobs_by_id[JobId(job)].steps_by_id[StepId(step)].attempts[-1].number
        return AttemptId(RUN, JobId(job), StepId(step), number)


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


def finished(job: str, step: str, number: int = 1, outcome: Outcome = Outcome.SUCCESS) -> inputs.TaskFinished:
    return inputs.TaskFinished(
        job=JobId(job),
        step=StepId(step),
        attempt=AttemptNo(number),
        epoch=1,
        agent=AGENT,
        outcome=outcome,
        exit_code=0,
        started_at=NOW,
        finished_at=NOW,
    )


def task(job: str, step: str) -> str:
    """The id of the activity of a first attempt."""
    return orders.task_activity(TaskId(AttemptId(RUN, JobId(job), StepId(step), AttemptNo(1)), 1), AGENT)


def completed(identifier: str, item: inputs.Input | None = None) -> messages.ActivityCompleted:
    content = b"" if item is None else orders.INPUTS.pack(item)
    return messages.ActivityCompleted(number=0, id=identifier, content=content)


def scheduled(commands: Sequence[messages.AnyCommand], name: str = "") -> list[messages.ScheduleActivity]:
    found = [command for command in commands if isinstance(command, messages.ScheduleActivity)]
    return [command for command in found if name in ("", command.name)]


def order(command: messages.ScheduleActivity) -> Any:
    return orders.ORDERS.unpack(command.content)


def of(commands: Sequence[messages.AnyCommand], kind: type[Any]) -> list[Any]:
    return [command for command in commands if isinstance(command, kind)]


def answers(commands: Sequence[messages.AnyCommand]) -> list[run_turns.Answer]:
    return [run_turns.ANSWERS.unpack(command.content) for command in of(commands, messages.AnswerUpdate)]


def update(item: inputs.Input | None, identifier: str = "u") -> messages.UpdateReceived:
    content = b"" if item is None else orders.INPUTS.pack(item)
    return messages.UpdateReceived(number=0, id=identifier, content=content)


async def test_a_run_goes_from_its_start_to_its_end() -> None:
    """Each step of a job: its slot, its task, and what follows; at the end the server is released, and the stream ends."""
    stream = Stream(TWO)

    first = await stream.start()
    assert [(item.id, item.queue) for item in scheduled(first)] == [
        ("place/a/1/1", "group/web"),
        ("place/b/1/1", "group/web"),
    ]
    slot = order(scheduled(first)[0])
    assert slot == orders.SlotOrder(
        attempt=AttemptId(RUN, JobId("a"), StepId("1"), AttemptNo(1)), group="web", node="shell"
    )
    assert of(first, messages.SetAttributes)[0].values["WaterflowStatus"] == "running"

    tasks = await stream.feed(completed("place/a/1/1", granted("a", "1")), completed("place/b/1/1", granted("b", "1")))
    assert [(item.id, item.queue) for item in scheduled(tasks)] == [
        (task("a", "1"), f"agent/{AGENT}"),
        (task("b", "1"), f"agent/{AGENT}"),
    ]
    first_task = scheduled(tasks)[0]
    assert (first_task.heartbeat_ms, first_task.schedule_to_start_ms) == (60_000, LOST_AFTER_MS)
    assert first_task.attempts_max == 0
    assert order(first_task).draft.task.key.attempt == AttemptId(RUN, JobId("a"), StepId("1"), AttemptNo(1))
    assert order(first_task).agent_name == "web-1"

    following = await stream.feed(completed(task("a", "1"), finished("a", "1")))
    assert [(item.id, item.queue) for item in scheduled(following)] == [("place/a/2/1", f"agent/{AGENT}")]
    released = await stream.feed(completed(task("b", "1"), finished("b", "1")))
    assert [item.id for item in scheduled(released)] == [f"release/b/{AGENT}"]
    assert order(scheduled(released)[0]) == orders.ReleaseOrder(agent=AGENT, run=RUN, job=JobId("b"))
    await stream.feed(completed(f"release/b/{AGENT}"), completed("place/a/2/1", granted("a", "2")))
    end = await stream.feed(completed(task("a", "2"), finished("a", "2")))

    # Temporal would drop an activity that is scheduled together with the end.
    assert [item.id for item in scheduled(end)] == [f"release/a/{AGENT}"]
    assert not of(end, messages.Complete)
    assert stream.run().conclusion is Conclusion.SUCCESS
    [attributes] = of(end, messages.SetAttributes)
    assert attributes.values == {
        "WaterflowPath": "w.yml",
        "WaterflowStatus": "completed",
        "WaterflowConclusion": "success",
        "WaterflowTrigger": "cli",
        "WaterflowNumber": 7,
    }
    [memo] = of(end, messages.SetMemo)
    assert run_turns.ROWS.unpack(memo.content).status is Status.COMPLETED
    last = await stream.feed(completed(f"release/a/{AGENT}"))
    assert run_turns.ROWS.unpack(of(last, messages.Complete)[0].content) == run_turns.ROWS.unpack(memo.content)


async def test_a_completed_run_does_not_wait_for_a_server_that_is_away() -> None:
    """After a minute the stream ends; the handshake with the server settles what it has missed."""
    stream = Stream(ONE)
    await stream.start()
    await stream.feed(completed("place/a/1/1", granted("a", "1")))
    end = await stream.feed(completed(task("a", "1"), finished("a", "1")))

    [timer] = of(end, messages.StartTimer)
    assert timer.due_at == NOW + run_turns.CLOSE_MS
    assert of(await stream.feed(messages.TimerFired(number=0, id=timer.id)), messages.Complete)


async def test_a_completed_run_ends_in_the_next_turn_of_another_daemon() -> None:
    """What the first daemon has in memory about releases is not recorded."""
    stream = Stream(ONE)
    await stream.start()
    await stream.feed(completed("place/a/1/1", granted("a", "1")))
    await stream.feed(completed(task("a", "1"), finished("a", "1")))
    stream.turns = engine()
    assert of(await stream.continue_as_new(), messages.Complete)


@pytest.mark.parametrize("image", ["node:22", ""])
async def test_a_slot_for_a_job_with_containers_needs_a_docker_engine(image: str) -> None:
    """The order says so, because the gateway that grants the slot does not know the plan. Without an image there is none."""
    start = "on: {workflow_dispatch: {inputs: {image: {default: 'node:22'}}}}\n"
    stream = Stream(f"{start}jobs: {{a: {{runs-on: web, container: '${{{{ inputs.image }}}}', steps: [{{run: x}}]}}}}")

    (place,) = scheduled(await stream.start(inputs={"image": image}))

    assert order(place).needs_docker is bool(image)


async def test_a_repeated_turn_gives_the_same_result() -> None:
    """On the same daemon, whose memory is ahead of the request, and on another one."""
    stream = Stream(TWO)
    await stream.start()
    await stream.feed(granted("a", "1"))
    for request in [msgspec.structs.replace(each, past=each.past or stream.past()) for each in stream.requests]:
        known = stream.facts[: request.seq]
        request = msgspec.structs.replace(request, past=messages.Past(subject=stream.subject, facts=known))
        first, again, elsewhere = await stream.turns(request), await stream.turns(request), await engine()(request)
        assert first == again == elsewhere
        assert first.facts == stream.facts[request.seq : first.seq]
        assert first.commands


async def test_memory_is_used_only_for_the_facts_that_it_was_made_of() -> None:
    """After a lost result another daemon may have recorded as many other facts."""
    stream = Stream(ONE)
    await stream.start()
    before = len(stream.facts)
    other = Stream(ONE)
    other.facts, other.state, other.has_begun = list(stream.facts), stream.state, True
    other.turns = stream.turns
    # A turn of this daemon, of which Temporal never hears.
    await stream.feed(granted("a", "1", agent=AgentId("SHA256:lost")))
    other.turns = engine()
    await other.feed(granted("a", "1"))
    assert len(stream.facts) == len(other.facts) > before

    other.turns = stream.turns
    tasks = await other.feed(granted("a", "1"))
    await other.feed(completed(task("a", "1"), finished("a", "1")))

    assert not scheduled(tasks)
    assert other.requests[-2].past is not None, "it was asked for all facts"
    assert other.run().conclusion is Conclusion.SUCCESS


async def test_a_daemon_without_the_run_is_cold() -> None:
    """It gets all facts, and continues as the first one would."""
    stream = Stream(TWO)
    await stream.start()
    stream.turns = engine()
    tasks = await stream.feed(granted("a", "1"))
    assert [item.id for item in scheduled(tasks)] == [task("a", "1")]
    assert [request.past is not None for request in stream.requests] == [True, False, True]


async def test_the_facts_give_the_run_again() -> None:
    """The fold of the recorded bytes is the run in memory, and times are those of the turns."""
    stream = Stream(TWO)
    await stream.start()
    stream.now += 1000
    await stream.feed(granted("a", "1"))

    stored = [run_turns.FACTS.unpack(STREAM, fact) for fact in stream.facts]
    assert {fact.at for fact in stored} == {NOW, NOW + 1000}
    live = stream.turns._runs[STREAM].run
    assert dump(live) == dump(stream.run())
    assert stream.run().jobs_by_id[JobId("a")].steps_by_id[StepId("1")].attempts[0].dispatched_at == NOW + 1000


async def test_the_next_execution_begins_with_everything_outstanding() -> None:
    """In the middle of an attempt: the same activities and timers, under the same ids."""
    stream = Stream(TWO)
    await stream.start()
    tasks = await stream.feed(granted("a", "1"))
    again = await stream.continue_as_new()

    assert {item.id for item in scheduled(again)} == {task("a", "1"), "place/b/1/1"}
    # Only the gateway needs to know that this is not the first order.
    [first], [repeated] = scheduled(tasks, orders.ATTEMPT), scheduled(again, orders.ATTEMPT)
    assert order(repeated) == msgspec.structs.replace(order(first), is_repeated=True)
    assert msgspec.structs.replace(repeated, content=first.content) == first
    armed = {item.id for item in of(again, messages.StartTimer)}
    assert armed == {run_commands.timer_id(each.timer) for each in outstanding(stream.run()) if hasattr(each, "timer")}
    assert of(again, messages.SetMemo)


async def test_stale_inputs_change_nothing() -> None:
    """Everything may be delivered any number of times."""
    stream = Stream(TWO)
    await stream.start()
    stale: list[inputs.Input | messages.AnyInput] = [
        granted("a", "1"), finished("b", "9"), completed("place/a/1/1", granted("a", "1")),
        messages.TimerFired(number=0, id=run_commands.timer_id(inputs.Timer(kind=inputs.TimerKind.STEP_RETRY, due_at=1))),
        messages.ActivityFailed(number=0, id=task("gone", "1"), code="timeout", text="", timeout="schedule-to-start"),
        messages.ActivityFailed(number=0, id=f"release/a/{AGENT}", code="timeout", text=""),
        messages.SignalNotDelivered(number=0, id="x", text=""),
    ]  # fmt: skip
    await stream.feed(granted("a", "1"))
    known = list(stream.facts)
    for item in stale:
        assert not scheduled(await stream.feed(item))
        assert stream.facts == known


async def test_a_second_grant_does_not_end_the_attempt() -> None:
    """Two gateways may have granted a slot; the second one frees its own."""
    stream = Stream(TWO)
    await stream.start()
    await stream.feed(granted("a", "1"))
    assert await stream.feed(granted("a", "1", agent=AgentId("SHA256:two"))) == []


async def test_an_attempt_whose_server_stays_away_is_lost() -> None:
    """Its activity has waited in the server's queue for `lost-after`."""
    stream = Stream(ONE)
    await stream.start()
    await stream.feed(granted("a", "1"))
    failed = messages.ActivityFailed(number=0, id=task("a", "1"), code="timeout", text="t", timeout="schedule-to-start")
    ended = await stream.feed(failed)

    assert stream.run().conclusion is Conclusion.LOST
    [cause] = [event.reason for event in stream.events() if isinstance(event, events.AttemptFinished)]
    assert (cause.code, cause.text) == (ReasonCode.SERVER_LOST, "server web-1: not connected for 600 s")
    # The server is told to stop it, should it come back within a minute; the activity itself has ended.
    [stop] = scheduled(ended, orders.CANCEL)
    assert (stop.id, stop.schedule_to_start_ms) == ("cancel/a/1/1/forced", run_commands.COURTESY_MS)
    assert messages.CancelActivity(id=stop.id) not in ended


async def test_an_attempt_that_cannot_be_reported_has_an_unknown_outcome() -> None:
    """Its step may have run: it is not repeated."""
    stream = Stream(ONE)
    await stream.start()
    await stream.feed(granted("a", "1"))
    await stream.feed(messages.ActivityFailed(number=0, id=task("a", "1"), code="refused", text="not sealed"))
    [cause] = [event.reason for event in stream.events() if isinstance(event, events.AttemptFinished)]
    assert cause.code is ReasonCode.OUTCOME_UNKNOWN
    assert cause.text == "the step's report could not be delivered: not sealed (refused)"


async def test_a_slot_that_nobody_could_look_for_is_denied() -> None:
    """The job fails with the reason."""
    stream = Stream(ONE)
    await stream.start()
    await stream.feed(messages.ActivityFailed(number=0, id="place/a/1/1", code="refused", text="not sealed"))
    assert stream.run().conclusion is Conclusion.FAILURE
    assert "no daemon could look for a server: not sealed (refused)" in str(stream.events())


async def test_a_cancel_stops_what_runs() -> None:
    """It is told to the server as long as the attempt is open; then nothing is left of it."""
    stream = Stream(TWO)
    await stream.start()
    await stream.feed(granted("a", "1"))
    stopped = await stream.feed(inputs.CancelRun(by="ada"))

    assert messages.CancelActivity(id="place/b/1/1") in stopped
    [stop] = scheduled(stopped)
    assert (stop.id, stop.queue, stop.schedule_to_start_ms) == ("cancel/a/1/1", f"agent/{AGENT}", 0)
    found = order(stop)
    assert (found.task.attempt, found.task.epoch, found.is_forced) == (stream.attempt("a", "1"), 1, False)
    ended = await stream.feed(completed(task("a", "1"), finished("a", "1", outcome=Outcome.CANCELLED)))
    assert messages.CancelActivity(id="cancel/a/1/1") in ended
    assert stream.run().conclusion is Conclusion.CANCELLED


async def test_a_forced_cancel_ends_the_run_and_still_reaches_the_server() -> None:
    """The run does not wait for the server, but the stream waits until the server was told, or a minute."""
    stream = Stream(ONE)
    await stream.start()
    await stream.feed(granted("a", "1"))
    ended = await stream.feed(inputs.CancelRun(by="ada", is_forced=True))

    assert stream.run().is_completed
    assert not of(ended, messages.Complete)
    assert messages.CancelActivity(id=task("a", "1")) in ended
    ids_ = [item.id for item in scheduled(ended)]
    assert ids_ == ["cancel/a/1/1/forced", f"release/a/{AGENT}"]
    assert not of(await stream.feed(completed(ids_[0])), messages.Complete)
    assert of(await stream.feed(completed(ids_[1])), messages.Complete)


async def test_an_operator_of_temporal_cancels_the_run() -> None:
    """A cancel with Temporal's own tools ends the run as one through the API does, and its reason is recorded."""
    stream = Stream(ONE)
    await stream.start()
    await stream.feed(messages.CancelRequested(number=0, reason="maintenance"))
    assert stream.run().conclusion is Conclusion.CANCELLED
    assert "Temporal's operator: maintenance" in str(stream.events())


async def test_timers_are_the_engines() -> None:
    """A timer's id contains it, so a turn needs nothing else to know what is due."""
    stream = Stream("jobs: {a: {runs-on: web, steps: [{uses: sleep, with: {duration: 5s}}]}}")
    first = await stream.start()
    timers = {run_commands.timer_of(item.id): item for item in of(first, messages.StartTimer)}
    [sleep] = [timer for timer in timers if timer.kind is inputs.TimerKind.STEP_SLEEP]
    assert timers[sleep].due_at == sleep.due_at == NOW + 5000

    stream.now = sleep.due_at
    await stream.feed(messages.TimerFired(number=0, id=timers[sleep].id))
    assert stream.run().conclusion is Conclusion.SUCCESS
    assert {item.id for item in of(stream.commands, messages.CancelTimer)} == {item.id for item in timers.values()}


APPROVAL = "jobs: {a: {runs-on: web, steps: [{uses: approval, with: {approvers: [ada]}}]}}"


async def test_a_request_is_answered_with_the_row_or_a_refusal() -> None:
    """As with the log engine: who may not decide is refused, and so is what is not waiting. The run continues."""
    stream = Stream(APPROVAL)
    await stream.start()

    def decision(by: str, job: str = "a") -> messages.UpdateReceived:
        decided = inputs.DecideApproval(job=JobId(job), step=StepId("1"), by=by, is_approved=True)
        return update(decided, f"{by} {job}")

    refused = await stream.feed(decision("eve"), decision("ada", "b"), update(None))
    first, second, row = answers(refused)
    assert (first.refusal and first.refusal.code, second.refusal and second.refusal.status) == ("WF602", 409)
    assert row.row is not None
    assert row.row.status is Status.RUNNING
    assert [item.id for item in of(refused, messages.AnswerUpdate)] == ["eve a", "ada b", "u"]

    accepted, late = answers(await stream.feed(decision("ada"), update(inputs.CancelRun(by="eve"))))
    assert accepted.row is not None
    assert accepted.row.conclusion is Conclusion.SUCCESS
    assert late.refusal is not None
    assert late.refusal.error.code == "WF606"
    assert stream.run().conclusion is Conclusion.SUCCESS


async def test_a_request_that_is_not_understood_is_refused() -> None:
    """It reaches only its sender: the run does not stall."""
    stream = Stream(ONE)
    await stream.start()
    [answer] = answers(await stream.feed(messages.UpdateReceived(number=0, id="u", content=b"damaged")))
    assert answer.refusal is not None
    assert "this daemon cannot read the request" in answer.refusal.text
    assert not stream.run().is_cancelled


async def test_an_input_of_a_newer_release_stalls_the_run_after_those_before_it() -> None:
    """Nothing is skipped, and nothing that came before is lost: it is recorded, and only then the turn fails."""
    stream = Stream(TWO)
    await stream.start()
    newer = b"\x92\x01" + msgspec.msgpack.encode({"type": "made-up"})
    arrived: list[messages.AnyInput] = [
        messages.SignalReceived(number=11, content=orders.INPUTS.pack(granted("a", "1"))),
        messages.SignalReceived(number=12, content=newer),
        messages.SignalReceived(number=13, content=orders.INPUTS.pack(granted("b", "1"))),
    ]
    result = await stream.turn(arrived)
    assert result.taken == [11]
    assert [item.id for item in scheduled(result.commands)] == [task("a", "1")]

    known = list(stream.facts)
    for _ in range(3):
        with pytest.raises(Stalled, match=r'its type is "made-up".*upgrade Waterflow'):
            await stream.turn(arrived[1:])
    assert stream.facts == known
    # The upgraded daemon reads it; here the input after it shows that the run is as it was.
    assert [item.id for item in scheduled((await stream.turn(arrived[2:])).commands)] == [task("b", "1")]


async def test_a_turn_takes_as_many_inputs_as_fit_into_a_marker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Together, large results would stall the run; one after the other they do not."""
    monkeypatch.setattr(run_turns, "INPUT_BYTES_MAX", 1)
    stream = Stream(TWO)
    await stream.start()
    arrived: list[messages.AnyInput] = [
        messages.SignalReceived(number=10 + index, content=orders.INPUTS.pack(granted(job, "1")))
        for index, job in enumerate("ab")
    ]
    assert (await stream.turn(arrived)).taken == [10]
    assert (await stream.turn(arrived[1:])).taken == [11]
    assert len(scheduled(stream.commands, orders.ATTEMPT)) == 2


async def test_facts_or_a_plan_of_a_newer_release_stall_the_run() -> None:
    """With what to do, and before anything is decided."""
    stream = Stream(ONE)
    await stream.start()
    stream.turns = engine()
    stream.facts[0] = stream.facts[0].replace(b"run-created", b"run-changed")
    assert "run-changed" in str(stream.facts[0])
    with pytest.raises(Stalled, match=r"cannot read a fact of run/.*upgrade Waterflow"):
        await stream.feed(inputs.CancelRun(by="ada"))
    stream.facts, stream.state, stream.has_begun, stream.subject = [], b"", False, b"\xc1"
    with pytest.raises(Stalled, match=r"the plan of run/.* cannot be read.*upgrade Waterflow"):
        await stream.start()


async def test_a_group_that_the_repository_may_not_use_is_refused_in_the_turn() -> None:
    """No gateway is asked."""
    access = AccessPolicy([RepositorySettings(name="shop", url="/srv/shop", groups=("other",))])
    stream = Stream(ONE, engine(access))
    first = await stream.start(repository="shop")
    assert not scheduled(first)
    assert stream.run().conclusion is Conclusion.FAILURE
    assert ReasonCode.GROUP_NOT_ALLOWED.value in msgspec.json.encode(stream.events()).decode()


async def test_a_run_says_what_it_waits_for() -> None:
    """As far as this daemon knows; the gateways are asked all the same, and the reason ends when one grants a slot."""
    stream = Stream(TWO)
    first = await stream.start()
    assert len(scheduled(first, orders.PLACE)) == 2
    [cause, _] = [
        event.reason for event in stream.events() if isinstance(event, events.JobWaiting | events.AttemptWaiting)
    ]
    assert cause.code is ReasonCode.NO_SERVER_IN_GROUP

    stream.turns = engine(servers=[AGENT])
    stream.turns._placement.connect(Server(agent=AGENT, is_connected=True, slots=1, nodes=frozenset({"shell"})))
    await stream.feed(granted("a", "1"))
    known = len(stream.facts)
    await stream.feed(finished("a", "1"))
    assert not [
        event for event in stream.events()[known:] if isinstance(event, events.JobWaiting | events.AttemptWaiting)
    ]
    stream.turns._placement.disconnect(AGENT, NOW, "gone")
    await stream.feed(granted("a", "2"), finished("a", "2"))
    assert stream.run().jobs_by_id[JobId("a")].conclusion is Conclusion.SUCCESS


async def test_the_slot_of_a_jobs_own_server_is_answered_in_the_turn() -> None:
    """Its server has just reported: the next attempt follows at once, with the boot and the name that are known."""
    stream = Stream(TWO, engine(servers=[AGENT]))
    await stream.start()
    await stream.feed(granted("a", "1"))
    following = await stream.feed(finished("a", "1"))

    assert [item.id for item in scheduled(following)] == [task("a", "2")]
    [dispatched] = [event for event in stream.events() if isinstance(event, events.AttemptDispatched)][1:]
    assert (dispatched.agent, dispatched.agent_name, dispatched.boot_id) == (AGENT, AGENT, "boot")
    assert dispatched.epoch == TERMS.epoch
    end = await stream.feed(completed(task("a", "2"), finished("a", "2")))
    assert [item.id for item in scheduled(end)] == [f"release/a/{AGENT}"]


@pytest.mark.parametrize("is_connected_here", [False, True])
async def test_a_gateway_grants_the_slot_of_a_server_that_may_be_away(is_connected_here: bool) -> None:
    """It has not reported for a while, and is not connected here: a request waits for it for longer than an attempt does."""
    stream = Stream(
        "jobs: {a: {runs-on: web, steps: [{run: x}, {uses: sleep, with: {duration: 1m}}, {run: y}]}}",
        engine(servers=[AGENT]),
    )
    if is_connected_here:
        here = Server(agent=AGENT, is_connected=True, slots=1, nodes=frozenset({"shell"}), boot_id="boot-2")
        stream.turns._placement.connect(here)
    await stream.start()
    await stream.feed(granted("a", "1"))
    [timer] = [item for item in of(await stream.feed(finished("a", "1")), messages.StartTimer) if "sleep" in item.id]
    stream.now += 60_000
    following = await stream.feed(messages.TimerFired(number=0, id=timer.id))

    assert [item.name for item in scheduled(following)] == [orders.ATTEMPT if is_connected_here else orders.PLACE]
    if is_connected_here:
        assert order(scheduled(following)[0]).draft.task.boot_id == "boot-2"


async def test_an_attempt_that_waits_at_its_gateway_is_not_running() -> None:
    """People see what it waits for, until it starts; a wait that is reported too late changes nothing."""
    stream = Stream(TWO, engine(servers=[AGENT]))
    await stream.start()
    await stream.feed(granted("a", "1"))
    await stream.feed(finished("a", "1"))
    cause = reason(ReasonCode.NO_FREE_SLOT, "all slots are in use")
    waits = inputs.SlotPending(job=JobId("a"), step=StepId("2"), attempt=AttemptNo(1), reason=cause)

    await stream.feed(waits)
    step = stream.run().jobs_by_id[JobId("a")].steps_by_id[StepId("2")]
    assert (step.status, step.reason, step.attempts[0].reason) == (Status.WAITING, cause, cause)
    started = inputs.TaskStarted(
        job=JobId("a"), step=StepId("2"), attempt=AttemptNo(1), epoch=1, agent=AGENT, started_at=NOW
    )
    await stream.feed(started, waits)
    step = stream.run().jobs_by_id[JobId("a")].steps_by_id[StepId("2")]
    assert (step.status, step.reason.code) == (Status.RUNNING, ReasonCode.STARTED)
    await stream.feed(completed(task("a", "2"), finished("a", "2")), waits)
    assert stream.run().jobs_by_id[JobId("a")].conclusion is Conclusion.SUCCESS


async def test_the_servers_of_a_group_are_listed_in_the_turn() -> None:
    """A job on each server of its group; while there is none, it looks again after half a minute."""
    stream = Stream("jobs: {a: {runs-on: {group: web, target: each}, steps: [{run: x}]}}")
    first = await stream.start()
    [again] = [item for item in of(first, messages.StartTimer) if item.id.startswith("list-servers/")]
    assert again.due_at == NOW + run_turns.LIST_AGAIN_MS
    assert not scheduled(first)

    stream.turns = engine(servers=("one", "two"))
    found = await stream.feed(messages.TimerFired(number=0, id=again.id))
    assert [(item.id, item.queue) for item in scheduled(found)] == [
        ("place/a[one]/1/1", "agent/one"),
        ("place/a[two]/1/1", "agent/two"),
    ]
    assert messages.CancelTimer(id=again.id) in found
    assert not of(await stream.feed(messages.TimerFired(number=0, id=again.id)), messages.StartTimer)


async def test_a_server_that_is_not_connected_here_may_be_connected_to_another_daemon() -> None:
    """So `offline: fail` waits until no gateway has taken the request for a while. One that is connected here has time."""
    stream = Stream(
        "jobs: {a: {runs-on: {group: web, target: each}, steps: [{run: x}]}}", engine(servers=("one", "two"))
    )
    here = Server(agent=AgentId("one"), is_connected=True, slots=1, nodes=frozenset({"shell"}))
    stream.turns._placement.connect(here)
    first = await stream.start()
    assert [(item.id, item.schedule_to_start_ms) for item in scheduled(first)] == [
        ("place/a[one]/1/1", 0),
        ("place/a[two]/1/1", run_commands.AWAY_AFTER_MS),
    ]
    await stream.feed(
        messages.ActivityFailed(number=0, id="place/a[two]/1/1", code="timeout", text="", timeout="schedule-to-start")
    )
    job = stream.run().jobs_by_id[JobId("a[two]")]
    assert job.conclusion is Conclusion.FAILURE
    assert "server two is not connected" in job.reason.text


async def test_a_job_hears_of_the_servers_that_it_waits_for() -> None:
    """Once; a run that is no longer in memory, or no longer waits, is forgotten."""
    stream = Stream("jobs: {a: {runs-on: {group: web, target: each}, steps: [{run: x}]}}")
    await stream.start()
    assert stream.turns.changed_lists() == []
    stream.turns._registry.apply(
        fleet_events.AgentApproved(
            at=NOW, agent=AGENT, name="one", groups=("web",), public_key="k", machine_id="m", by="t"
        )
    )
    [(run, listed)] = stream.turns.changed_lists()
    assert (run, listed.servers) == (RUN, [(AGENT, "one")])
    assert [item.id for item in scheduled(await stream.feed(listed))] == ["place/a[one]/1/1"]
    assert stream.turns.changed_lists() == []
    assert not stream.turns._unlisted


async def test_only_so_many_runs_are_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was dropped is cold."""
    monkeypatch.setattr(run_turns, "RUNS_CACHED", 1)
    stream = Stream(ONE)
    await stream.start()
    other = msgspec.structs.replace(stream.requests[0], stream="run/other")
    await stream.turns(other)
    await stream.feed(inputs.CancelRun(by="ada"))
    assert [request.past is not None for request in stream.requests] == [True, False, True]


async def test_a_path_that_is_too_long_for_a_search_attribute_is_left_out() -> None:
    """An SQL database could not index the run. A list finds it by its row."""
    stream = Stream(ONE)
    row = msgspec.structs.replace(
        run_turns.ROWS.unpack(of(await stream.start(), messages.SetMemo)[0].content), path="p" * 256
    )
    assert "WaterflowPath" not in run_turns.attributes(row)
    assert run_turns.attributes(msgspec.structs.replace(row, path="p" * 255))["WaterflowPath"] == "p" * 255


def test_a_refusal_is_the_error_that_it_was() -> None:
    """Code, place and status reach the API's client."""
    refusal = run_turns.Refusal(code="WF602", text="no", where="job", status=403)
    answer = run_turns.ANSWERS.unpack(run_turns.ANSWERS.pack(run_turns.Answer(refusal=refusal)))
    error = answer.refusal.error
    assert (error.code, error.text, error.where, error.status) == ("WF602", "no", "job", 403)
