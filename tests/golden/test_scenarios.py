"""Golden scenarios: each file under scenarios/ is a workflow, a script, and the complete trace that they must give.

Other files that the workflow uses have their own sections: `--- file PATH`.

`make golden` (or `WATERFLOW_GOLDEN=rewrite pytest tests/golden`) rewrites the traces; review the diff afterwards.
"""

from __future__ import annotations

import gc
import os
import weakref
from pathlib import Path

import pytest

from waterflowd.engine import fold
from waterflowd.testing.scenario import RUN, Scenario

FOLDER = Path(__file__).parent / "scenarios"
SEPARATOR = "--- {}\n"


def parts(path: Path) -> dict[str, str]:
    """Returns the file's sections by name; the text before the first one is an explanation."""
    found: dict[str, str] = {"about": ""}
    name = "about"
    for line in path.read_text().splitlines(keepends=True):
        if line.startswith("--- "):
            name = line[4:].strip()
            found[name] = ""
        else:
            found[name] += line
    return found


def played(sections: dict[str, str]) -> tuple[Scenario, str]:
    """The scenario of a file after its script, and the trace."""
    files = {name.removeprefix("file "): text for name, text in sections.items() if name.startswith("file ")}
    scenario = Scenario(sections["workflow"], files)
    return scenario, scenario.play(sections["script"])


EACH = pytest.mark.parametrize("path", sorted(FOLDER.glob("*.txt")), ids=lambda path: path.stem)


@EACH
def test_scenario_gives_its_trace(path: Path) -> None:
    """The same workflow and inputs give the same events and commands, word for word."""
    sections = parts(path)
    _, trace = played(sections)
    if os.environ.get("WATERFLOW_GOLDEN") == "rewrite":
        sections["trace"] = trace
        text = sections.pop("about") + "".join(SEPARATOR.format(name) + body for name, body in sections.items())
        path.write_text(text)
    assert trace == sections.get("trace", "")


@EACH
def test_a_dropped_run_is_freed_without_the_garbage_collector(path: Path) -> None:
    """Nothing in a run refers back to what refers to it."""
    scenario, _ = played(parts(path))
    gc.collect()
    gc.disable()
    try:
        run = fold(RUN, scenario.plan, scenario.history)
        found = [weakref.ref(job) for job in run.jobs], [weakref.ref(step) for job in run.jobs for step in job.steps]
        del run
        assert not any(part() for refs in found for part in refs)
    finally:
        gc.enable()


def test_scenarios_are_found() -> None:
    """The test above must not pass because it found no scenarios."""
    assert len(list(FOLDER.glob("*.txt"))) >= 10
