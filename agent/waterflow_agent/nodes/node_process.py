"""Nodes that run in their own process: prepares the command for `nodes.host`, and reads the result."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

import msgspec

from waterflow_agent.artifacts.local_protocol import CACHE_SOCKET, SOCKET
from waterflow_agent.attempts import Outcome
from waterflow_agent.nodes import outcome, shell, step_files
from waterflow_agent.nodes.host import NodeOutput, NodeRequest
from waterflow_agent.nodes.outcome import NodeResult, failure, one_line
from waterflow_agent.nodes.own.code import Code
from waterflow_agent.nodes.shell import AttemptLocation, Command
from waterflow_agent.wire import messages


def prepare(
    task: messages.Task, location: AttemptLocation, start: Mapping[str, str], code: Code | None = None
) -> Command:
    """Write the request and return the command; `code` is that of an own node. Raises as `shell.prepare`."""
    env = shell.environment(task, location, start)
    files = step_files.create(location.files)
    # An empty result file marks the directory as that of a node, also after a restart of the agent.
    shell.write(f"{location.files}/{shell.RESULT}", "")
    path = f"{location.files}/request"
    request = NodeRequest(
        node=task.node,
        params=task.params,
        workspace=location.workspace,
        artifacts=f"{location.files}/{SOCKET}",
        server_caches=f"{location.files}/{CACHE_SOCKET}",
        code=code,
        containers=location.containers,
    )
    shell.write(path, msgspec.json.encode(request).decode())
    # -P: a file of the repository must not shadow a module. -u: output is unbuffered.
    argv = [sys.executable, "-P", "-u", "-m", "waterflow_agent.nodes.host", path]
    return Command(argv=argv, env=package_environment(env), files=files)


#: The directory from which the agent's package is imported.
_PACKAGE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def package_environment(env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for a process that runs a module of the agent's package."""
    return {**env, "PYTHONPATH": _PACKAGE, "PYTHONDONTWRITEBYTECODE": "1"}


def is_node_directory(directory: str) -> bool:
    """Return whether the attempt directory is that of a node with its own process."""
    return os.path.lexists(f"{directory}/{shell.RESULT}")


def finish(result: NodeResult, directory: str) -> NodeResult:
    """Return the result with the node's outputs; without a result file the node did not complete."""
    try:
        fd = os.open(f"{directory}/{shell.RESULT}", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            content = file.read(messages.OUTPUTS_BYTES_MAX + 1)
    except OSError:
        content = b""
    if not content:
        if result.outcome is Outcome.SUCCESS:
            return failure("node-error", "the node exited without a result", exit_code=result.exit_code)
        return result
    if len(content) > messages.OUTPUTS_BYTES_MAX:
        return failure("node-error", f"outputs exceed the limit of {messages.OUTPUTS_BYTES_MAX} bytes")
    try:
        output = msgspec.json.decode(content, type=NodeOutput)
        fault = outcome.output_error(output.outputs)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        # The node itself may have written to the file.
        return failure("node-error", "the result of the node is invalid", exit_code=result.exit_code)
    if fault:
        return failure("node-error", fault, exit_code=result.exit_code)
    if result.outcome is Outcome.FAILURE and result.exit_code is not None and output.text:
        result = msgspec.structs.replace(result, reason_code="node-error", reason_text=one_line(output.text))
    return msgspec.structs.replace(result, outputs=output.outputs)
