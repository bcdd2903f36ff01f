"""docs/reference/ is what the models and texts of the language say; `make reference` writes it anew."""

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
    """The pages, which `WATERFLOW_REFERENCE=rewrite` writes before they are looked at."""
    found = _made()
    if os.environ.get("WATERFLOW_REFERENCE") == "rewrite":
        FOLDER.mkdir(exist_ok=True)
        for file in FOLDER.iterdir():
            if file.name not in found:
                file.unlink()
        for name, text in found.items():
            (FOLDER / name).write_text(text, "utf-8")
    return found


def test_the_folder_is_what_the_models_say(made: dict[str, str]) -> None:
    """Every page and schema, word for word, and nothing else."""
    kept = {file.name: file.read_text("utf-8") for file in FOLDER.iterdir()}
    different = sorted(name for name in made.keys() | kept.keys() if made.get(name) != kept.get(name))
    assert not different, f"`make reference` writes {', '.join(different)} anew"


def test_the_pages_are_the_same_each_time(made: dict[str, str]) -> None:
    """Nothing in them depends on an order by chance or on the day."""
    assert _made() == made


def test_every_code_has_its_anchor(made: dict[str, str]) -> None:
    """`help` of a diagnostic leads to a heading."""
    for code in CODES:
        assert help_of(code) == f"docs/reference/diagnostics.md#{code.lower()}"
        assert f"\n## {code}\n" in made["diagnostics.md"]
