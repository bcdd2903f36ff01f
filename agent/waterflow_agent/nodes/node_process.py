"""Nodes that have a process of their own: from a task to the command of `nodes.host`, and from its result to outputs."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

import msgspec

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
    """Writes the node's request, and gives the command; `code` is that of an own node. Raises as `shell.prepare`."""
    env = shell.environment(task, location, start)
    files = step_files.create(location.files)
    # Empty from the start on: the file says that this is a node's directory, also to a later start of the agent.
    shell.write(f"{location.files}/{shell.RESULT}", "")
    path = f"{location.files}/request"
    request = NodeRequest(node=task.node, params=task.params, workspace=location.workspace, code=code)
    shell.write(path, msgspec.json.encode(request).decode())
    # -P: a file of the repository must not stand in for a module. -u: what is printed is seen at once.
    argv = [sys.executable, "-P", "-u", "-m", "waterflow_agent.nodes.host", path]
    return Command(argv=argv, env={**env, "PYTHONPATH": PACKAGE, "PYTHONDONTWRITEBYTECODE": "1"}, files=files)


#: Where the agent's own package is imported from.
PACKAGE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def is_node_directory(directory: str) -> bool:
    """Whether the attempt whose own directory this is was a node's."""
    return os.path.lexists(f"{directory}/{shell.RESULT}")


def finish(end: NodeResult, directory: str) -> NodeResult:
    """`end` with what the node gave; a node that left nothing behind has not come to its end."""
    try:
        fd = os.open(f"{directory}/{shell.RESULT}", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            content = file.read(messages.OUTPUTS_BYTES_MAX + 1)
    except OSError:
        content = b""
    if not content:
        if end.outcome is Outcome.SUCCESS:
            return failure("node-error", "the node ended without a result", exit_code=end.exit_code)
        return end
    if len(content) > messages.OUTPUTS_BYTES_MAX:
        return failure("node-error", f"outputs are over the limit of {messages.OUTPUTS_BYTES_MAX} bytes")
    try:
        result = msgspec.json.decode(content, type=NodeOutput)
        fault = outcome.fault_of(result.outputs)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        # Another hand than ours wrote it: a node may do in its process what it likes.
        return failure("node-error", "the node left a result that cannot be read", exit_code=end.exit_code)
    if fault:
        return failure("node-error", fault, exit_code=end.exit_code)
    if end.outcome is Outcome.FAILURE and end.exit_code is not None and result.text:
        end = msgspec.structs.replace(end, reason_code="node-error", reason_text=one_line(result.text))
    return msgspec.structs.replace(end, outputs=result.outputs)
