"""Attacks on the isolation of groups, by an agent at another gateway; and what Temporal's database reveals."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from temporalio.client import WorkflowExecutionStatus

from tests.integration.temporal.gateway_harness import Cluster, Daemon, held, until
from tests.integration.temporal.server import Namespace, Server
from waterflow_agent.wire import messages as wire
from waterflowd.engine import events
from waterflowd.host.history import COLLECT_S
from waterflowd.model.statuses import Conclusion, Outcome
from waterflowd.temporal.gateway.secret_reader import Secrets

ONE = "jobs: {a: {runs-on: web, steps: [{run: x}]}}"


def _values(database: Path) -> Iterator[bytes]:
    """Everything in the tables of an SQLite database, also what is only in its write-ahead log yet."""
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            for row in connection.execute(f'SELECT * FROM "{table}"'):
                for value in row:
                    yield value if isinstance(value, bytes) else str(value).encode()
    finally:
        connection.close()


async def test_nothing_readable_is_in_the_database(namespace: Namespace, temporal_server: Server) -> None:
    """No value of a secret, no script and no output; the search finds the names of queues, which are readable."""
    secret, script, output = "correct-horse-battery", "deploy-with-great-care", "version-of-the-output"
    step = f"{{id: s, run: {script}, env: {{TOKEN: '${{{{ secrets.TOKEN }}}}'}}}}"
    workflow = f"jobs: {{a: {{runs-on: web, steps: [{step}, {{run: 'echo ${{{{ steps.s.outputs.v }}}}'}}]}}}}"
    secrets = Secrets(read=lambda request, name: secret, missing=lambda request: [])
    async with Cluster.running(namespace) as cluster, Daemon.running(cluster, secrets=secrets) as daemon:
        agent = cluster.enroll("one", "web")
        daemon.hello(agent)
        run = await cluster.start(workflow)
        [first] = await daemon.offered(agent)
        await daemon.started(agent, first).arrives()
        await run.recorded(events.AttemptStarted)
        await daemon.finished(agent, first, outputs={"v": output}).arrives()
        second = (await daemon.offered(agent, 2))[1]
        offers = [message for _, message in daemon.link.sent if isinstance(message, wire.Offer)]
        assert offers[0].task.secrets == [secret]
        assert output in str(offers[1].task)
        await daemon.finished(agent, second, outcome=Outcome.FAILURE, reason_text=output).arrives()
        assert (await run.result()).conclusion is Conclusion.FAILURE

    stored = list(_values(temporal_server.database))
    assert any(f"agent/{agent}".encode() in value for value in stored)
    for readable in (secret, script, output):
        assert not [value[:200] for value in stored if readable.encode() in value]
    for file in temporal_server.database.parent.glob("temporal.db*"):
        assert secret.encode() not in file.read_bytes()


async def test_an_agent_can_do_nothing_to_an_attempt_of_another_group(namespace: Namespace) -> None:
    """It says to another gateway that it holds the attempt: its reports, output and requests for files have no effect."""
    async with (
        Cluster.running(namespace) as cluster,
        Daemon.running(cluster) as daemon,
        Daemon.running(cluster) as other,
    ):
        web, db = cluster.enroll("one", "web"), cluster.enroll("two", "db")
        daemon.hello(web)
        run = await cluster.start(ONE)
        [task] = await daemon.offered(web)
        await daemon.started(web, task).arrives()
        await run.recorded(events.AttemptStarted)

        other.hello(db, [held(task)])
        output = wire.Output(task, 0, [wire.OutputChunk(0, 1, b"forged")])
        other.agents.output(db, output)
        other.agents.file_requested(db, wire.FileRequest(task, 1, [], 0))
        await until(lambda: other.gateway.attempts.find(db, task.attempt) is None, "the facts of the run")
        other.agents.output(db, output)
        await other.finished(db, task, outcome=Outcome.FAILURE).arrives()
        await asyncio.sleep(10 * COLLECT_S)

        assert other.output_logs.read(task.attempt, 0, 100) == []
        assert (db, "WF215") in other.link.rejected
        assert not [
            message for _, message in other.link.sent if isinstance(message, wire.FileResponse) and message.chunks
        ]
        assert (await run.handle.describe()).status is WorkflowExecutionStatus.RUNNING
        await daemon.finished(web, task).arrives()
        assert (await run.result()).conclusion is Conclusion.SUCCESS
        assert not [event for event in await run.events() if getattr(event, "agent", web) != web]


async def test_output_of_an_agent_that_comes_from_another_gateway_is_stored(namespace: Namespace) -> None:
    """Also of an attempt that has ended meanwhile, and of a run that has: the facts of the run say that it is the agent's."""
    async with Cluster.running(namespace) as cluster, Daemon.running(cluster) as daemon:
        agent = cluster.enroll("one", "web")
        daemon.hello(agent)
        run = await cluster.start(ONE)
        [task] = await daemon.offered(agent)
        await daemon.finished(agent, task).arrives()
        assert (await run.result()).conclusion is Conclusion.SUCCESS
        async with Daemon.running(cluster) as other:
            other.hello(agent, [held(task, wire.AttemptState.FINISHED)])
            output = wire.Output(task, 0, [wire.OutputChunk(0, 1, b"printed")])
            other.agents.output(agent, output)
            # The agent is told where to continue, so it need not wait until it sends everything again.
            await until(lambda: (agent, wire.OutputAck(task, 0)) in other.link.sent, "an answer")
            other.agents.output(agent, output)
            await until(lambda: other.output_logs.size(task.attempt) == len(b"printed"), "the output to be stored")


@pytest.mark.parametrize("is_ended", [True, False])
async def test_output_of_attempts_that_an_agent_no_longer_names_is_stored(namespace: Namespace, is_ended: bool) -> None:
    """The agent has the acknowledgement of their results, and still has to send output: the facts of the run answer."""
    two_steps = "jobs: {a: {runs-on: web, steps: [{run: x}, {run: x}]}}"
    async with Cluster.running(namespace) as cluster, Daemon.running(cluster) as daemon:
        agent, db = cluster.enroll("one", "web"), cluster.enroll("two", "db")
        daemon.hello(agent)
        run = await cluster.start(ONE if is_ended else two_steps)
        [task] = await daemon.offered(agent)
        await daemon.finished(agent, task).arrives()
        if is_ended:
            assert (await run.result()).conclusion is Conclusion.SUCCESS
        else:
            await daemon.offered(agent, 2)
        await daemon.kill()
        async with Daemon.running(cluster) as other:
            other.hello(agent)
            other.hello(db)
            forged = wire.Output(task, 0, [wire.OutputChunk(0, 1, b"forged")])
            other.agents.output(db, forged)
            output = wire.Output(task, 0, [wire.OutputChunk(0, 1, b"printed")])
            other.agents.output(agent, output)
            await until(lambda: (agent, wire.OutputAck(task, 0)) in other.link.sent, "an answer")
            other.agents.output(agent, output)
            await until(lambda: other.output_logs.size(task.attempt) == len(b"printed"), "the output to be stored")
            # The other one is told to stop sending it.
            await until(lambda: (db, wire.OutputAck(task, len(b"forged"))) in other.link.sent, "a rejection")
            assert other.link.rejected == [(db, "WF215")]
            assert [piece.data for piece in other.output_logs.read(task.attempt, 0, 100)] == [b"printed"]
            # It counts for the quota of the repository that it belongs to.
            found = other.gateway.attempts.find(agent, task.attempt)
            assert found is not None
            assert (found.repository, found.is_open) == ("ops", False)
