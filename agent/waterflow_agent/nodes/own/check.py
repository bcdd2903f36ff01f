"""Check that the code of an own node works, by loading it in a child process that may crash, hang or lie without harm.

`python -m waterflow_agent.nodes.own.check` reads a `Code` from standard input and writes a `CheckResult`, one line each;
output of the code itself is discarded. Then it waits to be killed, so that its process group still exists when the agent
kills the group.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping
from typing import Any

import msgspec

from waterflow_agent.errors import Rejected
from waterflow_agent.nodes import node_process, shell
from waterflow_agent.nodes.outcome import one_line
from waterflow_agent.nodes.own import code as codes
from waterflow_agent.nodes.own.code import Code

#: Far longer than loading a class takes.
CHECK_S_MAX = 30.0
#: Limits of what is reported of a node.
PARAMETERS_MAX = 32
NAME_LENGTH_MAX = 64
SUMMARY_LENGTH_MAX = 200
_ANSWER_BYTES_MAX = 1 << 20


class CheckResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The description of a node, or the `fault` that prevents its use."""

    fault: str = ""
    summary: str = ""
    parameters: list[tuple[str, bool]] = []
    #: JSON Schema of its parameters.
    schema: dict[str, Any] = {}


def describe(code: Code) -> CheckResult:
    """Load the code in this process, and describe the node."""
    try:
        node = codes.load(code)
        schema = msgspec.json.schema(node.parameters)
    except Rejected as error:
        return CheckResult(fault=one_line(str(error)))
    except (TypeError, ValueError) as error:
        return CheckResult(fault=one_line(f"{code.display_path}: no schema for the parameter record: {error}"))
    fields = msgspec.structs.fields(node.parameters)
    if len(fields) > PARAMETERS_MAX or any(len(field.encode_name) > NAME_LENGTH_MAX for field in fields):
        limits = f"more than {PARAMETERS_MAX} parameters, or a name over {NAME_LENGTH_MAX} characters"
        return CheckResult(fault=f"{code.display_path}: {limits} [WF722]")
    lines = (node.__doc__ or "").strip().splitlines()
    return CheckResult(
        summary=one_line(lines[0])[:SUMMARY_LENGTH_MAX] if lines else "",
        parameters=[(field.encode_name, field.required) for field in fields],
        schema=schema,
    )


async def in_child(code: Code, own: Mapping[str, str]) -> CheckResult:
    """Describe the node in a child process with the environment that a step inherits. Raises `OSError`."""
    env = node_process.package_environment(shell.inherited(own))
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "waterflow_agent.nodes.own.check"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=env,
        cwd="/",
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(CHECK_S_MAX):
            answer = await _exchange(child, msgspec.json.encode(code))
    except TimeoutError:
        return CheckResult(fault=f"{code.display_path}: loading took more than {CHECK_S_MAX:g} s [WF721]")
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                # The group includes what the code has started.
                os.killpg(child.pid, signal.SIGKILL)
        await child.wait()
    try:
        return msgspec.json.decode(answer, type=CheckResult)
    except (msgspec.MsgspecError, RecursionError):
        return CheckResult(fault=f"{code.display_path}: the process ended while loading [WF721]")


async def _exchange(child: asyncio.subprocess.Process, request: bytes) -> bytes:
    assert child.stdin is not None
    assert child.stdout is not None
    with contextlib.suppress(ConnectionError):
        child.stdin.write(request + b"\n")
        await child.stdin.drain()
    answer = b""
    while not answer.endswith(b"\n") and len(answer) <= _ANSWER_BYTES_MAX:
        part = await child.stdout.read(_ANSWER_BYTES_MAX)
        if not part:
            break
        answer += part
    return answer


def main() -> None:
    """Run as the child process."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.dup(1)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    code = msgspec.json.decode(requests.readline(), type=Code)
    try:
        answer = msgspec.json.encode(describe(code))
    except SystemExit:
        answer = msgspec.json.encode(
            CheckResult(fault=f"{code.display_path}: the code ends the process while loading [WF721]")
        )
    with open(answers, "wb") as file:
        file.write(answer + b"\n")
    requests.read()
    # Without waiting for threads or exit handlers of the code.
    os._exit(0)


if __name__ == "__main__":
    main()
