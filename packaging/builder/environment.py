"""The libraries: all locked distributions and our wheels. Each package gets those that its distribution needs.

pip runs under the private interpreter, so it selects wheels for that interpreter. Hashes are required, and only wheels
are accepted, so nothing is compiled. Bytecode is compiled last, in one process, with hashes that Python does not check
("unchecked-hash"): the services cannot write these files, and timestamps would differ between builds.
"""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path

from builder import cpython

#: Records of pip that are removed: paths on the build machine, and file lists that later build steps invalidate.
_RECORDS = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")


class Library:
    """A folder with installed distributions."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.distributions = {
            _normal(_metadata(entry)["Name"]): entry for entry in sorted(folder.glob("*.dist-info")) if entry.is_dir()
        }

    def closure(self, name: str, extras: frozenset[str] = frozenset()) -> list[str]:
        """A distribution and all of its installed dependencies, sorted."""
        found: dict[str, None] = {}
        waiting = [(name, extras)]
        while waiting:
            current, wanted = waiting.pop()
            if current in found or current not in self.distributions:
                continue
            found[current] = None
            for requirement in _metadata(self.distributions[current]).get_all("Requires-Dist") or []:
                needed, _, marker = requirement.partition(";")
                extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)", marker)
                if extra is None or extra.group(1) in wanted:
                    parsed = re.match(r"\s*([A-Za-z0-9._-]+)(?:\[([^\]]*)\])?", needed)
                    assert parsed, requirement
                    inner = frozenset(item.strip() for item in (parsed.group(2) or "").split(",") if item.strip())
                    waiting.append((_normal(parsed.group(1)), inner))
        return sorted(found)

    def copy(self, names: list[str], target: Path) -> None:
        """Copies the files of distributions."""
        for name in names:
            with (self.distributions[name] / "RECORD").open(newline="", encoding="utf-8") as file:
                paths = [row[0] for row in csv.reader(file)]
            for path in paths:
                if path.startswith(("../", "bin/")) or path.endswith(".pyc") or Path(path).name in _RECORDS:
                    continue
                copy = target / path
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(self.folder / path, copy)


def install(interpreter: Path, pip: Path, locks: list[Path], wheels: list[Path]) -> Library:
    """Installs the locked distributions and the wheels. `pip` is a folder from which pip can be imported."""
    target = interpreter.parents[1] / "all"
    scratch = interpreter.parents[1] / "scratch"
    scratch.mkdir()
    wanted = scratch / "lock.txt"
    wanted.write_text("".join(lock.read_text("utf-8") for lock in locks), "utf-8")
    shutil.copytree(pip / "pip", scratch / "pip", ignore=shutil.ignore_patterns("__pycache__"))
    base = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
        "--no-compile",
        "--no-deps",
    ]
    common = [str(interpreter), *base, "--only-binary=:all:", "--root-user-action=ignore", f"--target={target}"]
    environment = os.environ | {"PYTHONPATH": str(scratch), "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([*common, "--require-hashes", f"--requirement={wanted}"], env=environment, check=True)
    subprocess.run([*common, *map(str, wheels)], env=environment, check=True)
    return Library(target)


def compile_all(root: Path, prefix: str) -> None:
    """Compiles everything below `root/prefix` to bytecode that contains the paths after installation."""
    home = root / prefix.lstrip("/")
    environment = {"PATH": os.environ["PATH"], "PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"}
    command = [str(home / "bin" / f"python{cpython.VERSION}"), "-B", "-m", "compileall", "-q", "-j", "1"]
    options = ["--invalidation-mode", "unchecked-hash", "-s", str(root), "-p", "/"]
    subprocess.run([*command, *options, str(home / "lib")], env=environment, check=True)


def strip(folder: Path) -> None:
    """Removes files that are not needed at run time: tests, type stubs, C sources, and debugging symbols."""
    for entry in sorted(folder.rglob("*"), reverse=True):
        if entry.is_dir() and entry.name in ("tests", "test", "testing_data") and not _is_ours(entry, folder):
            shutil.rmtree(entry)
        elif entry.is_file() and entry.suffix in (".pyi", ".pyx", ".pxd", ".pxi", ".c", ".h", ".typed"):
            entry.unlink()
        elif entry.is_file() and ".so" in entry.suffixes:
            subprocess.run(["strip", "--strip-unneeded", "--enable-deterministic-archives", str(entry)], check=True)
            entry.chmod(0o644)


def silence_scripts(folder: Path) -> None:
    """Blanks the `#!` line of modules that are also scripts. Line numbers stay the same."""
    for entry in folder.rglob("*.py"):
        content = entry.read_bytes()
        if content.startswith(b"#!"):
            entry.write_bytes(b"#" + content[content.find(b"\n") :])
        entry.chmod(0o644)


def _is_ours(entry: Path, folder: Path) -> bool:
    return entry.relative_to(folder).parts[0] in ("waterflowd", "waterflow_agent")


def _metadata(entry: Path) -> Message:
    return HeaderParser().parsestr((entry / "METADATA").read_text("utf-8"))


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
