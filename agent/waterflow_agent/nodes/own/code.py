"""Own nodes: where their code comes from, and the one class in it.

Rules of this file: `load` runs the author's code, so it is called in a process that may die of it, never in the agent's own. A
file is run from its text under its path, so that what was checked or pinned is what runs, whatever stands on the disk by now,
and a traceback still shows its lines.
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

#: What the module of a file is called while it runs.
MODULE = "waterflow_own_node"

_ENTRY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


class Code(msgspec.Struct, frozen=True, kw_only=True):
    """The code of one own node: the `text` of the file at `path`, or the `entry` (`module:Class`) of a package."""

    name: str
    path: str = ""
    text: str = ""
    entry: str = ""

    @property
    def shown(self) -> str:
        """What people know it by."""
        return self.path or self.entry


def load(code: Code) -> type[Node[Any]]:
    """The class. Raises `Rejected` WF721 for code that breaks, whose traceback is printed, and WF722 for what is no node."""
    try:
        if code.entry:
            found = _of_package(code)
        else:
            found = _only_class(_module_of(code), code.path)
    except Rejected:
        raise
    except Exception as error:
        # The supervision point of somebody else's code. What stands above it in the traceback is ours, and of no use there.
        own = error.__traceback__
        while own is not None and own.tb_frame.f_globals.get("__name__") in (__name__, "importlib"):
            own = own.tb_next
        traceback.print_exception(type(error), error, own)
        raise Rejected("WF721", f"{_place(code, error)}: {type(error).__name__}: {error}") from error
    if not isinstance(getattr(found, "parameters", None), type) or not issubclass(found.parameters, msgspec.Struct):
        text = (
            f"{code.shown}: class {found.__name__} has no parameter record: write class {found.__name__}(Node[Given])"
        )
        raise Rejected("WF722", text)
    return found


def _module_of(code: Code) -> types.ModuleType:
    module = types.ModuleType(MODULE)
    module.__file__ = code.path
    # Records look their annotations up in the module of their name.
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
        raise Rejected("WF722", f"{path}: a file has one node; these are several: {names}")
    hint = f": {own[0].__name__} lacks async def run(self, context, given)" if own else ""
    raise Rejected("WF722", f"{path}: there is no class that is a Node and has run{hint}")


def _of_package(code: Code) -> type[Node[Any]]:
    if not _ENTRY.fullmatch(code.entry):
        raise Rejected("WF722", f"{code.entry}: expected module:Class")
    module, _, name = code.entry.partition(":")
    found = getattr(importlib.import_module(module), name)
    if not isinstance(found, type) or not issubclass(found, Node) or inspect.isabstract(found):
        raise Rejected("WF722", f"{code.entry}: it is no class that is a Node and has run")
    return found


def _place(code: Code, error: Exception) -> str:
    """The author's file and the line in it."""
    if isinstance(error, SyntaxError) and error.filename == code.path:
        return f"{code.path}:{error.lineno}"
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == code.path]
    return f"{code.path}:{lines[-1]}" if lines else code.shown
