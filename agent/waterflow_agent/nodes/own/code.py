"""The code of own nodes, and the class in it.

Rules of this file: `load` runs the author's code, so it is only called in a child process, never in the agent. The code of a
file is run from the text that was checked or pinned, whatever the file contains by now; it keeps its path, so that tracebacks
show its lines.
"""

from __future__ import annotations

import importlib
import inspect
import linecache
import re
import sys
import traceback
import types
from typing import Any

import msgspec

from waterflow_agent.errors import Rejected
from waterflow_agent.nodes.node import Node

#: The name of the module that is made of a file.
MODULE = "waterflow_own_node"

_ENTRY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


class Code(msgspec.Struct, frozen=True, kw_only=True):
    """The code of one own node: the `text` of the file at `path`, or the `entry` (`module:Class`) of a package."""

    name: str
    path: str = ""
    text: str = ""
    entry: str = ""

    @property
    def display_path(self) -> str:
        """How messages refer to the code."""
        return self.path or self.entry


def load(code: Code) -> type[Node[Any]]:
    """Return the class. Raises `Rejected` WF721 if the code fails (its traceback is printed), and WF722 if it has no node."""
    try:
        if code.entry:
            found = _of_package(code)
        else:
            found = _only_class(_module_of(code), code.path)
    except Rejected:
        raise
    except Exception as error:
        # The code may raise anything. The frames above it are ours, and do not help its author.
        own = error.__traceback__
        while own is not None and own.tb_frame.f_globals.get("__name__") in (__name__, "importlib"):
            own = own.tb_next
        traceback.print_exception(type(error), error, own)
        raise Rejected("WF721", f"{_location(code, error)}: {type(error).__name__}: {error}") from error
    if not isinstance(getattr(found, "parameters", None), type) or not issubclass(found.parameters, msgspec.Struct):
        name = found.__name__
        text = f"{code.display_path}: class {name} has no parameter record; write class {name}(Node[MyParameters])"
        raise Rejected("WF722", text)
    return found


def _module_of(code: Code) -> types.ModuleType:
    module = types.ModuleType(MODULE)
    module.__file__ = code.path
    # msgspec looks up annotations in the module of that name.
    sys.modules[MODULE] = module
    linecache.cache[code.path] = (len(code.text), None, code.text.splitlines(keepends=True), code.path)
    exec(compile(code.text, code.path, "exec", dont_inherit=True), module.__dict__)
    return module


def _only_class(module: types.ModuleType, path: str) -> type[Node[Any]]:
    own = [
        found
        for found in vars(module).values()
        if isinstance(found, type) and issubclass(found, Node) and found.__module__ == MODULE
    ]
    classes = [found for found in dict.fromkeys(own) if not inspect.isabstract(found)]
    if len(classes) == 1:
        return classes[0]
    if classes:
        names = ", ".join(found.__name__ for found in classes)
        raise Rejected("WF722", f"{path}: expected one node class, found {names}")
    hint = f": {own[0].__name__} lacks async def run(self, context, parameters)" if own else ""
    raise Rejected("WF722", f"{path}: no subclass of Node with a run method{hint}")


def _of_package(code: Code) -> type[Node[Any]]:
    if not _ENTRY.fullmatch(code.entry):
        raise Rejected("WF722", f"{code.entry}: expected module:Class")
    module, _, name = code.entry.partition(":")
    found = getattr(importlib.import_module(module), name)
    if not isinstance(found, type) or not issubclass(found, Node) or inspect.isabstract(found):
        raise Rejected("WF722", f"{code.entry}: not a subclass of Node with a run method")
    return found


def _location(code: Code, error: Exception) -> str:
    """Return the author's file and the line of the error."""
    if isinstance(error, SyntaxError) and error.filename == code.path:
        return f"{code.path}:{error.lineno}"
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == code.path]
    return f"{code.path}:{lines[-1]}" if lines else code.display_path
