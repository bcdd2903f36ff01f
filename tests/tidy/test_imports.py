"""Import rules. The tables below define the architecture, and each rule is shown to find violations.

Pure packages list what they may import besides the pure part of the standard library; shells list what they never import.
To change a rule, change it here first, in a commit that gives the reason.
"""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from tests.patience import PATIENCE_S
from tests.tidy import sources
from tests.tidy.sources import Import, Source

#: The library that defines records, in every package that has some.
RECORDS = "msgspec"
#: Package: what it may import besides itself, `ERRORS` and `PURE_LIBRARY`.
PURE: dict[str, frozenset[str]] = {
    "waterflow_agent.attempts": frozenset({RECORDS}),
    "waterflow_agent.durations": frozenset(),
    "waterflow_agent.server_paths": frozenset(),
    "waterflowd.model": frozenset({"waterflow_agent.attempts", "waterflow_agent.durations", RECORDS}),
    "waterflowd.expr": frozenset({"waterflowd.model"}),
    "waterflowd.dsl": frozenset(
        {
            "waterflowd.model",
            "waterflowd.expr",
            "waterflow_agent.nodes.schema",
            "waterflow_agent.type_errors",
            "pydantic",
            "pydantic_core",
            RECORDS,
        }
    ),
    "waterflowd.engine": frozenset({"waterflowd.model", "waterflowd.expr", "waterflow_agent.server_paths", RECORDS}),
    "waterflowd.fleet": frozenset({"waterflowd.model", "waterflow_agent.wire", RECORDS}),
    "waterflowd.reconcile": frozenset({"waterflowd.model", "waterflowd.dsl", RECORDS}),
    "waterflowd.importers": frozenset(
        {"waterflowd.model", "waterflowd.expr", "waterflowd.dsl", "waterflow_agent.durations"}
    ),
    "waterflow_agent.wire": frozenset({"waterflow_agent.attempts", RECORDS}),
    "waterflow_agent.state.ledger": frozenset({"waterflow_agent.attempts", "waterflow_agent.wire", RECORDS}),
    "waterflow_agent.nodes.schema": frozenset({RECORDS}),
    "waterflowd.temporal.workflow.messages": frozenset({RECORDS}),
    "waterflowd.temporal.workflow.command_executor": frozenset({"waterflowd.temporal.workflow.messages"}),
    "waterflowd.temporal.workflow.shell": frozenset(
        {"waterflowd.temporal.workflow.messages", "waterflowd.temporal.workflow.command_executor", RECORDS}
    ),
}
#: Modules of pure packages that may import more, or are not part of the pure package.
#: Time zone tables are system files that do not change during the life of a process, so they count as data.
MAY_BESIDES = {
    "waterflowd.dsl.reading.reader": frozenset({"yaml"}),
    "waterflowd.dsl.cron": frozenset({"cronsim", "zoneinfo"}),
    # Job definitions of Rundeck may be XML; the parser gets text without entities.
    "waterflowd.importers.rundeck.definitions": frozenset({"xml"}),
    # Everyone who may push writes patterns for inputs; the standard library's engine takes exponential time for some.
    "waterflowd.model.inputs": frozenset({"pydantic_core"}),
    # Temporal's client runs these modules in an event loop of its own, without clock, network or threads.
    "waterflowd.temporal.workflow.command_executor": frozenset({"asyncio", "temporalio"}),
    "waterflowd.temporal.workflow.shell": frozenset({"asyncio", "temporalio"}),
}
NOT_PURE = ("waterflowd.reconcile.loop",)
#: The errors of both distributions, which import nothing themselves.
ERRORS = "waterflow_agent.errors"
#: Displaying text safely, shared by both distributions; it imports nothing either.
DISPLAY = "waterflow_agent.display"
#: The modules of the standard library without sockets, files, clocks, threads, randomness, processes and logging.
PURE_LIBRARY = (
    *("__future__", "abc", "array", "base64", "binascii", "bisect", "collections", "contextlib", "copy", "dataclasses"),
    *("datetime", "decimal", "difflib", "enum", "fractions", "functools", "graphlib", "hashlib", "heapq", "hmac"),
    *("ipaddress", "itertools", "json", "keyword", "math", "numbers", "operator", "re", "shlex", "string", "struct"),
    *(
        "textwrap",
        "types",
        "typing",
        "unicodedata",
        "zlib",
        "pathlib.PurePath",
        "pathlib.PurePosixPath",
        "urllib.parse",
        "weakref.ref",
    ),
)
#: Functions with access to the outside that need no import.
IMPURE_BUILTINS = frozenset({"open", "input", "print", "exec", "eval", "compile", "breakpoint", "__import__"})
#: Methods of `datetime` and `date` that read the clock, or use the machine's zone if arguments are missing.
CLOCK_READS = frozenset({"now", "utcnow", "today"})
ZONE_READS = {"fromtimestamp": 2, "astimezone": 1}

#: Shell: what it never imports.
NEVER: dict[str, tuple[str, ...]] = {
    "waterflowd.host": ("lmdb", "zmq", "waterflowd.api"),
    "waterflowd.store": ("zmq", "waterflowd.api", "waterflowd.host"),
    "waterflowd.objects": ("lmdb", "zmq", "waterflowd.api", "waterflowd.host"),
    "waterflowd.artifacts": ("lmdb", "zmq", "waterflowd.api", "waterflowd.host"),
    "waterflowd.dispatch": ("lmdb", "waterflowd.api"),
    "waterflowd.gitsource": ("lmdb", "zmq", "waterflowd.api"),
    "waterflowd.reconcile": ("lmdb", "zmq", "waterflowd.api", "waterflowd.admin"),
    "waterflowd.admin": ("lmdb", "zmq", "waterflowd.api"),
    "waterflowd.api": ("lmdb", "zmq"),
    "waterflowd.notices": ("lmdb", "zmq", "waterflowd.api", "waterflowd.host"),
    "waterflowd.access": ("lmdb", "zmq", "waterflowd.api", "waterflowd.host"),
    "waterflowd.temporal": ("lmdb", "zmq", "waterflowd.api"),
    "waterflow_agent": ("waterflowd",),
}
#: Libraries of an extra, and the only package that imports them: users without the extra do not have them.
EXTRAS = {"temporalio": "waterflowd.temporal"}
#: What the command line may import from the daemon: the API's types, the language, and single modules.
CTL_MAY = (
    "waterflowd.ctl",
    "waterflowd.dsl",
    "waterflowd.importers",
    ERRORS,
    "waterflowd.__version__",
    DISPLAY,
    "waterflow_agent.durations",
)
#: The runner outlives every upgrade of the agent, so it imports almost nothing: the version, the errors and the clock.
RUNNER_MAY = (
    "waterflow_agent.runner",
    "waterflow_agent.errors",
    "waterflow_agent.clock",
    "waterflow_agent.__version__",
)
#: The concrete classes behind the ports, which only some modules may name.
ADAPTERS = (
    "waterflowd.store",
    "waterflowd.objects",
    "waterflowd.dispatch",
    "waterflowd.gitsource",
    "waterflowd.api",
    "waterflowd.admin",
    "waterflowd.compiler",
    "waterflowd.temporal",
)
#: The part of the administration services that the API may import: protocols, their rows, and the list of metrics.
ADMIN_CONTRACTS = ("waterflowd.admin.ports", "waterflowd.admin.metric_samples")
#: Records and protocols that others may import.
API_CONTRACTS = ("waterflowd.api.services", *ADMIN_CONTRACTS)
#: The task of an attempt without its secrets: pure, and what a turn on Temporal hands to the gateways.
DRAFTS = "waterflowd.dispatch.lowering"
#: The composition root; `testing` builds the environments in which tests run.
#: `rescue` combines the store's copies with the engine's events while no daemon is running.
COMPOSITION = (
    *("waterflowd.app.bootstrap", "waterflowd.app.audit", "waterflowd.app.daemon", "waterflowd.testing"),
    *(
        "waterflowd.app.artifacts",
        "waterflowd.app.cluster_check",
        "waterflowd.app.former_cluster",
        "waterflowd.app.engines",
    ),
    *("waterflowd.app.temporal_engine", "waterflowd.app.repositories", "waterflowd.app.notices", "waterflowd.rescue"),
)


def pure_findings(source: Source) -> Iterator[str]:
    """Returns the forbidden imports and calls of a module in a pure package."""
    package = next((name for name in PURE if sources.is_in(source.module, name)), None)
    if package is None or sources.is_in(source.module, *NOT_PURE):
        return
    may = {package, ERRORS, DISPLAY, *PURE[package], *MAY_BESIDES.get(source.module, ())}
    for found in sources.imports(source):
        if found.is_in(*NOT_PURE) or not found.is_in(*may, *PURE_LIBRARY):
            yield _text(source, found.line, f"a module of {package}, which is pure, imports {found.name}")
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in IMPURE_BUILTINS:
            yield _text(source, node.lineno, f"a module of {package}, which is pure, calls {node.func.id}()")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _reads_the_clock(node, node.func):
            yield _text(
                source, node.lineno, f"a module of {package}, which is pure, reads the clock: .{node.func.attr}()"
            )


def _reads_the_clock(call: ast.Call, method: ast.Attribute) -> bool:
    owner = method.value
    name = owner.id if isinstance(owner, ast.Name) else owner.attr if isinstance(owner, ast.Attribute) else ""
    if method.attr in CLOCK_READS:
        return name in ("datetime", "date")
    return len(call.args) + len(call.keywords) < ZONE_READS.get(method.attr, 0)


def shell_findings(source: Source) -> Iterator[str]:
    """Returns the forbidden imports of a module in a shell."""
    for package, never in NEVER.items():
        if not sources.is_in(source.module, package):
            continue
        for found in sources.imports(source):
            if found.is_in(*never):
                yield _text(source, found.line, f"a module of {package} imports {found.name}")


def extra_findings(source: Source) -> Iterator[str]:
    """Returns imports of an extra's library outside of the package that needs it."""
    for found in sources.imports(source):
        package = EXTRAS.get(found.top)
        if package is not None and not sources.is_in(source.module, package):
            yield _text(source, found.line, f"{source.module} imports {found.name}, which only {package} may do")


def ctl_findings(source: Source) -> Iterator[str]:
    """Returns what a module of the command line imports from the daemon beyond the allowed parts."""
    if sources.is_in(source.module, "waterflowd.ctl"):
        for found in sources.imports(source):
            if found.top in ("waterflowd", "waterflow_agent", "lmdb", "zmq") and not found.is_in(*CTL_MAY):
                yield _text(source, found.line, f"the command line imports {found.name}")


def runner_findings(source: Source) -> Iterator[str]:
    """Returns what the runner imports besides the standard library."""
    if sources.is_in(source.module, "waterflow_agent.runner"):
        for found in sources.imports(source):
            is_library = found.top in sys.stdlib_module_names
            if not is_library and found.name != "waterflow_agent" and not found.is_in(*RUNNER_MAY):
                yield _text(source, found.line, f"the runner imports {found.name}")


def adapter_findings(source: Source) -> Iterator[str]:
    """Returns the adapters that a module names without being the composition root or part of that adapter."""
    if not sources.is_in(source.module, "waterflowd") or sources.is_in(source.module, *COMPOSITION):
        return
    for found in sources.imports(source):
        adapter = next((name for name in ADAPTERS if found.is_in(name)), None)
        is_contract = found.is_in(*API_CONTRACTS, DRAFTS)
        if adapter and not is_contract and not sources.is_in(source.module, adapter):
            yield _text(source, found.line, f"{source.module} names the adapter {found.name}")


def errors_findings(source: Source) -> Iterator[str]:
    """Returns imports of the errors and display modules, which must import nothing because everything imports them."""
    if source.module in (ERRORS, DISPLAY):
        for found in sources.imports(source):
            if found.top not in PURE_LIBRARY:
                yield _text(source, found.line, f"{source.module} imports {found.name}")


def relative_findings(source: Source) -> Iterator[str]:
    """Returns relative and star imports, which a search for the module's name would not find."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ImportFrom) and (node.level or any(alias.name == "*" for alias in node.names)):
            yield _text(source, node.lineno, "a relative or a star import")


def _text(source: Source, line: int, sentence: str) -> str:
    return f"{source.path}:{line}: {sentence}"


RULES: list[Callable[[Source], Iterator[str]]] = [
    pure_findings,
    shell_findings,
    extra_findings,
    ctl_findings,
    runner_findings,
    adapter_findings,
    errors_findings,
    relative_findings,
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__.removesuffix("_findings"))
def test_the_rule_holds_in_every_module(rule: Callable[[Source], Iterator[str]]) -> None:
    """Each finding names the file, the line and what was imported."""
    findings = [finding for source in sources.shipped() for finding in rule(source)]
    assert not findings, "\n".join(["", *findings])


@pytest.mark.parametrize("package", [*PURE, *NEVER, "waterflowd.ctl", "waterflow_agent.runner", *COMPOSITION])
def test_every_rule_is_about_an_existing_package(package: str) -> None:
    """A rule for a package that was renamed would check nothing."""
    assert [source for source in sources.shipped() if sources.is_in(source.module, package)]


BROKEN: list[tuple[str, str, Callable[[Source], Iterator[str]]]] = [
    *(
        (f"{package}.part", f"import {module}", pure_findings)
        for package in PURE
        for module in (
            "socket",
            "os",
            "time",
            "threading",
            "random",
            "logging",
            "asyncio",
            "subprocess",
            "secrets",
            "uuid",
        )
    ),
    *((f"{package}.part", "from pathlib import Path", pure_findings) for package in PURE),
    *((f"{package}.part", "import zmq", pure_findings) for package in PURE),
    *((f"{package}.part", "def f():\n    return open('x')", pure_findings) for package in PURE),
    ("waterflowd.model.part", "from waterflowd.engine import state", pure_findings),
    ("waterflowd.expr.part", "from waterflowd import dsl", pure_findings),
    ("waterflowd.dsl.building.workflow", "import yaml", pure_findings),
    ("waterflowd.dsl.building.workflow", "from waterflowd.engine import events", pure_findings),
    ("waterflowd.dsl.building.workflow", "from waterflow_agent.nodes import shell", pure_findings),
    ("waterflowd.engine.decide", "from waterflowd.host import driver", pure_findings),
    ("waterflowd.engine.decide", "from waterflow_agent.wire import messages", pure_findings),
    ("waterflowd.engine.decide", "def f():\n    import time", pure_findings),
    ("waterflowd.engine.decide", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import lmdb", pure_findings),
    ("waterflowd.engine.decide", "import datetime\nx = datetime.datetime.now()", pure_findings),
    ("waterflowd.engine.decide", "from datetime import date\nx = date.today()", pure_findings),
    ("waterflowd.engine.decide", "import datetime\nx = datetime.datetime.fromtimestamp(1)", pure_findings),
    ("waterflowd.engine.decide", "def f(at):\n    return at.astimezone()", pure_findings),
    ("waterflowd.engine.decide", "print('x')", pure_findings),
    ("waterflowd.engine.decide", "x = __import__('os')", pure_findings),
    ("waterflowd.fleet.placement", "from waterflowd.engine import state", pure_findings),
    ("waterflowd.reconcile.diff", "from waterflowd.reconcile import loop", pure_findings),
    ("waterflowd.reconcile.diff", "from waterflowd import ports", pure_findings),
    ("waterflow_agent.wire.codec", "from waterflow_agent import link", pure_findings),
    ("waterflow_agent.state.ledger.ledger", "from waterflow_agent import journal", pure_findings),
    ("waterflow_agent.nodes.schema", "from waterflow_agent.nodes import shell", pure_findings),
    *(
        (f"{package}.part", f"from {module} import name", shell_findings)
        for package, never in NEVER.items()
        for module in never
    ),
    ("waterflow_agent.session.link", "import waterflowd", shell_findings),
    ("waterflowd.app.bootstrap", "from temporalio.client import Client", extra_findings),
    ("waterflowd.host.driver", "def f():\n    import temporalio", extra_findings),
    ("waterflowd.ctl.commands.runs", "from waterflowd.host import driver", ctl_findings),
    ("waterflowd.ctl.commands.runs", "from waterflowd.api import app", ctl_findings),
    ("waterflowd.ctl.commands.runs", "from waterflowd import store", ctl_findings),
    ("waterflowd.ctl.commands.runs", "import zmq", ctl_findings),
    ("waterflow_agent.runner.service", "import msgspec", runner_findings),
    ("waterflow_agent.runner.service", "from waterflow_agent import config", runner_findings),
    ("waterflow_agent.runner.service", "from waterflow_agent.wire import messages", runner_findings),
    ("waterflowd.host.driver", "from waterflowd.store import log", adapter_findings),
    ("waterflowd.host.driver", "from waterflowd import dispatch", adapter_findings),
    (
        "waterflowd.reconcile.loop.repository",
        "from waterflowd.gitsource.local import LocalSource",
        adapter_findings,
    ),
    ("waterflowd.app.cli", "from waterflowd.api.server import serve", adapter_findings),
    ("waterflow_agent.errors", "import msgspec", errors_findings),
    ("waterflow_agent.errors", "from waterflow_agent import wire", errors_findings),
    ("waterflowd.host.driver", "from . import clock", relative_findings),
    ("waterflowd.host.driver", "from waterflowd.model import *", relative_findings),
]


@pytest.mark.parametrize(
    ("module", "text", "rule"), BROKEN, ids=[f"{module}: {text.splitlines()[-1].strip()}" for module, text, _ in BROKEN]
)
def test_a_broken_rule_is_found(module: str, text: str, rule: Callable[[Source], Iterator[str]]) -> None:
    """A module that breaks the rule gives a finding with its location."""
    findings = list(rule(Source(module=module, path="made/up.py", text=text)))
    assert findings
    assert findings[0].startswith("made/up.py:")


ALLOWED: list[tuple[str, str]] = [
    ("waterflowd.model.plan", "import msgspec\nfrom collections.abc import Mapping\nfrom waterflowd.model import ids"),
    ("waterflowd.dsl.reading.reader", "import yaml\nfrom waterflow_agent.errors import Rejected"),
    (
        "waterflowd.dsl.building.workflow",
        "from pathlib import PurePosixPath\nfrom waterflow_agent.nodes.schema import find",
    ),
    ("waterflowd.engine.decide", "from datetime import UTC, datetime\nx = datetime.fromtimestamp(1, UTC)"),
    ("waterflowd.admin.repositories", "import asyncio\nfrom waterflowd.reconcile.loop import Reconciler"),
    (
        "waterflowd.ctl.commands.offline.validate",
        "import httpx\nfrom waterflowd import __version__\nfrom waterflowd import dsl",
    ),
    ("waterflow_agent.runner.service", "import os\nimport waterflow_agent\nfrom waterflow_agent.runner import spool"),
    ("waterflowd.app.bootstrap", "from waterflowd.store.opening import open_store"),
    ("waterflowd.temporal.sealing.codec", "from temporalio.converter import PayloadCodec"),
    ("waterflowd.store.log", "import lmdb\nfrom waterflowd.store import layout"),
]


@pytest.mark.parametrize(("module", "text"), ALLOWED, ids=[module for module, _ in ALLOWED])
def test_allowed_imports_give_no_finding(module: str, text: str) -> None:
    """The rules have no false positives for these examples."""
    source = Source(module=module, path="made/up.py", text=text)
    assert [finding for rule in RULES for finding in rule(source)] == []


@pytest.mark.parametrize(
    ("module", "is_package", "text", "name"),
    [
        ("a.b.c", False, "from . import d", "a.b.d"),
        ("a.b.c", False, "from ..e import d", "a.e.d"),
        ("a.b", True, "from . import d", "a.b.d"),
        ("a.b", True, "from .e import d", "a.b.e.d"),
    ],
)
def test_a_relative_import_equals_the_absolute_one(module: str, is_package: bool, text: str, name: str) -> None:
    """The rules apply to every form of import."""
    source = Source(module=module, path="made/up.py", text=text, is_package=is_package)
    assert sources.imports(source) == [Import(name=name, line=1)]


def test_the_runner_needs_only_the_standard_library() -> None:
    """A real interpreter without any installed packages imports every module of the runner."""
    names = [source.module for source in sources.modules("waterflow_agent")]
    expected = [
        name for name in names if sources.is_in(name, "waterflow_agent.runner") and not name.endswith("__main__")
    ]
    code = f"""
import importlib, sys
sys.path.insert(0, {str(sources.PACKAGE_ROOTS["waterflow_agent"])!r})
for name in {expected!r}:
    importlib.import_module(name)
tops = {{name.partition('.')[0] for name in sys.modules}}
print(sorted(tops - sys.stdlib_module_names - {{'__main__', 'waterflow_agent'}}))
"""
    ended = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert (ended.stdout, ended.stderr) == ("[]\n", "")


# Cycles ---------------------------------------------------------------------------------------------------------------


def _imports_at_load(source: Source, known: frozenset[str]) -> set[str]:
    """The modules of the project that a module imports when it is loaded; imports inside functions come later."""
    found: set[str] = set()
    bodies: list[list[ast.stmt]] = [source.tree.body]
    while bodies:
        for node in bodies.pop():
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if isinstance(node, ast.Import | ast.ImportFrom):
                part = Source(
                    module=source.module, path=source.path, text=ast.unparse(node), is_package=source.is_package
                )
                found |= {_known_module(item.name, known) for item in sources.imports(part)}
            bodies += [
                body
                for field in ("body", "orelse", "finalbody")
                if isinstance(body := getattr(node, field, None), list)
            ]
    return found - {"", source.module}


def _known_module(name: str, known: frozenset[str]) -> str:
    parent = name.rpartition(".")[0]
    return name if name in known else parent if parent in known else ""


def _cycle(graph: dict[str, set[str]]) -> list[str]:
    """A cycle of the graph, or nothing."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def test_no_modules_import_each_other_in_a_cycle() -> None:
    """Imports point one way, over both distributions, tests and benchmarks; imports for type checkers count too."""
    known = frozenset(source.module for source in sources.python_files())
    graph = {source.module: _imports_at_load(source, known) for source in sources.python_files()}
    assert sum(map(len, graph.values())) > 1_000
    assert _cycle(graph) == []


def test_a_cycle_is_found() -> None:
    """The test above detects cycles."""
    known = frozenset({"a.b", "a.c"})
    files = [Source(module="a.b", path="", text="from a import c"), Source(module="a.c", path="", text="import a.b")]
    assert _cycle({source.module: _imports_at_load(source, known) for source in files})


# ARCHITECTURE.md ------------------------------------------------------------------------------------------------------


def _rows(heading: str) -> dict[str, str]:
    """The rows of a table of ARCHITECTURE.md: package, and the cell that names other packages."""
    text = (sources.ROOT / "ARCHITECTURE.md").read_text("utf-8")
    table = text.partition(f"| {heading} |")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines()[2:]]
    return {re.findall(r"`([a-z_.]+)`", row[0])[0]: row[2] for row in rows}


def _named(cell: str) -> set[str]:
    return {name for name in re.findall(r"[a-z_.]+", cell) if name not in ("", ".")}


def test_the_architecture_lists_what_pure_packages_may_import() -> None:
    """The first table is `PURE`; libraries are in another column."""
    libraries = {RECORDS, "pydantic", "pydantic_core"}
    documented = {package: _named(cell) for package, cell in _rows("pure package").items()}
    assert documented == {package: set(names) - libraries for package, names in PURE.items()}


def test_the_architecture_lists_what_shells_never_import() -> None:
    """The second table is `NEVER`."""
    assert {package: _named(cell) for package, cell in _rows("shell").items()} == {
        package: set(names) for package, names in NEVER.items()
    }
