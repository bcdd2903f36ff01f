"""Runs a workflow on a real daemon with a real agent and on the reference, and says how they compare."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.acceptance.cluster import Cluster
from tests.oracle.github import GitHub
from tests.oracle.observing import Observed, differences, observed
from tests.oracle.reference import SHELLS, Reference, variables_of
from waterflowd.dsl import Severity, compile_workflow

#: The verdicts that are no diagnostic.
SAME, DATA, PIPEFAIL = "same", "expressions are data", "the default shell has pipefail"
IGNORED = "a variable that controls programs is ignored"
#: The documented default shell, for the question whether that alone makes a difference.
_OUR_DEFAULT = {**SHELLS, None: SHELLS["bash"]}


@dataclass(frozen=True, kw_only=True)
class Differs:
    """A workflow has another effect here, and nothing says so."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A workflow that records into folders `PLACE/...`, and the same with expressions as data, where that is known."""

    workflow: Mapping[str, Any]
    as_data: Callable[[], Iterator[Mapping[str, Any]]] = lambda: iter(())
    #: Whether a shell interprets one of the texts that expressions were replaced by.
    interpreted: Callable[[dict[str, set[str]]], bool] = lambda substituted: False


#: A line of a step's file that GitHub accepts fails the step, and says so.
_REFUSED = re.compile(r"\bWATERFLOW_(OUTPUT|ENV|PATH) line \d+: ")


#: What the log says of a variable that a script may not set for later steps.
_IGNORED = "in WATERFLOW_ENV is ignored: steps may not set this variable"


class Comparison:
    """Both runners, in folders below `folder`."""

    def __init__(self, cluster: Cluster, evaluator: GitHub, folder: Path, programs: Path) -> None:
        self._cluster = cluster
        self._evaluator = evaluator
        self._folder = folder
        self._programs = programs
        self._numbers = itertools.count(1)
        self._base = variables_of(cluster.environment())

    def verdicts(self, subjects: Sequence[Subject]) -> Iterator[str | Differs]:
        """Yields for each workflow a verdict, or the code of the first diagnostic that explains a difference."""
        started = [self._start(subject) for subject in subjects]
        for subject, begun in zip(subjects, started, strict=True):
            if isinstance(begun, str):
                yield begun
            else:
                yield self._compared(subject, *begun)

    def _start(self, subject: Subject) -> str | tuple[Path, str, list[str]]:
        """Starts our run: its folder, its id and the codes of its warnings; the code of an error if there is one."""
        folder = self._folder / str(next(self._numbers))
        text = self._placed(subject.workflow, folder / "ours")
        compiled = compile_workflow("compared.yml", text.encode())
        if compiled.plan is None:
            return next(found.code for found in compiled.diagnostics if found.severity is Severity.ERROR)
        return folder, self._cluster.start(text), [found.code for found in compiled.diagnostics]

    def _compared(self, subject: Subject, folder: Path, run: str, warnings: list[str]) -> str | Differs:
        found = self._cluster.wait_for(run)
        ours = _records(folder / "ours", {run: "<run>"})
        github = {"run_id": run, "run_number": found["number"], "workflow": found["name"], "run_attempt": 1}
        theirs, reference = self._reference(subject.workflow, folder / "theirs", github)
        lines = list(_differences(ours, theirs))
        if not lines:
            return SAME
        if subject.interpreted(reference.substituted):
            for number, workflow in enumerate(subject.as_data()):
                data, _ = self._reference(workflow, folder / f"data-{number}", github)
                if not list(_differences(ours, data)):
                    return DATA
        default, _ = self._reference(subject.workflow, folder / "pipefail", github, _OUR_DEFAULT)
        if not list(_differences(ours, default)):
            return PIPEFAIL
        if warnings:
            return warnings[0]
        if any(_REFUSED.search(reason) for reason in _reasons(found)):
            return "WF704"
        if any(_IGNORED in line for line in self._cluster.lines(run)):
            return IGNORED
        return Differs(text="\n".join([*lines, json.dumps(subject.workflow, ensure_ascii=False, indent=1)]))

    def _reference(
        self,
        workflow: Mapping[str, Any],
        folder: Path,
        github: Mapping[str, Any],
        shells: Mapping[str | None, str] = SHELLS,
    ) -> tuple[dict[str, Observed | None], Reference]:
        reference = Reference(self._evaluator, folder / "jobs", self._base, shells)
        reference.run(json.loads(self._placed(workflow, folder)), github)
        return _records(folder, {str(github["run_id"]): "<run>"}), reference

    def _placed(self, workflow: Mapping[str, Any], folder: Path) -> str:
        text = json.dumps(workflow, ensure_ascii=False)
        return text.replace("PLACE", str(folder / "records")).replace("PROGRAMS", str(self._programs))


def _reasons(part: Mapping[str, Any]) -> Iterator[str]:
    """Yields the reasons of a run's, job's or block's parts."""
    for inner in (*part.get("jobs", ()), *part.get("steps", ())):
        yield (inner.get("reason") or {}).get("text", "")
        yield from _reasons(inner)


def _records(folder: Path, aliases: dict[str, str]) -> dict[str, Observed | None]:
    records = folder / "records"
    found = sorted(records.iterdir()) if records.exists() else []
    return {path.name: observed(path, aliases) for path in found}


def _differences(ours: Mapping[str, Observed | None], theirs: Mapping[str, Observed | None]) -> Iterator[str]:
    for name in sorted(ours.keys() | theirs.keys()):
        yield from differences(name, ours.get(name), theirs.get(name))
