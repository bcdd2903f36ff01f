"""The file with the contexts: the daemons that a user works with, by name, and which of them is the current one.

Rules of this file: a change keeps everything else in the file as it is, comments included. What a change would make of the
file is compared with what was asked for before anything is written; the file is replaced as a whole, and only its owner can
read it.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from waterflowd.ctl.failures import USAGE, Failure

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_HEADER = re.compile(r"\s*\[\s*contexts\s*\.\s*(?P<name>[A-Za-z0-9_-]+|\"[^\"]*\"|'[^']*')\s*\]")
_ANY_HEADER = re.compile(r"\s*\[")
_NOTHING = re.compile(r"\s*(#|$)")
_CURRENT = re.compile(r"\s*context\s*=")


def default_path() -> Path:
    """Return the path of the file."""
    folder = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    return Path(folder) / "waterflow" / "config.toml"


class Contexts:
    """The contexts of one file; none if it does not exist."""

    def __init__(self, path: Path) -> None:
        """Read the file; a `Failure` says why that is not possible."""
        self.path = path
        self._text = ""
        try:
            self._text = path.read_text("utf-8")
            self._content = tomllib.loads(self._text)
        except (FileNotFoundError, NotADirectoryError):
            self._content = {}
        except (OSError, ValueError) as error:
            raise Failure(USAGE, f"cannot read {path}: {error}", f"edit {path}") from None
        named = self._content.get("contexts", {})
        if not isinstance(named, dict) or not all(isinstance(each, dict) for each in named.values()):
            raise Failure(USAGE, f"{path}: contexts must be tables such as [contexts.production]", f"edit {path}")
        self.by_name: dict[str, dict[str, Any]] = named

    @property
    def current(self) -> str | None:
        """The name of the current context."""
        name = self._content.get("context")
        return None if name is None else str(name)

    def get(self, name: str) -> dict[str, Any]:
        """Return the settings of a context; a `Failure` if there is none, or if others can read its token."""
        found = self.by_name.get(name)
        if found is None:
            raise self._unknown(name)
        if any("token" in each for each in self.by_name.values()) and self.path.stat().st_mode & 0o077:
            problem = f"{self.path} contains a token, and other users can read it"
            raise Failure(USAGE, problem, f"chmod 600 {self.path}")
        return found

    def add(self, name: str, settings: dict[str, str]) -> None:
        """Add a context; the first one becomes the current one."""
        if not _NAME.fullmatch(name):
            problem = f"{name!r} cannot be the name of a context: use letters, digits, dots, hyphens and underscores"
            raise Failure(USAGE, problem, "waterflowctl context add production https://HOST")
        if name in self.by_name:
            raise Failure(USAGE, f'there is a context "{name}" already', f"waterflowctl context remove {name}")
        lines = self._text.splitlines(keepends=True)
        if lines and not lines[-1].endswith("\n"):
            lines[-1] += "\n"
        table = [f"[contexts.{json.dumps(name) if '.' in name else name}]\n"]
        table += [f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in settings.items()]
        if not self.by_name and self.current is None:
            lines = [_current_line(name), *lines]
        self._save([*lines, "\n", *table], {**self.by_name, name: settings}, self.current if self.by_name else name)

    def use(self, name: str) -> None:
        """Make a context the current one."""
        if name not in self.by_name:
            raise self._unknown(name)
        lines = self._text.splitlines(keepends=True)
        self._save([_current_line(name), *self._without_current(lines)], self.by_name, name)

    def remove(self, name: str) -> None:
        """Remove a context. If it is the current one, there is none afterwards."""
        if name not in self.by_name:
            raise self._unknown(name)
        lines: list[str] = []
        #: Comments and empty lines at the end of the removed table: they may be about what follows.
        above: list[str] = []
        is_removed = False
        for line in self._text.splitlines(keepends=True):
            if _ANY_HEADER.match(line):
                header = _HEADER.match(line)
                is_removed = header is not None and header["name"].strip("\"'") == name
                lines += [] if is_removed else above
                above.clear()
            if not is_removed:
                lines.append(line)
            elif _NOTHING.match(line):
                above.append(line)
            else:
                above.clear()
        lines += above
        current = self.current
        if current == name:
            current, lines = None, self._without_current(lines)
        self._save(lines, {other: each for other, each in self.by_name.items() if other != name}, current)

    def _unknown(self, name: str) -> Failure:
        import difflib

        found = difflib.get_close_matches(name, self.by_name, n=1)
        hint = f'; did you mean "{found[0]}"?' if found else ""
        return Failure(USAGE, f'{self.path} has no context "{name}"{hint}', "waterflowctl context list")

    @staticmethod
    def _without_current(lines: list[str]) -> list[str]:
        """The lines without the one that names the current context, which can only be above the first table."""
        end = next((index for index, line in enumerate(lines) if _ANY_HEADER.match(line)), len(lines))
        return [line for index, line in enumerate(lines) if index >= end or not _CURRENT.match(line)]

    def _save(self, lines: list[str], by_name: dict[str, Any], current: str | None) -> None:
        text = "".join(lines)
        wanted = {key: value for key, value in self._content.items() if key not in ("context", "contexts")}
        if by_name:
            wanted["contexts"] = by_name
        if current is not None:
            wanted["context"] = current
        try:
            made = tomllib.loads(text)
        except ValueError:
            made = {}
        if made != wanted:
            raise Failure(
                USAGE, f"{self.path} is written in a way that this command cannot change", f"edit {self.path}"
            )
        # A link stays a link.
        path = self.path.resolve()
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                made_at = Path(folder) / path.name
                made_at.touch(0o600)
                made_at.write_text(text, "utf-8")
                os.replace(made_at, path)
        except OSError as error:
            raise Failure(USAGE, f"cannot write {path}: {error}", f"ls -ld {path.parent}") from None
        self._text, self._content, self.by_name = text, made, by_name


def _current_line(name: str) -> str:
    return f"context = {json.dumps(name)}\n"
