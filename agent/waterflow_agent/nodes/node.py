"""The base of nodes: a class with a parameter record and one coroutine, which runs in its own process.

    from waterflow_agent.nodes.node import Context, Node, NodeFailure, Parameters

    class GreetParameters(Parameters, kw_only=True):
        name: str

    class Greet(Node[GreetParameters]):
        async def run(self, context: Context, parameters: GreetParameters) -> dict[str, Any]: ...

Rules of this file: a node has access to its `Context` and to nothing else of the agent. What it prints is the output of the
step. It succeeds by returning its outputs, and fails by raising `NodeFailure`, which says whether a retry can help; any other
exception is a bug of the node and is printed with its traceback. A cancel or a timeout cancels the coroutine; the process is
killed if it does not end within its grace period.
"""

from __future__ import annotations

import abc
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args, get_origin

import msgspec

from waterflow_agent.nodes.schema import Parameters

__all__ = ["FAILURE_EXIT_CODE", "MAY_RETRY_EXIT_CODE", "Context", "Node", "NodeFailure", "Parameters"]

#: The exit code of a failure for which a retry can help: EX_TEMPFAIL of sysexits.h. `retry.on: exit:75` selects it.
MAY_RETRY_EXIT_CODE = 75
FAILURE_EXIT_CODE = 1


class NodeFailure(Exception):
    """The node failed.

    `text` is one sentence for people, without secrets. `outputs` are available to later steps.
    """

    def __init__(self, text: str, *, may_retry: bool = False, outputs: Mapping[str, Any] | None = None) -> None:
        super().__init__(text)
        self.text = text
        self.may_retry = may_retry
        self.outputs: dict[str, Any] = dict(outputs or {})


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """The environment of a node."""

    #: The step's working directory, inside that of the job; relative paths start here.
    directory: Path
    #: The job's working directory.
    workspace: Path
    #: The step's environment.
    env: dict[str, str]
    #: The socket through which the nodes for artifacts reach the daemon.
    artifacts: Path = Path("artifacts")
    #: The socket through which they reach the caches of this server.
    server_caches: Path = Path("caches")
    #: The directory of the job's containers, for the node that starts them.
    containers: Path = Path("containers")

    def log(self, text: str) -> None:
        """Print a line to the step's output, unbuffered."""
        print(text, flush=True)

    def warn(self, text: str) -> None:
        """Print a line to the step's error stream, unbuffered."""
        print(text, file=sys.stderr, flush=True)

    def path(self, text: str) -> Path:
        """Return the absolute path for a parameter. Raises `NodeFailure` if it is invalid."""
        if "\0" in text:
            raise NodeFailure(f"invalid path: {text!r} contains a NUL character")
        try:
            return self.directory / Path(text).expanduser()
        except RuntimeError as error:
            raise NodeFailure(f"{text}: this server has no such user") from error


ParametersT = TypeVar("ParametersT", bound=msgspec.Struct)


class Node(abc.ABC, Generic[ParametersT]):
    """Base class of all nodes; one instance is created for each step."""

    #: The parameter record; by default the one in `Node[...]`.
    parameters: type[ParametersT]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "parameters" not in cls.__dict__:
            for base in cls.__dict__.get("__orig_bases__", ()):
                if get_origin(base) is Node and isinstance(get_args(base)[0], type):
                    cls.parameters = get_args(base)[0]

    @abc.abstractmethod
    async def run(self, context: Context, parameters: ParametersT) -> dict[str, Any]:
        """Do the work and return the outputs. Raises `NodeFailure`."""
