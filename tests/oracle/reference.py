"""A small runner of workflows that does what GitHub's runner does, with GitHub's own evaluator.

It knows `run` steps alone. An expression is replaced by the text of its value. The script is written to a file, for which
GitHub's command line of its shell is started. What a step wrote to its files reaches the next steps. Rules: the
documentation of GitHub Actions, and `ScriptHandler`, `FileCommandManager` and `StepsRunner` of the runner's source.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from tests.oracle.github import GitHub
from tests.patience import PATIENCE_S

#: GitHub's command line for each shell; the first is for steps that name none.
SHELLS = {
    None: "bash -e {0}",
    "bash": "bash --noprofile --norc -eo pipefail {0}",
    "sh": "sh -e {0}",
}
_EXPRESSION = re.compile(r"\$\{\{((?:[^'}]|'[^']*'|\}(?!\}))*)\}\}", re.DOTALL)
_STATUS_CALL = re.compile(r"\b(always|success|failure|cancelled)\(\s*\)")

Contexts = dict[str, Any]


class StepFilesInvalid(Exception):
    """A step wrote a line that GitHub refuses; it fails the step."""


@dataclass(kw_only=True)
class Job:
    """One job while it runs."""

    workspace: Path
    temp: Path
    contexts: Contexts
    env: dict[str, str]
    #: Set by `GITHUB_ENV`.
    added: dict[str, str] = field(default_factory=dict)
    #: Set by `GITHUB_PATH`; the last one is searched first.
    directories: list[str] = field(default_factory=list)
    failed: bool = False


class Reference:
    """Runs workflows in folders below `folder`, with the variables `base` in every step."""

    def __init__(
        self, evaluator: GitHub, folder: Path, base: Mapping[str, str], shells: Mapping[str | None, str] = SHELLS
    ) -> None:
        self._evaluator = evaluator
        self._folder = folder
        self._base = base
        self._shells = shells
        #: The texts that each expression of a script was replaced by.
        self.substituted: dict[str, set[str]] = {}

    def run(self, workflow: Mapping[str, Any], github: Mapping[str, Any]) -> None:
        """Runs the jobs in their order; each may need earlier ones."""
        declared = workflow.get("on", {}).get("workflow_dispatch") or {}
        inputs = {
            name: spec.get("default", False if spec.get("type") == "boolean" else "")
            for name, spec in (declared.get("inputs") or {}).items()
        }
        contexts: Contexts = {"github": {"event_name": "workflow_dispatch", **github}, "inputs": inputs, "env": {}}
        contexts["env"] = self._texts(workflow.get("env", {}), contexts)
        needs: dict[str, Any] = {}
        for name, job in workflow["jobs"].items():
            needed = job.get("needs", [])
            names = [needed] if isinstance(needed, str) else needed
            visible = {**contexts, "needs": {each: needs[each] for each in names}}
            for index, matrix in enumerate(_combinations(job.get("strategy", {}).get("matrix", {}))):
                needs[name] = self._job(workflow, (name, index), job, {**visible, "matrix": matrix})

    def _job(
        self, workflow: Mapping[str, Any], key: tuple[str, int], job: Mapping[str, Any], contexts: Contexts
    ) -> dict[str, Any]:
        """Runs one instance of a job; returns what `needs` has of it."""
        workspace, temp = (self._folder / f"{key[0]}-{key[1]}" / name for name in ("work", "temp"))
        for path in (workspace, temp):
            path.mkdir(parents=True)
        contexts = {
            **contexts,
            "github": {**contexts["github"], "job": key[0], "workspace": str(workspace)},
            "runner": {"os": "Linux", "arch": "X64", "temp": str(temp)},
            "strategy": {"job-index": key[1]},
            "steps": {},
            "job": {"status": "success"},
        }
        running = Job(workspace=workspace, temp=temp, contexts=contexts, env={})
        running.env = {**contexts["env"], **self._texts(job.get("env", {}), contexts)}
        defaults = {**workflow.get("defaults", {}).get("run", {}), **job.get("defaults", {}).get("run", {})}
        for number, step in enumerate(job["steps"]):
            result = self._step(running, {**defaults, **step}, number)
            contexts["steps"][step.get("id", f"__{number}")] = result
            running.failed = running.failed or result["conclusion"] == "failure"
        contexts["env"] = {**running.env, **running.added}
        outputs = self._texts(job.get("outputs", {}), contexts)
        return {"result": "failure" if running.failed else "success", "outputs": outputs}

    def _step(self, job: Job, step: Mapping[str, Any], number: int) -> dict[str, Any]:
        """Runs one step; returns what `steps` has of it."""
        contexts = job.contexts
        contexts["env"] = {**job.env, **job.added}
        if not self._condition(job, step.get("if")):
            return {"outputs": {}, "outcome": "skipped", "conclusion": "skipped"}
        own = self._texts(step.get("env", {}), contexts)
        contexts["env"] = {**contexts["env"], **own}
        files = {name: job.temp / f"{name}-{number}" for name in ("OUTPUT", "ENV", "PATH", "STEP_SUMMARY")}
        for path in files.values():
            path.touch()
        code = self._script(job, step, files)
        try:
            outputs = dict(_pairs(files["OUTPUT"]))
            job.added |= dict(_pairs(files["ENV"]))
            job.directories += [line for line in files["PATH"].read_text().splitlines() if line]
        except StepFilesInvalid:
            outputs, code = {}, code or 1
        outcome = "failure" if code else "success"
        conclusion = "success" if step.get("continue-on-error") is True else outcome
        return {"outputs": outputs, "outcome": outcome, "conclusion": conclusion, "exit-code": code}

    def _script(self, job: Job, step: Mapping[str, Any], files: Mapping[str, Path]) -> int:
        """Runs a step's script; returns its exit code."""
        contexts = job.contexts
        shell = step.get("shell")
        line = self._shells.get(shell) or shell
        script = job.temp / "script.sh"
        script.write_bytes(self._replaced(step["run"], contexts).encode("utf-8", "surrogateescape") + b"\n")
        path = ":".join([*reversed(job.directories), self._base["PATH"]])
        env = {**self._base, **contexts["env"], "PATH": path, "CI": "true"}
        env |= {f"GITHUB_{name}": str(file) for name, file in files.items()}
        env |= {"GITHUB_WORKSPACE": str(job.workspace), "RUNNER_TEMP": str(job.temp), "RUNNER_OS": "Linux"}
        env |= {f"GITHUB_{name.upper()}": str(text) for name, text in contexts["github"].items() if name != "event"}
        folder = job.workspace / self._text(step.get("working-directory", "."), contexts)
        done = subprocess.run(
            [part.replace("{0}", str(script)) for part in shlex.split(line)],
            cwd=folder,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE_S,
            check=False,
        )
        return done.returncode

    def _condition(self, job: Job, condition: object) -> bool:
        text = str(condition) if condition is not None else ""
        found = _EXPRESSION.fullmatch(text.strip())
        source = found.group(1) if found else text
        states = {"always": True, "success": not job.failed, "failure": job.failed, "cancelled": False}
        replaced, count = _STATUS_CALL.subn(lambda call: str(states[call.group(1)]).lower(), source)
        if not count and job.failed:
            return False
        return not replaced.strip() or self._values([f"!!({replaced})"], job.contexts)[0] == "true"

    def _texts(self, table: Mapping[str, Any], contexts: Contexts) -> dict[str, str]:
        return {name: self._text(value, contexts) for name, value in table.items()}

    def _text(self, value: object, contexts: Contexts) -> str:
        """Returns the text of a value of the file that may contain expressions."""
        if not isinstance(value, str):
            return str(value).lower() if isinstance(value, bool) else str(value)
        sources = _EXPRESSION.findall(value)
        texts = iter(self._values(sources, contexts)) if sources else iter(())
        return _EXPRESSION.sub(lambda _: next(texts), value)

    def _replaced(self, script: str, contexts: Contexts) -> str:
        """Returns the script with expressions replaced, and remembers their texts."""
        sources = _EXPRESSION.findall(script)
        if not sources:
            return script
        texts = self._values(sources, contexts)
        for source, text in zip(sources, texts, strict=True):
            self.substituted.setdefault(source.strip(), set()).add(text)
        remaining = iter(texts)
        return _EXPRESSION.sub(lambda _: next(remaining), script)

    def _values(self, sources: list[str], contexts: Contexts) -> list[str]:
        """Returns the texts that GitHub shows for the values of expressions."""
        outcomes = self._evaluator.outcomes([f"format('{{0}}', {source})" for source in sources], contexts)
        for source, outcome in zip(sources, outcomes, strict=True):
            assert "value" in outcome, f"GitHub's evaluator refuses {source}: {outcome}"
        return [outcome["value"] for outcome in outcomes]


def _combinations(matrix: Mapping[str, list[Any]]) -> Iterator[dict[str, Any]]:
    """Yields the combinations of a matrix without `include` and `exclude`."""
    for values in product(*matrix.values()):
        yield dict(zip(matrix, values, strict=True))


def _pairs(path: Path) -> Iterator[tuple[str, str]]:
    """Yields name and value of each entry of `GITHUB_OUTPUT` and `GITHUB_ENV`."""
    lines = iter(path.read_bytes().decode("utf-8", "replace").removesuffix("\n").split("\n"))
    for line in lines:
        if not line:
            continue
        found = re.match(r"([^=]*?)(=|<<)(.*)", line, re.DOTALL)
        if found is None or not found.group(1):
            raise StepFilesInvalid(line)
        name, separator, value = found.groups()
        if separator == "<<":
            value = "\n".join(_block(lines, value))
        yield name, value


def _block(lines: Iterator[str], delimiter: str) -> Iterator[str]:
    for line in lines:
        if line == delimiter:
            return
        yield line
    raise StepFilesInvalid(delimiter)


def variables_of(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns what both runners take of their own environment."""
    return {name: environment[name] for name in ("PATH", "HOME", "LANG") if name in environment} | {
        "USER": os.environ.get("USER", "root"),
        "LOGNAME": os.environ.get("LOGNAME", "root"),
    }
