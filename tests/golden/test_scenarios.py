"""Golden scenarios: each file under scenarios/ is a workflow, a script, and the complete trace that they must give.

Other files that the workflow uses have their own sections: `--- file PATH`.

`make golden` (or `WATERFLOW_GOLDEN=rewrite pytest tests/golden`) rewrites the traces; review the diff afterwards.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from waterflowd.testing.scenario import Scenario

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


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.txt")), ids=lambda path: path.stem)
def test_scenario_gives_its_trace(path: Path) -> None:
    """The same workflow and inputs give the same events and commands, word for word."""
    sections = parts(path)
    files = {name.removeprefix("file "): text for name, text in sections.items() if name.startswith("file ")}
    trace = Scenario(sections["workflow"], files).play(sections["script"])
    if os.environ.get("WATERFLOW_GOLDEN") == "rewrite":
        sections["trace"] = trace
        text = sections.pop("about") + "".join(SEPARATOR.format(name) + body for name, body in sections.items())
        path.write_text(text)
    assert trace == sections.get("trace", "")


def test_scenarios_are_found() -> None:
    """The test above must not pass because it found no scenarios."""
    assert len(list(FOLDER.glob("*.txt"))) >= 10
