"""The configuration files of the packages and the page of variables, which are generated from the records that read them."""

from __future__ import annotations

import importlib
import os
import re
from pathlib import Path
from types import ModuleType

import pytest

import waterflow_agent.config
import waterflowd.app.config
from tests.tidy import sources

RECORDS = {"waterflowd.toml": waterflowd.app.config, "agent.toml": waterflow_agent.config}
_KEY = re.compile(r"#?([a-z-]+) = ")


@pytest.fixture
def samples(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Returns the module that builds the packages, which is not installed."""
    monkeypatch.syspath_prepend(str(sources.ROOT / "packaging"))
    return importlib.import_module("builder.samples")


@pytest.mark.parametrize("name", RECORDS)
def test_every_key_and_table_has_a_comment(samples: ModuleType, name: str) -> None:
    """Administrators read the meaning of a key in the file."""
    lines = samples.render(RECORDS[name].Config, []).splitlines()
    locations = [number for number, line in enumerate(lines) if _KEY.match(line) or line.lstrip("#").startswith("[")]
    assert len(locations) > 10
    bare = [lines[number] for number in locations if not re.match(r"# \S", lines[number - 1])]
    assert bare == [], "no comment (`#:` before the field) for these"


@pytest.mark.parametrize("name", RECORDS)
def test_commented_out_lines_are_valid_and_are_the_defaults(samples: ModuleType, tmp_path: Path, name: str) -> None:
    """The file is valid as it is, and with every key and table enabled, and both have the same meaning."""
    text = samples.render(RECORDS[name].Config, ["A head."])
    file = tmp_path / name
    file.write_text(text)
    untouched = RECORDS[name].load(file, environment={})
    file.write_text(re.sub(r"^#(?=[a-z-]+ = |\[)", "", text, flags=re.MULTILINE))
    switched_on = RECORDS[name].load(file, environment={})
    of_all = {key for key in switched_on.__struct_fields__ if key not in ("environments", "notify", "repositories")}
    assert all(getattr(switched_on, key) == getattr(untouched, key) for key in of_all)


# The page of variables ------------------------------------------------------------------------------------------------

PAGE = sources.ROOT / "docs" / "environment-variables.md"
_VARIABLE = re.compile(r"\bWATERFLOW(?:D|_AGENT)_[A-Z0-9_]*(?:<N>[A-Z0-9_]*)*")


@pytest.fixture(scope="module")
def page() -> str:
    """Returns the generated page; `WATERFLOW_REFERENCE=rewrite` writes it first."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(sources.ROOT / "packaging"))
        variables = importlib.import_module("builder.variables")
        made: str = variables.render(waterflowd.app.config.Config, waterflow_agent.config.Config)
    if os.environ.get("WATERFLOW_REFERENCE") == "rewrite":
        PAGE.write_text(made, "utf-8")
    return made


def test_the_page_of_variables_is_up_to_date(page: str) -> None:
    """Byte for byte."""
    assert PAGE.read_text("utf-8") == page, f"run `make reference` to update {PAGE.name}"


def test_every_variable_that_the_documentation_names_exists(page: str) -> None:
    """A typing error there costs its reader an hour."""
    known = set(_VARIABLE.findall(page))
    unknown = []
    for file in (*sources.ROOT.glob("*.md"), *sources.ROOT.glob("docs/*.md"), *sources.ROOT.glob("examples/*")):
        for name in _VARIABLE.findall(file.read_text("utf-8") if file.is_file() else ""):
            general = re.sub(r"_\d+_", "_<N>_", name)
            # `WATERFLOWD_GIT_TOKEN_OPS` is an example of `WATERFLOWD_GIT_TOKEN_<NAME>`, and `WATERFLOWD_...` is any of them.
            is_example = any(each.endswith("TOKEN_") and name.startswith(each) for each in known)
            if not (general in known or is_example or name.endswith("_")):
                unknown.append(f"{file.name}: {name}")
    assert unknown == []
