"""The process that runs one node: `python -m waterflow_agent.nodes.host FILE`.

FILE contains the name and parameters of the node; it is read once and removed, because a parameter may be a secret. The result
is written atomically to the file `result` in the same directory. The exit code determines the outcome: 0, 75 if a retry can
help, or 1.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import signal
import sys
import traceback
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from waterflow_agent.errors import Rejected
from waterflow_agent.nodes import parameters, registry
from waterflow_agent.nodes.node import FAILURE_EXIT_CODE, MAY_RETRY_EXIT_CODE, Context, Node, NodeFailure
from waterflow_agent.nodes.own import code
from waterflow_agent.nodes.own.code import Code

#: The same as in shell.py, which this process does not import.
RESULT = "result"


class NodeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The request that the agent wrote for the node."""

    node: str
    params: dict[str, Any]
    workspace: str
    #: Path of the socket for artifacts.
    artifacts: str = ""
    #: Path of the socket for caches of this server.
    server_caches: str = ""
    #: Path of the directory of the job's containers.
    containers: str = ""
    #: The code of an own node.
    code: Code | None = None


class NodeOutput(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The result of the node. `text` is the reason of a failure."""

    outputs: dict[str, Any] = {}
    text: str = ""


def main(arguments: list[str]) -> int:
    """Run the node of the request; return the exit code."""
    file = Path(arguments[0])
    request = msgspec.json.decode(file.read_bytes(), type=NodeRequest)
    file.unlink()
    result, exit_code = _execute(request)
    try:
        content = msgspec.json.encode(result)
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        content = msgspec.json.encode(NodeOutput(text=f"outputs cannot be encoded as JSON: {error}"))
        exit_code = FAILURE_EXIT_CODE
    _write(file.parent / RESULT, content)
    if result.text:
        print(result.text, file=sys.stderr, flush=True)
    return exit_code


def _execute(request: NodeRequest) -> tuple[NodeOutput, int]:
    try:
        # Outside the event loop: a signal that arrives before the node runs simply ends the process.
        node = registry.load(request.node) if request.code is None else code.load(request.code)
        record = parameters.convert(request.node, node.parameters, request.params)
    except Rejected as error:
        return NodeOutput(text=error.text), FAILURE_EXIT_CODE
    return _run_to_end(_run(node, request, record))


def _run_to_end(node: Coroutine[Any, Any, tuple[NodeOutput, int]]) -> tuple[NodeOutput, int]:
    # Not asyncio.run, which waits for threads: one of a stopped node may be waiting for a server.
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    result = loop.run_until_complete(node)
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_asyncgens())
    return result


async def _run(node: type[Node[Any]], request: NodeRequest, record: msgspec.Struct) -> tuple[NodeOutput, int]:
    task = asyncio.current_task()
    assert task is not None
    # The stop policy of a step starts with this signal, so that the node can clean up.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    context = Context(
        directory=Path.cwd(),
        workspace=Path(request.workspace),
        env=dict(os.environ),
        artifacts=Path(request.artifacts),
        server_caches=Path(request.server_caches),
        containers=Path(request.containers),
    )
    try:
        outputs = await node().run(context, record)
        return _result(outputs, request.node), 0
    except NodeFailure as failure:
        exit_code = MAY_RETRY_EXIT_CODE if failure.may_retry else FAILURE_EXIT_CODE
        return NodeOutput(outputs=failure.outputs, text=failure.text), exit_code
    except Rejected as error:
        return NodeOutput(text=error.text), FAILURE_EXIT_CODE
    except asyncio.CancelledError:
        return NodeOutput(text="stopped"), 128 + signal.SIGTERM
    except Exception as error:  # noqa: BLE001  the supervision point of the process: a bug of a node is a failure with its place
        traceback.print_exc()
        return NodeOutput(text=f"{type(error).__name__}: {error}"), FAILURE_EXIT_CODE


def _result(outputs: object, name: str) -> NodeOutput:
    """Check what the node returned; None means no outputs."""
    if outputs is None:
        return NodeOutput()
    if not isinstance(outputs, dict) or not all(isinstance(key, str) for key in outputs):
        kind = "a map with keys that are not strings" if isinstance(outputs, dict) else type(outputs).__name__
        raise Rejected("WF722", f'node "{name}": run must return a map of outputs, not {kind}')
    return NodeOutput(outputs=outputs)


def _write(path: Path, content: bytes) -> None:
    new = path.with_name(f"{RESULT}.new")
    # The agent reads it, which may have another user. Nobody else can enter the directory.
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    os.fchmod(fd, 0o644)
    with open(fd, "wb") as file:
        file.write(content)
    new.rename(path)


def end(code: int) -> NoReturn:
    """End the process without finalizing the interpreter.

    Threads of a native library may still call into the interpreter, which would abort the process and turn a success into a
    failure.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    end(main(sys.argv[1:]))
