"""What a node is: a class with a parameter record and one coroutine, run in a process of its own.

    from waterflow_agent.nodes.node import Context, Node, NodeFailure, Parameters

    class Given(Parameters, kw_only=True):
        name: str

    class Greet(Node[Given]):
        async def run(self, context: Context, given: Given) -> dict[str, Any]: ...

Rules of this file: a node sees its `Context` and nothing else of the agent. What it prints is the step's output log. It ends
well by giving its outputs, and badly by raising `NodeFailure`, which says whether trying again can help; anything else that it
raises is a bug of the node and is shown with its traceback. A cancel or a time-out cancels the coroutine; what it does not
finish in its grace is killed with the process.
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

#: The exit code of a failure after which trying again can help: EX_TEMPFAIL of sysexits.h. `retry.on: exit:75` names it.
MAY_RETRY_EXIT_CODE = 75
FAILURE_EXIT_CODE = 1


class NodeFailure(Exception):
    """The node could not do what it should.

    `text` is one sentence for people, without secrets. `outputs` are kept, so that later steps can look at them.
    """

    def __init__(self, text: str, *, may_retry: bool = False, outputs: Mapping[str, Any] | None = None) -> None:
        super().__init__(text)
        self.text = text
        self.may_retry = may_retry
        self.outputs: dict[str, Any] = dict(outputs or {})


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """What a node is given beside its parameters."""

    #: Where relative paths start: the step's working directory, inside of the job's.
    directory: Path
    #: The job's working directory.
    workspace: Path
    #: The step's environment.
    env: dict[str, str]

    def log(self, text: str) -> None:
        """Prints a line to the step's output log, at once."""
        print(text, flush=True)

    def warn(self, text: str) -> None:
        """The same on the error stream."""
        print(text, file=sys.stderr, flush=True)

    def path(self, text: str) -> Path:
        """A path that a parameter gives, as an absolute one. Raises `NodeFailure` for one that no file can have."""
        if "\0" in text:
            raise NodeFailure(f"{text!r} is no path")
        try:
            return self.directory / Path(text).expanduser()
        except RuntimeError as error:
            raise NodeFailure(f"{text}: there is no such user on this server") from error


Given = TypeVar("Given", bound=msgspec.Struct)


class Node(abc.ABC, Generic[Given]):
    """Base of all nodes. The class is the whole of it: one instance is made for one step."""

    #: The parameter record; that of `Node[...]` when the class does not say.
    parameters: type[Given]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "parameters" not in cls.__dict__:
            for base in cls.__dict__.get("__orig_bases__", ()):
                if get_origin(base) is Node and isinstance(get_args(base)[0], type):
                    cls.parameters = get_args(base)[0]

    @abc.abstractmethod
    async def run(self, context: Context, given: Given) -> dict[str, Any]:
        """Does the work and gives the outputs. Raises `NodeFailure`."""
