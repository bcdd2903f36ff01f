"""docs/reference/ is up to date with the models of the language; `make reference` writes it."""

from __future__ import annotations

import os
import re

import pytest

from tests.tidy import sources
from waterflowd.dsl.reference.pages import pages
from waterflowd.dsl.reporting.codes import CODES
from waterflowd.dsl.reporting.diagnostics import help_of

FOLDER = sources.ROOT / "docs" / "reference"


def _made() -> dict[str, str]:
    errors = (sources.ROOT / "docs" / "errors.md").read_text("utf-8")
    rows = re.findall(r"^\| (WF1\d\d) \| (.+?) \| (.+) \|$", errors, re.MULTILINE)
    return pages({code: (cause, action) for code, cause, action in rows})


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    """Returns the pages; `WATERFLOW_REFERENCE=rewrite` writes them first."""
    found = _made()
    if os.environ.get("WATERFLOW_REFERENCE") == "rewrite":
        FOLDER.mkdir(exist_ok=True)
        for file in FOLDER.iterdir():
            if file.name not in found:
                file.unlink()
        for name, text in found.items():
            (FOLDER / name).write_text(text, "utf-8")
    return found


def test_the_folder_is_up_to_date(made: dict[str, str]) -> None:
    """It has every page and schema, byte for byte, and no other files."""
    kept = {file.name: file.read_text("utf-8") for file in FOLDER.iterdir()}
    different = sorted(name for name in made.keys() | kept.keys() if made.get(name) != kept.get(name))
    assert not different, f"run `make reference` to update {', '.join(different)}"


def test_the_pages_are_the_same_each_time(made: dict[str, str]) -> None:
    """They do not depend on hash order or on the date."""
    assert _made() == made


def test_every_code_has_its_anchor(made: dict[str, str]) -> None:
    """The `help` link of a diagnostic leads to a heading."""
    for code in CODES:
        assert help_of(code) == f"docs/reference/diagnostics.md#{code.lower()}"
        assert f"\n## {code}\n" in made["diagnostics.md"]
