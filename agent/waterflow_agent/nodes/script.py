"""The node `script`: a file of the job's directory, or a text, given to its interpreter. All else is as with `shell`.

The interpreter is the one that the step names, else the one of the script's first line (`#!`), else `sh`. The line is read
here, as the kernel reads it, so that the file needs no mode and its location no permission to run programs.
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

#: What Linux reads of a first line.
_FIRST_LINE_BYTES_MAX = 256
_DEFAULT = ["sh"]


def prepare(
    parameters: schema.Script, task: messages.Task, location: AttemptLocation, start: Mapping[str, str]
) -> Command:
    """Finds or writes the script, and gives the command.

    Raises `Rejected` WF720 for a script that is not there, else as `shell.prepare`.
    """
    if (parameters.path is None) == (parameters.content is None):
        raise Rejected("WF702", 'node "script": give it either path or content')
    env = shell.environment(task, location, start)
    files = shell.create_step_files(env, location)
    shell.move_large_values(env, location.files, "")
    if parameters.path is not None:
        path, head = _found(parameters.path, location.workspace)
    else:
        path, head = f"{location.files}/script", (parameters.content or "").encode("utf-8", "surrogateescape")
        shell.write(path, parameters.content or "")
    argv = [*_interpreter(parameters.interpreter, head), path, *parameters.args]
    return shell.command(argv, env, files)


def _interpreter(wanted: str | None, head: bytes) -> list[str]:
    if wanted is not None:
        try:
            return shlex.split(wanted) or _DEFAULT
        except ValueError as error:
            raise Rejected("WF706", f"with.interpreter: {error}") from error
    line = head[:_FIRST_LINE_BYTES_MAX].split(b"\n", 1)[0]
    if not line.startswith(b"#!") or b"\0" in line:
        return _DEFAULT
    # One argument at most, with its spaces: so the kernel takes the line.
    program, _, argument = os.fsdecode(line[2:].strip()).partition(" ")
    return [part for part in (program, argument.strip()) if part] or _DEFAULT


def _found(wanted: str, workspace: str) -> tuple[str, bytes]:
    """The script's whole path, which may not leave the job's directory, and how it begins."""
    shown = one_line(wanted)
    if "\0" in wanted:
        raise Rejected("WF720", "with.path: a NUL byte")
    # Resolved with its links, as a step before may have made one that leads out.
    root = os.path.realpath(workspace)
    path = os.path.realpath(Path(root, wanted))
    if not Path(path).is_relative_to(root):
        raise Rejected("WF720", f'with.path: "{shown}" leaves the job\'s directory')
    try:
        # Without O_NONBLOCK a pipe would hold the agent until somebody writes.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        text = f'with.path: cannot read "{shown}" in the job\'s directory: {error.strerror}'
        raise Rejected("WF720", text) from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise Rejected("WF720", f'with.path: "{shown}" is no regular file')
        return path, os.read(fd, _FIRST_LINE_BYTES_MAX)
    finally:
        os.close(fd)
