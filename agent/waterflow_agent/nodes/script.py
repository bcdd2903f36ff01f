"""The node `script`: runs a file of the job's directory, or a text, with its interpreter. Otherwise like `shell`.

The interpreter is the one that the step sets, else that of the script's first line (`#!`), else `sh`. The line is parsed here
as the kernel does it, so that the file need not be executable.
"""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Mapping
from pathlib import Path

from waterflow_agent.errors import Rejected
from waterflow_agent.nodes import schema, shell
from waterflow_agent.nodes.outcome import one_line
from waterflow_agent.nodes.shell import AttemptLocation, Command
from waterflow_agent.wire import messages

#: The part of the first line that Linux reads.
_FIRST_LINE_BYTES_MAX = 256
_DEFAULT = ["sh"]


def prepare(
    parameters: schema.Script, task: messages.Task, location: AttemptLocation, start: Mapping[str, str]
) -> Command:
    """Find or write the script, and return the command.

    Raises `Rejected` WF720 if there is no such script, else as `shell.prepare`.
    """
    if (parameters.path is None) == (parameters.content is None):
        raise Rejected("WF702", 'node "script": set either path or content')
    env = shell.environment(task, location, start)
    files = shell.create_step_files(env, location)
    shell.move_large_values(env, location.files, "")
    if parameters.path is not None:
        path, head = _open_script(parameters.path, location.workspace)
    else:
        path, head = f"{location.files}/script", (parameters.content or "").encode("utf-8", "surrogateescape")
        shell.write(path, parameters.content or "")
    argv = [*_interpreter(parameters.interpreter, head), path, *parameters.args]
    return shell.command(argv, env, files)


def _interpreter(requested: str | None, head: bytes) -> list[str]:
    if requested is not None:
        try:
            return shlex.split(requested) or _DEFAULT
        except ValueError as error:
            raise Rejected("WF706", f"with.interpreter: {error}") from error
    line = head[:_FIRST_LINE_BYTES_MAX].split(b"\n", 1)[0]
    if not line.startswith(b"#!") or b"\0" in line:
        return _DEFAULT
    # At most one argument, including its spaces, as the kernel does it.
    program, _, argument = os.fsdecode(line[2:].strip()).partition(" ")
    return [part for part in (program, argument.strip()) if part] or _DEFAULT


def _open_script(requested: str, workspace: str) -> tuple[str, bytes]:
    """Return the absolute path of the script, which must be inside the job's directory, and its beginning."""
    displayed = one_line(requested)
    if "\0" in requested:
        raise Rejected("WF720", "with.path: contains a NUL byte")
    # Links are resolved, because an earlier step may have created one that leads outside.
    root = os.path.realpath(workspace)
    path = os.path.realpath(Path(root, requested))
    if not Path(path).is_relative_to(root):
        raise Rejected("WF720", f'with.path: "{displayed}" is outside the job\'s directory')
    try:
        # Without O_NONBLOCK, opening a pipe would block the agent.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        text = f'with.path: cannot read "{displayed}" in the job\'s directory: {error.strerror}'
        raise Rejected("WF720", text) from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise Rejected("WF720", f'with.path: "{displayed}" is not a regular file')
        return path, os.read(fd, _FIRST_LINE_BYTES_MAX)
    finally:
        os.close(fd)
