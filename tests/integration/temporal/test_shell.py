"""The workflow code on Temporal's real server: what it records, replays, carries over, and refuses."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from temporalio import activity
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import AsyncActivityHandle, Client, WorkflowHandle, WorkflowHistory, WorkflowUpdateFailedError
from temporalio.converter import ActivitySerializationContext, DataConverter, WorkflowSerializationContext
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import Replayer, Worker

from tests.integration.temporal import toy_engine
from tests.integration.temporal.server import KEYS, LOST_TASK_S, Namespace
from tests.integration.temporal.toy_engine import Fact, ToyEngine, content, inputs
from tests.patience import PATIENCE_S
from waterflow_agent.errors import Stalled
from waterflowd.temporal.sealing import codec
from waterflowd.temporal.workflow import messages, shell
from waterflowd.temporal.workflow.turns import StreamActivities

QUEUE = "streams"
DONE = content(messages.Complete(content=b"done"))


@asynccontextmanager
async def daemon(client: Client, engine: ToyEngine, *, cache: int = 100) -> AsyncIterator[None]:
    """A worker that carries out streams with this engine."""
    activities = StreamActivities(engine, client.data_converter)
    async with Worker(
        client,
        task_queue=QUEUE,
        workflows=[shell.Stream],
        activities=activities.all,
        max_cached_workflows=cache,
        graceful_shutdown_timeout=timedelta(0),
    ):
        yield


@dataclass
class Agents:
    """Workers of the queue `agents`: they note what they start, and leave it open until the test ends it by name."""

    started: list[tuple[str, bytes]] = field(default_factory=list)

    @activity.defn(name="attempt")
    async def attempt(self, argument: bytes) -> bytes:
        """Starts, and ends when the test completes it."""
        self.started.append((activity.info().activity_id, argument))
        activity.raise_complete_async()

    @activity.defn(name="echo")
    async def echo(self, argument: bytes) -> bytes:
        """Ends at once."""
        self.started.append((activity.info().activity_id, argument))
        return argument.upper()

    @asynccontextmanager
    async def running(self, client: Client) -> AsyncIterator[None]:
        """Polls the queue."""
        async with Worker(client, task_queue="agents", activities=[self.attempt, self.echo]):
            yield


async def start(
    client: Client, begin: messages.Begin | None = None, *, task_timeout_s: float = PATIENCE_S
) -> WorkflowHandle[Any, bytes]:
    """Starts a stream; `task_timeout_s` is `LOST_TASK_S` if the server will be killed."""
    return await client.start_workflow(
        messages.WORKFLOW_TYPE,
        begin or messages.Begin(),
        id=f"run/{uuid4().hex}",
        task_queue=QUEUE,
        task_timeout=timedelta(seconds=task_timeout_s),
        result_type=bytes,
    )


async def send(handle: WorkflowHandle[Any, bytes], *commands: messages.AnyCommand) -> None:
    """Sends an input that is answered with these commands."""
    await handle.signal(messages.INPUT_SIGNAL, content(*commands))


async def complete(attempt: AsyncActivityHandle, result: bytes) -> None:
    """Completes the activity by name; a gateway, too, tries again while the next execution has not scheduled it yet."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                await attempt.complete(result)
                return
            except RPCError as error:
                # A server that has just been started may not answer yet.
                if error.status not in (RPCStatusCode.NOT_FOUND, RPCStatusCode.UNAVAILABLE):
                    raise
                await asyncio.sleep(0.05)


def by_name(client: Client, handle: WorkflowHandle[Any, bytes], identifier: str) -> AsyncActivityHandle:
    """An activity that is open somewhere, known by its name alone."""
    context = ActivitySerializationContext(
        namespace=client.namespace,
        activity_id=identifier,
        activity_type=None,
        activity_task_queue=None,
        workflow_id=handle.id,
        workflow_type=None,
        is_local=False,
    )
    found = client.get_async_activity_handle(workflow_id=handle.id, run_id=None, activity_id=identifier)
    return found.with_context(context)


async def until(condition: Callable[[], bool], what: str) -> None:
    """Waits for a condition."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert condition(), what


async def history(client: Client, handle: WorkflowHandle[Any, bytes], run_id: str | None = None) -> WorkflowHistory:
    """The history of the newest execution, or of the one with this id."""
    return await client.get_workflow_handle(handle.id, run_id=run_id).fetch_history()


async def recorded(client: Client, handle: WorkflowHandle[Any, bytes], run_id: str | None = None) -> list[Fact]:
    """The facts in the markers of an execution, as a daemon reads them."""
    found: list[bytes] = []
    bound = client.data_converter.with_context(
        WorkflowSerializationContext(namespace=client.namespace, workflow_id=handle.id)
    )
    for event in (await history(client, handle, run_id)).events:
        if event.event_type == EventType.EVENT_TYPE_MARKER_RECORDED:
            details = event.marker_recorded_event_attributes.details
            if "result" in details:
                [result] = await bound.decode_wrapper(details["result"], [messages.TurnResult])
                found += result.facts if isinstance(result, messages.TurnResult) else []
    return toy_engine.facts_of(found)


def timer(identifier: str, seconds: float = 0.0, now: int = 0) -> messages.StartTimer:
    return messages.StartTimer(id=identifier, due_at=now + int(seconds * 1000))


def schedule(
    identifier: str, name: str = "attempt", queue: str = "agents", **settings: Any
) -> messages.ScheduleActivity:
    return messages.ScheduleActivity(id=identifier, name=name, queue=queue, content=b"task", **settings)


async def test_inputs_become_facts_and_commands_are_carried_out(namespace: Namespace) -> None:
    """A timer, an activity and a signal, each of whose ends is the next input."""
    client, engine, agents = await namespace.client(), ToyEngine(), Agents()
    async with daemon(client, engine), agents.running(client):
        handle = await start(client)
        await send(handle, timer("soon"), schedule("a1", "echo"))
        await send(handle, messages.SetAttributes(values={"WaterflowStatus": "running", "WaterflowNumber": 7}))
        await until(lambda: engine.count() == 4, "four inputs")
        await handle.signal(messages.INPUT_SIGNAL, DONE)
        assert await handle.result() == b"done"
    facts = await recorded(client, handle)
    assert agents.started == [("a1", b"task")]
    assert [item.content for item in inputs(facts, messages.ActivityCompleted)] == [b"TASK"]
    assert [item.id for item in inputs(facts, messages.TimerFired)] == ["soon"]
    assert [fact.input.number for fact in facts] == [1, 2, 3, 4, 5]
    attributes = (await handle.describe()).typed_search_attributes
    assert {pair.key.name: pair.value for pair in attributes if pair.key.name.startswith("Waterflow")} == {
        "WaterflowStatus": "running",
        "WaterflowNumber": 7,
    }


@pytest.mark.parametrize("cache", [0, 100], ids=["every task replays", "cached"])
async def test_no_turn_runs_on_replay(namespace: Namespace, cache: int) -> None:
    """Without a cache every task replays the whole history; each turn still runs once, and its fact is recorded once."""
    client, engine, agents = await namespace.client(), ToyEngine(), Agents()
    async with daemon(client, engine, cache=cache), agents.running(client):
        handle = await start(client)
        for number in range(3):
            await send(handle, timer(f"t{number}"), schedule(f"a{number}", "echo"))
            count = 3 * (number + 1)
            await until(
                lambda count=count: engine.count() >= count,  # type: ignore[misc]
                "all inputs of this round",
            )
        await handle.signal(messages.INPUT_SIGNAL, DONE)
        await handle.result()
    whole = await history(client, handle)
    markers = [event for event in whole.events if event.event_type == EventType.EVENT_TYPE_MARKER_RECORDED]
    calls = len(engine.requests)
    assert calls == len(markers)
    assert len(await recorded(client, handle)) == 10

    # A replayer has no activities at all: it could not run a turn.
    replayed = await Replayer(workflows=[shell.Stream], data_converter=client.data_converter).replay_workflow(whole)
    assert replayed.replay_failure is None
    assert len(engine.requests) == calls


async def test_another_daemon_with_another_engine_continues(namespace: Namespace) -> None:
    """What the first one decided stays; the second one is cold, gets the facts, and decides from there on as it likes."""
    client, first, second = await namespace.client(), ToyEngine("first"), ToyEngine("second")
    async with daemon(client, first):
        handle = await start(client)
        await send(handle, timer("later", 3600, now=int(1e13)))
        await until(
            lambda: len(first.requests) >= 1 and bool(first.requests[-1].inputs), "the first turn with an input"
        )
        await send(handle)
        async with asyncio.timeout(PATIENCE_S):
            # A turn ends before its task does, and only the task records it.
            while len(await recorded(client, handle)) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    count = len(first.requests)
    async with daemon(await namespace.client(), second):
        await handle.signal(messages.INPUT_SIGNAL, DONE)
        assert await handle.result() == b"done"
    assert len(first.requests) == count
    assert [fact.by for fact in await recorded(client, handle)] == ["first", "first", "second"]
    cold, warm = second.requests
    assert (cold.seq, cold.past, cold.begins) == (2, None, False)
    assert warm.past is not None
    assert (len(warm.past.facts), warm.begins, warm.inputs) == (2, False, cold.inputs)


async def test_a_new_execution_starts_again_what_was_in_flight(
    namespace: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It begins with all facts and with inputs that no turn has taken; open activities and timers are there again."""
    monkeypatch.setattr(shell, "HISTORY_EVENTS_MAX", 40)
    client, engine, agents = await namespace.client(), ToyEngine(), Agents()
    async with daemon(client, engine), agents.running(client):
        handle = await start(client)
        first_run = handle.result_run_id
        due_at = int(1e13)
        await send(handle, schedule("a1", heartbeat_ms=60_000), timer("far", now=due_at), schedule("a2"))
        await until(lambda: len(agents.started) == 2, "two attempts")
        engine.errors = [Stalled("WF305", "the plan is missing")]
        await send(handle)
        await until_stalled(handle, "WF305")
        await handle.signal(messages.RETRY_SIGNAL)
        while not [request for request in engine.requests if request.begins and request.seq]:
            await send(handle)
        await until(lambda: len(agents.started) == 4, "the same attempts, offered again")
        assert sorted(agents.started) == [("a1", b"task"), ("a1", b"task"), ("a2", b"task"), ("a2", b"task")]

        # A report by name reaches the newest execution, as from a gateway that only knows the attempt.
        await complete(by_name(client, handle, "a1"), b"report")
        await send(handle, messages.CancelTimer(id="far"), timer("last"))
        newest = client.get_workflow_handle(handle.id, result_type=bytes)
        assert await newest.result() == b"last"
        assert _stalled(await newest.describe()) is None, "a stall that has ended does not come back"
    begun = [request for request in engine.requests if request.begins]
    assert len(begun) >= 2
    assert begun[1].past is not None
    assert len(begun[1].past.facts) == begun[1].seq
    [start_event] = [
        event
        for event in (await history(client, handle)).events
        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED
    ]
    assert start_event.workflow_execution_started_event_attributes.first_execution_run_id == first_run
    numbers = [fact.input.number for fact in engine.facts(handle.id)]
    assert numbers == list(range(1, len(numbers) + 1)), "every input became one fact"
    times = [request.now for request in engine.requests]
    assert times == sorted(times)
    for run_id in {first_run, None}:
        whole = await history(client, handle, run_id)
        replayed = await Replayer(workflows=[shell.Stream], data_converter=client.data_converter).replay_workflow(whole)
        assert replayed.replay_failure is None


async def test_a_killed_server_loses_nothing(namespace: Namespace) -> None:
    """What it acknowledged is in its file; the daemon and the stream continue after its restart."""
    client, engine, agents = await namespace.client(), ToyEngine(), Agents()
    async with daemon(client, engine), agents.running(client):
        handle = await start(client, task_timeout_s=LOST_TASK_S)
        await send(handle, schedule("a1"))
        await until(lambda: len(agents.started) == 1, "the attempt")
        namespace.server.kill()
        namespace.server.start()
        await complete(by_name(client, handle, "a1"), b"report")
        # In one task with the end of the attempt, the signal would come first.
        await until(lambda: engine.count(messages.ActivityCompleted) == 1, "the report")
        await handle.signal(messages.INPUT_SIGNAL, DONE)
        assert await handle.result() == b"done"
    facts = await recorded(client, handle)
    assert [item.content for item in inputs(facts, messages.ActivityCompleted)] == [b"report"]
    assert len(agents.started) == 1


async def test_cancelling_the_workflow_is_an_input(namespace: Namespace) -> None:
    """An operator's cancellation cancels neither activities nor timers; the engine decides what it means."""
    client, engine, agents = await namespace.client(), ToyEngine(), Agents()
    async with daemon(client, engine), agents.running(client):
        handle = await start(client)
        await send(handle, schedule("last-attempt"))
        await until(lambda: len(agents.started) == 1, "the attempt")
        await handle.cancel()
        await until(lambda: engine.count(messages.CancelRequested) == 1, "a turn about the cancellation")
        await complete(by_name(client, handle, "last-attempt"), b"report")
        assert await handle.result() == b"last-attempt"
    assert len(inputs(await recorded(client, handle), messages.CancelRequested)) == 1


async def test_an_update_is_answered_by_its_turn(namespace: Namespace) -> None:
    """Its sender waits for the answer, which is recorded with the facts."""
    client, engine = await namespace.client(), ToyEngine()
    async with daemon(client, engine):
        handle = await start(client)
        answer = await handle.execute_update(messages.REQUEST_UPDATE, content(), result_type=bytes)
        assert answer == b"first answers"
        final = await handle.execute_update(
            messages.REQUEST_UPDATE, content(messages.Complete(content=b"done")), result_type=bytes
        )
        assert final == b"first answers"
        assert await handle.result() == b"done"


async def test_what_no_daemon_has_sealed_is_dropped(namespace: Namespace) -> None:
    """Somebody with access to the namespace, but without the key, has no effect, and does not stop the stream either."""
    client, engine = await namespace.client(), ToyEngine()
    stranger = await namespace.client(DataConverter.default)
    async with daemon(client, engine):
        handle = await start(client)
        other = await start(client)
        foreign = stranger.get_workflow_handle(handle.id)
        await foreign.signal(messages.INPUT_SIGNAL, DONE)
        await foreign.signal("a-signal-of-another-name", "x")
        with pytest.raises(WorkflowUpdateFailedError):
            await foreign.execute_update(messages.REQUEST_UPDATE, DONE)
        # A sealed signal of another stream, copied byte for byte.
        context = WorkflowSerializationContext(namespace=client.namespace, workflow_id=other.id)
        copied = await client.data_converter.with_context(context).encode([DONE])

        class Copying(codec.SealingCodec):
            async def encode(self, payloads: Any) -> Any:
                return copied

        thief = await namespace.client(DataConverter(payload_codec=Copying(KEYS)))
        await thief.get_workflow_handle(handle.id).signal(messages.INPUT_SIGNAL, b"")
        await send(handle, messages.SetMemo(name="note", content=b"still running"))
        await until(lambda: engine.count() == 1, "the sealed signal")
        await send(handle, messages.Complete(content=b"by the engine"))
        assert await handle.result() == b"by the engine"
    assert len(await recorded(client, handle)) == 2


async def test_nothing_readable_is_stored(namespace: Namespace) -> None:
    """Neither inputs, facts, arguments, results, summaries, memos, errors nor heartbeats."""
    client, engine, agents = await namespace.client(), ToyEngine(), Agents()
    word = "hunter2"
    async with daemon(client, engine), agents.running(client):
        handle = await start(client, messages.Begin(subject=word.encode()))
        await send(
            handle,
            messages.SetMemo(name="row", content=word.encode()),
            messages.ScheduleActivity(
                id="a1", name="attempt", queue="agents", content=word.encode(), summary=f"say {word}", attempts_max=1
            ),
        )
        await until(lambda: len(agents.started) == 1, "the attempt")
        attempt = by_name(client, handle, "a1")
        await attempt.heartbeat(f"{word} in a heartbeat")
        # Before the failure, which causes the next turn.
        engine.errors = [RuntimeError(f"{word} in a turn")] * 3
        await attempt.fail(RuntimeError(f"{word} in an error"))
        await until_stalled(handle, "RuntimeError")
        await handle.signal(messages.RETRY_SIGNAL)
        await handle.signal(messages.INPUT_SIGNAL, content(messages.Complete(content=word.encode())))
        assert await handle.result() == word.encode()
    stored = (await history(client, handle)).to_json()
    description = await handle.describe()
    assert word not in stored
    assert word.encode() not in description.raw_description.SerializeToString()
    assert base64.b64encode(word.encode()).decode()[:8] not in stored
    [failed] = inputs(await recorded(client, handle), messages.ActivityFailed)
    assert failed.text == f"{word} in an error"
    assert await description.memo_value("row", type_hint=bytes) == word.encode()


async def test_a_turn_that_fails_three_times_stalls_its_stream(namespace: Namespace) -> None:
    """The code is a search attribute, the text is in the memo; nothing is lost, and `retry` continues."""
    client, engine = await namespace.client(), ToyEngine()
    async with daemon(client, engine):
        handle = await start(client)
        await until(lambda: len(engine.requests) == 1, "the first turn")
        engine.errors = [KeyError("state")] * 3
        await send(handle, messages.SetMemo(name="note", content=b"x"))
        await until(lambda: not engine.errors, "three failed turns")
        await until_stalled(handle, "KeyError")
        await send(handle, messages.Complete(content=b"done"))
        assert len(engine.requests) == 4, "a stalled stream takes no turn"
        await handle.signal(messages.RETRY_SIGNAL)
        assert await handle.result() == b"done"
        assert _stalled(await handle.describe()) is None
    assert [fact.input.number for fact in await recorded(client, handle)] == [1, 2]


async def test_an_error_that_only_a_person_can_help_with_is_not_retried(namespace: Namespace) -> None:
    """Its code is Waterflow's own."""
    client, engine = await namespace.client(), ToyEngine()
    async with daemon(client, engine):
        engine.errors = [Stalled("WF305", "the plan is missing")]
        handle = await start(client)
        await until_stalled(handle, "WF305")
        assert len(engine.requests) == 1
        assert await (await handle.describe()).memo_value(messages.STALLED_MEMO) == "the plan is missing"
        await handle.signal(messages.RETRY_SIGNAL)
        await handle.signal(messages.INPUT_SIGNAL, DONE)
        assert await handle.result() == b"done"


async def test_a_result_that_temporal_would_not_store_stalls_its_stream(namespace: Namespace) -> None:
    """The limit has a name, instead of a task that fails again and again."""
    client, engine = await namespace.client(), ToyEngine()
    async with daemon(client, engine):
        handle = await start(client)
        noise = b"".join(uuid4().bytes for _ in range(50_000))
        await send(handle, messages.SetMemo(name="first", content=noise[:700_000]))
        await send(handle, messages.SetMemo(name="second", content=noise[100_000:]))
        await until_stalled(handle, "WF812")


@pytest.mark.parametrize("count", [0, 2], ids=["first task", "a later task"])
async def test_a_reset_execution_stalls_at_once(namespace: Namespace, count: int) -> None:
    """It would start attempts again that have ended after that point, wherever that is."""
    client, engine = await namespace.client(), ToyEngine()
    async with daemon(client, engine):
        handle = await start(client)
        await until_completed_tasks(client, handle, 1)
        for number in range(count):
            await send(handle)
            await until_completed_tasks(client, handle, number + 2)
        turns = len(engine.requests)
        request = ResetWorkflowExecutionRequest(
            namespace=client.namespace,
            workflow_execution=WorkflowExecution(workflow_id=handle.id),
            reason="a test",
            request_id=uuid4().hex,
            workflow_task_finish_event_id=(await until_completed_tasks(client, handle, count + 1))[-1],
        )
        await client.workflow_service.reset_workflow_execution(request)
        newest: WorkflowHandle[Any, bytes] = client.get_workflow_handle(handle.id, result_type=bytes)
        await until_stalled(newest, messages.RESET)
        assert len(engine.requests) == turns
        await newest.signal(messages.INPUT_SIGNAL, DONE)
        await newest.signal(messages.RETRY_SIGNAL)
        assert await newest.result() == b"done"
        assert [request.begins for request in engine.requests].count(True) == 1 + (count == 0)


async def until_completed_tasks(client: Client, handle: WorkflowHandle[Any, bytes], count: int) -> list[int]:
    """The events with which tasks have ended; waits until there are that many. A turn ends before its task does."""
    tasks: list[int] = []
    async with asyncio.timeout(PATIENCE_S):
        while len(tasks) < count:
            tasks = [
                event.event_id
                for event in (await history(client, handle)).events
                if event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED
            ]
    return tasks


async def test_commands_wait_for_their_limits(namespace: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number that is scheduled in one task is limited, and the number that is open; the rest follows, and none is lost."""
    monkeypatch.setattr(shell, "TASK_MAX", 7)
    monkeypatch.setattr(shell, "OPEN_MAX", 12)
    client, engine, agents = await namespace.client(), ToyEngine(), Agents()
    async with daemon(client, engine), agents.running(client):
        handle = await start(client)
        commands = [schedule(f"a{number}", "attempt" if number < 10 else "echo") for number in range(40)]
        await send(handle, *commands, *commands)
        await until(lambda: len({name for name, _ in agents.started}) == 40, "every activity")
        for number in range(10):
            await by_name(client, handle, f"a{number}").complete(b"report")
        await until(lambda: engine.count() == 41, "every end")
        await handle.signal(messages.INPUT_SIGNAL, DONE)
        await handle.result()
    assert len(agents.started) == 40
    scheduled_by: dict[int, int] = {}
    is_open = highest = 0
    for event in (await history(client, handle)).events:
        if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
            task = event.activity_task_scheduled_event_attributes.workflow_task_completed_event_id
            scheduled_by[task] = scheduled_by.get(task, 0) + 1
            is_open += 1
            highest = max(highest, is_open)
        is_open -= event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED
    assert sum(scheduled_by.values()) == 40
    assert max(scheduled_by.values()) <= 7
    assert highest <= 12


async def test_a_failed_activity_says_why(namespace: Namespace) -> None:
    """A timeout names its kind; an activity that a command cancels causes no input."""
    client, engine, agents = await namespace.client(), ToyEngine(), Agents()
    async with daemon(client, engine):
        handle = await start(client)
        await send(
            handle,
            schedule("unpolled", schedule_to_start_ms=200),
            messages.ScheduleActivity(id="cancelled", name="attempt", queue="unpolled", content=b""),
        )
        await until(lambda: engine.count() == 2, "the timeout")
        await send(handle, messages.CancelActivity(id="cancelled"))
        async with agents.running(client):
            await send(handle, schedule("silent", heartbeat_ms=300, attempts_max=1))
            await until(lambda: engine.count() == 5, "the silence")
        await handle.signal(messages.INPUT_SIGNAL, DONE)
        await handle.result()
    failed = inputs(await recorded(client, handle), messages.ActivityFailed)
    assert [(item.id, item.code, item.timeout) for item in failed] == [
        ("unpolled", "timeout", "schedule-to-start"),
        ("silent", "timeout", "heartbeat"),
    ]


async def test_a_stream_sends_inputs_to_another_one(namespace: Namespace) -> None:
    """The signal is sealed for its receiver; one that does not exist is an input of the sender."""
    client, engine = await namespace.client(), ToyEngine()
    async with daemon(client, engine):
        receiver, sender = await start(client), await start(client)
        await send(
            sender,
            messages.SendSignal(id="s1", workflow_id=receiver.id, content=DONE),
            messages.SendSignal(id="s2", workflow_id="run/none", content=DONE),
        )
        assert await receiver.result() == b"done"
        await until(lambda: engine.count(messages.SignalNotDelivered) == 1, "the failed delivery")
        await sender.signal(messages.INPUT_SIGNAL, DONE)
        await sender.result()
    [failed] = inputs(await recorded(client, sender), messages.SignalNotDelivered)
    assert failed.id == "s2"


def _stalled(description: Any) -> str | None:
    return next(
        (pair.value for pair in description.typed_search_attributes if pair.key.name == "WaterflowStalled"), None
    )


async def until_stalled(handle: WorkflowHandle[Any, bytes], code: str) -> None:
    """Waits until the stream stalls, which must be for this reason."""
    async with asyncio.timeout(PATIENCE_S):
        while (found := _stalled(description := await handle.describe())) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert found == code, await description.memo_value(messages.STALLED_MEMO)


async def test_signals_of_the_last_turn_are_delivered(namespace: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream ends after all of its signals have been delivered, also those for which one task has no room."""
    monkeypatch.setattr(shell, "TASK_MAX", 7)
    client, engine = await namespace.client(), ToyEngine()
    async with daemon(client, engine):
        receiver, sender = await start(client), await start(client)
        signals = [
            messages.SendSignal(id=f"s{number}", workflow_id=receiver.id, content=content(timer(f"t{number}")))
            for number in range(40)
        ]
        await send(sender, *signals, messages.Complete(content=b"done"))
        assert await sender.result() == b"done"
        await until(lambda: engine.count(messages.TimerFired) == 40, "a timer for each signal")
        await receiver.signal(messages.INPUT_SIGNAL, DONE)
        await receiver.result()
    received = inputs(await recorded(client, receiver), messages.SignalReceived)
    assert len(received) == 41
