"""A script in a container: the command of the process that runs it there, and what that process gets.

The process (`execution.py`) is a step like any other for the runner. Its environment is that of the server, because it talks to
the engine; the script's variables have a prefix in it, so their values are in no file and no command line.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

import msgspec

from waterflow_agent.nodes import shell
from waterflow_agent.nodes.node_process import package_environment
from waterflow_agent.nodes.shell import AttemptLocation, Command

#: In front of the names of the script's variables.
PREFIX = "_WATERFLOW_IN_CONTAINER_"
#: The file in which the process leaves the container's `PATH`, in the attempt's directory.
SEARCH_PATH = "search-path"
#: The file in which the process leaves why the script did not run to its end.
PROBLEM = "problem"
#: What every script in a container has, besides its own variables and those of the image.
START = {"CI": "true"}
_TEXT_BYTES_MAX = 64 << 10


class ExecutionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What the process gets, as JSON in a file."""

    container: str
    argv: list[str]
    directory: str
    #: The attempt's directory on the server, which the container does not see.
    files: str


def command(
    inner: Command, container: str, directory: str, location: AttemptLocation, environment: Mapping[str, str]
) -> Command:
    """Return the command that runs `inner` in the container. Raises as `shell.prepare`."""
    path = f"{location.files}/request"
    request = ExecutionRequest(container=container, argv=inner.argv, directory=directory, files=location.files)
    shell.write(path, msgspec.json.encode(request).decode())
    env = package_environment({**environment, **{f"{PREFIX}{name}": value for name, value in inner.env.items()}})
    argv = [sys.executable, "-P", "-u", "-m", "waterflow_agent.nodes.containers.execution", path]
    return shell.command(argv, env, inner.files)


def search_path(directory: str) -> str | None:
    """Return the `PATH` of the container in which the attempt with this directory ran; None if it ran in none."""
    return _text(f"{directory}/{SEARCH_PATH}")


def problem(directory: str) -> str | None:
    """Return why the script of the attempt with this directory did not run to its end in its container; None if it did."""
    return _text(f"{directory}/{PROBLEM}")


def _text(path: str) -> str | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with open(fd, "rb") as file:
        return file.read(_TEXT_BYTES_MAX).decode("utf-8", "replace")
