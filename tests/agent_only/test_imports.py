"""The agent's distribution is self-contained: it imports only what it declares, and nothing of the daemon."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "agent" / "waterflow_agent"
#: Distribution and the module that it brings, where that has another name.
MODULES = {"pyzmq": "zmq"}
#: What a module needs that lacks another one first: the Docker nodes.
BEHIND = {"urllib3"}

#: Runs in a separate process: everything that is not declared does not exist there.
IMPORT_ALL = """
import importlib, pkgutil, sys

allowed = {"waterflow_agent", *sys.stdlib_module_names, *%r}

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in allowed:
            raise ModuleNotFoundError(f"{name} is not declared by the agent", name=name)
        return None

sys.meta_path.insert(0, Blocker())
import waterflow_agent
for module in pkgutil.walk_packages(waterflow_agent.__path__, "waterflow_agent."):
    if not module.name.endswith("__main__"):
        try:
            importlib.import_module(module.name)
            print(module.name)
        except ModuleNotFoundError as error:
            print(module.name, "needs", error.name)
"""


def declared(extra: str = "") -> set[str]:
    """Returns the top modules of the declared dependencies, or of those of an extra."""
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    requirements = project["optional-dependencies"][extra] if extra else project["dependencies"]
    names = {requirement.partition(">=")[0].partition("[")[0] for requirement in requirements}
    return {MODULES.get(name, name) for name in names}


def test_every_module_imports_without_the_daemon() -> None:
    """Without pydantic, fastapi, dulwich, lmdb and everything else that is not declared.

    Modules of nodes alone need what the extra `nodes` brings; `registry.load` says so to who lacks it.
    """
    # pyzmq's own import looks for these and does without them.
    optional = {"gevent", "green", "cffi", "tornado"}
    script = IMPORT_ALL % (sorted(declared() | optional),)

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)

    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "waterflow_agent.agent" in lines
    lacking = {module: needed for module, _, needed in (line.partition(" needs ") for line in lines) if needed}
    assert set(lacking.values()) == declared("nodes") - BEHIND
    assert all(module.startswith("waterflow_agent.nodes.") for module in lacking)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_are_declared(path: Path) -> None:
    """Including imports inside functions. Only modules of nodes import the extra, and none imports the daemon's package."""
    allowed = {"waterflow_agent", *sys.stdlib_module_names, *declared()}
    if "nodes" in path.relative_to(PACKAGE).parts:
        allowed |= declared("nodes")
    tree = ast.parse(path.read_text())
    imported = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom) and node.level == 0
            else []
        )
    }

    assert imported <= allowed


def test_help_imports_neither_zeromq_nor_the_event_loop() -> None:
    """`--help` imports neither ZeroMQ nor the event loop."""
    script = (
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from waterflow_agent.cli import main\n"
        "before = set(sys.modules)\n"
        "result = CliRunner().invoke(main, ['run', '--help'])\n"
        "assert result.exit_code == 0, result.output\n"
        "print([name for name in ('zmq', 'asyncio', 'msgspec') if name in set(sys.modules) - before])\n"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)

    assert done.stdout.strip() == "[]"
