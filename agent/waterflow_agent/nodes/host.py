"""The process in which one node runs: `python -m waterflow_agent.nodes.host FILE`.

FILE holds the node's name and parameters; it is read once and removed, since a parameter may be a secret. What the node gives
goes to `result` beside it, in one piece: so the agent finds all of it or nothing. The exit code says how it ended, and is what
counts: 0, or 75 when trying again can help, or 1.
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

#: As in shell.py, which this process does not need otherwise.
RESULT = "result"


class NodeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What the agent wrote for the node."""

    node: str
    params: dict[str, Any]
    workspace: str
    #: Of a node that is none of ours.
    code: Code | None = None


class NodeOutput(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the node gave. `text` is why it failed."""

    outputs: dict[str, Any] = {}
    text: str = ""


def main(arguments: list[str]) -> int:
    """Runs the node that the file names; gives the exit code."""
    file = Path(arguments[0])
    request = msgspec.json.decode(file.read_bytes(), type=NodeRequest)
    file.unlink()
    result, exit_code = _ended(request)
    try:
        content = msgspec.json.encode(result)
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        content = msgspec.json.encode(NodeOutput(text=f"its outputs hold what JSON cannot: {error}"))
        exit_code = FAILURE_EXIT_CODE
    _write(file.parent / RESULT, content)
    if result.text:
        print(result.text, file=sys.stderr, flush=True)
    return exit_code


def _ended(request: NodeRequest) -> tuple[NodeOutput, int]:
    try:
        # Before the loop: until the node runs, a signal to stop needs nobody's answer.
        node = registry.load(request.node) if request.code is None else code.load(request.code)
        given = parameters.convert(request.node, node.parameters, request.params)
    except Rejected as error:
        return NodeOutput(text=error.text), FAILURE_EXIT_CODE
    return _lived(_run(node, request, given))


def _lived(node: Coroutine[Any, Any, tuple[NodeOutput, int]]) -> tuple[NodeOutput, int]:
    # Not asyncio.run, which waits for threads: one of a node that was stopped may wait for an engine or a server.
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    ended = loop.run_until_complete(node)
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_asyncgens())
    return ended


async def _run(node: type[Node[Any]], request: NodeRequest, given: msgspec.Struct) -> tuple[NodeOutput, int]:
    task = asyncio.current_task()
    assert task is not None
    # The step's stop policy begins with this signal: the node may end what it has begun.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    context = Context(directory=Path.cwd(), workspace=Path(request.workspace), env=dict(os.environ))
    try:
        outputs = await node().run(context, given)
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
    """What an author's node returns may be anything; nothing at all are no outputs."""
    if outputs is None:
        return NodeOutput()
    if not isinstance(outputs, dict) or not all(isinstance(key, str) for key in outputs):
        kind = "a map with keys that are no text" if isinstance(outputs, dict) else type(outputs).__name__
        raise Rejected("WF722", f'node "{name}": run returns its outputs as a map of names, not {kind}')
    return NodeOutput(outputs=outputs)


def _write(path: Path, content: bytes) -> None:
    new = path.with_name(f"{RESULT}.new")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with open(fd, "wb") as file:
        file.write(content)
    new.rename(path)


def end(code: int) -> NoReturn:
    """Ends the process, of which everything has been said and written.

    Without the interpreter's own end: threads that a library in another language has left behind may still call into it, which
    aborts the process and would make a failure of a node that has done its work.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    end(main(sys.argv[1:]))
