"""What the steps of a job did, as the programs below record it while they run.

`args`, and every other name of `recorders`, writes its own name and its arguments, separated by NUL, to `$RECORD/argv`. The
last step of a job calls `end`, which writes the files of the job's directory and the environment to `$RECORD/end.json`.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: One write, so that the records of programs that run at the same time do not mix.
_ARGS = """#!/bin/dash
printf '%s\\0' "$#" "${0##*/}" "$@" >> "$RECORD/argv"
"""
#: Variables of one of the two runners, of bash, and of this comparison.
_OWN_PREFIXES = ("GITHUB_", "RUNNER_", "WATERFLOW_", "WF_EXPR_", "DATA_", "BASH_FUNC_")
_OWN_NAMES = frozenset({"_", "SHLVL", "PWD", "OLDPWD", "LINES", "COLUMNS", "RECORD", "PYTHONDONTWRITEBYTECODE"})
_END = f"""#!{sys.executable} -IS
import json, os, stat, sys
def each(folder):
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        found = os.lstat(path)
        kind = "link" if stat.S_ISLNK(found.st_mode) else "folder" if stat.S_ISDIR(found.st_mode) else "file"
        content = ""
        if kind == "link":
            content = os.readlink(path)
        elif kind == "file":
            with open(path, "rb") as file:
                content = file.read().decode("utf-8", "surrogateescape")
        mode = oct(found.st_mode & 0o7777) if kind != "link" else ""
        yield [path, kind, mode, content]
        if kind == "folder":
            yield from each(path)
env = {{
    name: value
    for name, value in os.environ.items()
    if not name.startswith({_OWN_PREFIXES!r}) and name not in {sorted(_OWN_NAMES)!r}
}}
record = {{
    "workspace": os.getcwd(), "temp": os.environ["RUNNER_TEMP"], "files": list(each(".")), "env": env,
}}
with open(os.environ["RECORD"] + "/end.json", "w") as file:
    json.dump(record, file)
"""
#: What a shell calls the script in its messages.
_SCRIPT = re.compile(r"\S*/script(\.sh)?: (?=line |\d)")


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What one job did: the arguments of each recorded program, files (path, kind, mode, content), environment.

    Programs of a pipeline run at the same time, so the calls are sorted.
    """

    argv: list[list[str]]
    files: list[list[str]]
    env: dict[str, str]


def write_programs(folder: Path, recorders: Iterable[str] = ()) -> None:
    """Writes `args`, further programs that record their arguments, and `end` into a folder for `PATH`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in [("end", _END), *((name, _ARGS) for name in ("args", *recorders))]:
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)


def observed(record: Path, aliases: dict[str, str]) -> Observed | None:
    """Returns what the job that recorded into a folder did, None if it did not reach its last step.

    `aliases` are texts that differ between runs, such as paths, with the text to show for each.
    """
    try:
        end: dict[str, Any] = json.loads((record / "end.json").read_text())
    except FileNotFoundError:
        return None
    names = {end["workspace"]: "<workspace>", end["temp"]: "<temp>", os.fspath(record): "<record>", **aliases}
    ordered = sorted(names.items(), key=lambda pair: len(pair[0]), reverse=True)

    def shown(text: str) -> str:
        for found, name in ordered:
            text = text.replace(found, name)
        return _SCRIPT.sub("<script>: ", text)

    return Observed(
        argv=sorted([shown(word) for word in words] for words in _calls(record / "argv")),
        files=[[shown(part) for part in file] for file in end["files"]],
        env={name: shown(value) for name, value in sorted(end["env"].items())},
    )


def _calls(path: Path) -> Iterator[list[str]]:
    """Yields name and arguments of each call."""
    if not path.exists():
        return
    words = path.read_bytes().decode("utf-8", "surrogateescape").split("\0")[:-1]
    while words:
        count = int(words[0])
        yield words[1 : count + 2]
        words = words[count + 2 :]


def differences(name: str, ours: Observed | None, theirs: Observed | None) -> Iterator[str]:
    """Yields a line for each difference of what a job did."""
    if ours is None or theirs is None:
        if ours is not theirs:
            yield f"{name}: the last step was reached only by {'GitHub' if ours is None else 'us'}"
        return
    for what in ("argv", "files", "env"):
        we, they = getattr(ours, what), getattr(theirs, what)
        if we != they:
            pairs = zip(_rows(we), _rows(they), strict=False)
            first = next((pair for pair in pairs if pair[0] != pair[1]), (_rows(we)[-1:], _rows(they)[-1:]))
            yield f"{name}: {what} differ\n    GitHub: {first[1]!r}\n    we:     {first[0]!r}"


def _rows(found: Any) -> list[Any]:
    return sorted(found.items()) if isinstance(found, dict) else list(found)
