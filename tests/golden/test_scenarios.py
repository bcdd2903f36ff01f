"""Golden scenarios: each file under scenarios/ is a workflow, a script, and the whole trace that they must give.

Files of the repository that the workflow uses stand in sections of their own: `--- file PATH`.

`make golden` (or `WATERFLOW_GOLDEN=rewrite pytest tests/golden`) writes the traces anew; the diff is then what to review.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from waterflowd.testing.scenario import Scenario

FOLDER = Path(__file__).parent / "scenarios"
SEPARATOR = "--- {}\n"


def parts(path: Path) -> dict[str, str]:
    """The file's sections by name; what stands before the first one is its explanation."""
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
    """The same workflow and the same inputs give the same events and commands, word for word."""
    sections = parts(path)
    files = {name.removeprefix("file "): text for name, text in sections.items() if name.startswith("file ")}
    trace = Scenario(sections["workflow"], files).play(sections["script"])
    if os.environ.get("WATERFLOW_GOLDEN") == "rewrite":
        sections["trace"] = trace
        text = sections.pop("about") + "".join(SEPARATOR.format(name) + body for name, body in sections.items())
        path.write_text(text)
    assert trace == sections.get("trace", "")


def test_there_are_scenarios() -> None:
    """The folder is found, so that the test above cannot pass by being empty."""
    assert len(list(FOLDER.glob("*.txt"))) >= 10
