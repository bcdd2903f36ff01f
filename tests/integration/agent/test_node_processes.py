"""Nodes that run in a separate process, through a complete agent with a real runner."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests import living
from tests.integration.agent.test_agent import Bench, bench, eventually
from waterflow_agent.attempts import Outcome

__all__ = ["bench"]


async def test_a_node_s_outputs_keep_their_types_and_its_request_is_deleted(bench: Bench) -> None:
    """Outputs arrive with their types; the request, which may hold a secret, is deleted as soon as it has been read."""
    await bench.start()
    target = bench.markers / "app.conf"
    params = {"path": str(target), "content": "hunter2-content\n", "mode": "0600"}

    finished, output = await bench.daemon.run(bench.daemon.task(1, node="file/write", params=params))

    assert (finished.outcome, finished.exit_code) == (Outcome.SUCCESS, 0), finished
    assert finished.outputs["changed"] is True
    assert target.read_text() == "hunter2-content\n"
    assert b"hunter2" not in output
    assert not living.found(bench.data_dir, "**/request")


async def test_a_reused_attempt_directory_does_not_mix_nodes_and_scripts(bench: Bench) -> None:
    """Attempt directories are reused; files that a node left there are not taken for the script's."""
    await bench.start()
    await bench.daemon.run(bench.daemon.task(1, node="file/read", params={"path": "/etc/hostname"}))

    finished, _ = await bench.daemon.run(bench.daemon.task(2, run='echo "a=b" >> "$WATERFLOW_OUTPUT"'))

    assert finished.outputs == {"a": "b"}


async def test_a_failed_node_reports_its_message_and_whether_it_is_temporary(bench: Bench) -> None:
    """Exit code 75 marks a temporary failure, and the reason is the node's own message."""
    await bench.start()

    finished, output = await bench.daemon.run(
        bench.daemon.task(1, node="http/request", params={"url": "http://127.0.0.1:9/"})
    )

    assert (finished.outcome, finished.exit_code, finished.reason_code) == (Outcome.FAILURE, 75, "node-error")
    assert "127.0.0.1:9" in finished.reason_text
    assert finished.reason_text.encode() in output


@pytest.mark.parametrize(
    ("node", "params"),
    [
        ("shell", {"run": "true", "shell": "pwsh-that-does-not-exist {0}"}),
        ("script", {"content": "true", "interpreter": "pwsh-that-does-not-exist"}),
        ("script", {"content": "#!/no/such/interpreter\ntrue"}),
    ],
)
async def test_a_missing_interpreter_is_named(bench: Bench, node: str, params: dict[str, object]) -> None:
    """If the interpreter is missing, nothing runs, and the reason names it."""
    await bench.start()
    finished, _ = await bench.daemon.run(bench.daemon.task(1, node=node, params=params))
    assert (finished.outcome, finished.reason_code) == (Outcome.FAILURE, "spawn-failed"), finished
    assert "that-does-not-exist" in finished.reason_text or "/no/such/interpreter" in finished.reason_text


async def test_a_node_survives_a_restart_of_the_agent(bench: Bench) -> None:
    """A node is a process under the runner like any other: a restarted agent gets its result and outputs."""
    await bench.start_process()
    ready = bench.markers / "served"
    async with _late_server(ready) as port:
        params = {"url": f"http://127.0.0.1:{port}/", "interval": "20ms", "timeout": "60s"}
        task = bench.daemon.task(1, node="http/wait", params=params)
        bench.daemon.offer(task)
        await eventually(lambda: b"503" in _spool(bench.data_dir))

        await bench.kill()
        ready.touch()
        await bench.start_process()
        finished = await bench.daemon.result(task.key)

    assert finished.outcome is Outcome.SUCCESS, finished
    assert finished.outputs["attempts"] >= 2


async def test_a_cancel_and_a_timeout_end_a_node(bench: Bench) -> None:
    """The node stops on the signal if it handles it, and is killed otherwise."""
    await bench.start()
    params = {"url": "http://127.0.0.1:9/", "interval": "20ms", "timeout": "60s"}

    late, _ = await bench.daemon.run(
        bench.daemon.task(1, node="http/wait", params=params, timeout_ms=1_500, grace_ms=5_000)
    )

    assert (late.outcome, late.reason_code) == (Outcome.TIMED_OUT, "timeout")


async def test_a_module_of_the_repository_does_not_shadow_a_library(bench: Bench) -> None:
    """Python does not search the working directory for modules."""
    await bench.start()
    job = "echo 'raise SystemExit(99)' > msgspec.py; cp msgspec.py httpx.py; mkdir -p waterflow_agent"
    await bench.daemon.run(bench.daemon.task(1, run=job))

    finished, _ = await bench.daemon.run(bench.daemon.task(2, node="file/write", params={"path": "a", "content": "b"}))

    assert finished.outcome is Outcome.SUCCESS, finished


OWN = """\
from waterflow_agent.nodes.node import Context, Node, Parameters


class Given(Parameters, kw_only=True):
    who: str


class Own(Node[Given]):
    async def run(self, context, parameters):
        print("hello", parameters.who, context.env["HOW"])
        return {"who": parameters.who}
"""


async def test_a_node_in_the_task_needs_no_file_on_the_server(bench: Bench) -> None:
    """The class is sent in the task, and is not left in any file."""
    await bench.start()
    task = bench.daemon.task(1, node="shop/own", params={"who": "Ada"}, env={"HOW": "well"}, source=OWN)

    finished, output = await bench.daemon.run(task)

    assert (finished.outcome, finished.outputs) == (Outcome.SUCCESS, {"who": "Ada"}), finished
    assert output == b"hello Ada well\n"
    assert living.holding(bench.data_dir, b"class Own") == []


async def test_a_task_cannot_replace_a_built_in_node(bench: Bench) -> None:
    """A built-in name always means Waterflow's node, even if the task contains a class of that name."""
    await bench.start()
    task = bench.daemon.task(1, node="log", params={"message": "ours"}, source=OWN)

    finished, output = await bench.daemon.run(task)

    assert (finished.outcome, output) == (Outcome.SUCCESS, b"ours\n")


async def test_an_oversized_number_fails_the_node_and_not_the_agent(bench: Bench) -> None:
    """The number fits neither into the journal nor into a message, so the node fails and the agent continues."""
    await bench.start()
    large = OWN.replace('{"who": parameters.who}', '{"who": 1 << 100}')
    task = bench.daemon.task(1, node="shop/own", params={"who": "Ada"}, env={"HOW": "well"}, source=large)

    finished, _ = await bench.daemon.run(task)
    after, _ = await bench.daemon.run(bench.daemon.task(2, run="true"))

    assert finished.outcome is Outcome.FAILURE
    assert "more than 64 bits" in finished.reason_text
    assert after.outcome is Outcome.SUCCESS


def _spool(data_dir: Path) -> bytes:
    return b"".join(path.read_bytes() for path in living.found(data_dir, "runner/attempts/*/output*"))


@contextlib.asynccontextmanager
async def _late_server(ready: Path) -> AsyncIterator[int]:
    """Starts a server that answers 503 until the file exists; yields its port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        # Checks for a local file, as a server would.
        status = b"200 OK" if ready in ready.parent.iterdir() else b"503 Busy"
        writer.write(b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    try:
        yield port
    finally:
        server.close()
        await server.wait_closed()
