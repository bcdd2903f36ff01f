"""The agent's distribution stands alone: what it imports is what it declares, and nothing of the daemon."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "agent" / "waterflow_agent"
#: Distribution and the module that it brings.
MODULES = {"click": "click", "msgspec": "msgspec", "pyyaml": "yaml", "pyzmq": "zmq"}

#: Runs in a process of its own: everything that is not declared does not exist there.
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
        importlib.import_module(module.name)
        print(module.name)
"""


def declared() -> set[str]:
    """Top modules of the declared dependencies."""
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    return {MODULES[requirement.partition(">=")[0]] for requirement in project["dependencies"]}


def test_every_module_imports_without_the_daemon() -> None:
    """With pydantic, fastapi, dulwich, lmdb and whatever else is not declared out of reach."""
    # pyzmq's own import looks for these and does without them.
    optional = {"gevent", "green", "cffi", "tornado"}
    script = IMPORT_ALL % (sorted(declared() | optional),)

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)

    assert done.returncode == 0, done.stderr
    assert "waterflow_agent.agent" in done.stdout


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_are_declared(path: Path) -> None:
    """Also those inside functions, and never the daemon's package."""
    allowed = {"waterflow_agent", *sys.stdlib_module_names, *declared()}
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


def test_help_is_light() -> None:
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

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)

    assert done.stdout.strip() == "[]"
