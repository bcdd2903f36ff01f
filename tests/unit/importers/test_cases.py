"""Each case gives its recorded result, which validates, and nothing of the source is lost.

`WATERFLOW_GOLDEN=rewrite pytest tests/unit/importers` rewrites the results; review the diff afterwards.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.unit.importers.golden import CASES, import_tree, lost_words, rendered
from waterflowd.ctl.main import cli
from waterflowd.importers.findings import DECIDE, Kind

EACH = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.parent.name}-{case.name}")


@EACH
def test_a_source_gives_its_recorded_result(case: Path) -> None:
    """Files, comments and findings, word for word."""
    expected = case.with_suffix(".expected")
    result = rendered(import_tree(case, case.parent.name))
    if os.environ.get("WATERFLOW_GOLDEN") == "rewrite":
        expected.write_text(result)
    assert result == expected.read_text("utf-8")


@EACH
def test_every_written_file_validates(case: Path, tmp_path: Path) -> None:
    """By `waterflowctl validate`, as a user runs it."""
    imported = import_tree(case, case.parent.name)
    for file in imported.files:
        path = tmp_path / ".waterflow" / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file.content)
    assert imported.files or imported.refused
    if imported.files:
        done = CliRunner().invoke(cli, ["validate", "--root", str(tmp_path), str(tmp_path / ".waterflow")])
        assert done.exit_code == 0, done.output


@EACH
def test_nothing_of_the_source_is_lost(case: Path) -> None:
    """Every word of every file is in the result, in a comment of it, or in a finding."""
    imported = import_tree(case, case.parent.name)
    for path in sorted(path for path in case.rglob("*") if path.is_file()):
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue
        if path.suffix == ".j2":
            # Templates stay in the repository; what cannot be translated of them fails where it is used.
            continue
        if any(each.path == path.relative_to(case).as_posix() for each in imported.refused):
            continue
        assert lost_words(text, imported, case.parent.name) == set(), path


@EACH
def test_every_decision_is_marked_in_a_written_file(case: Path) -> None:
    """A search for DECIDE in the result finds as many kinds of decisions as the list names."""
    imported = import_tree(case, case.parent.name)
    marked = " ".join(line.strip().removeprefix("# ") for file in imported.files for line in file.content.splitlines())
    decisions = {each.text for each in imported.findings if each.kind is Kind.DECISION}
    unmarked = {text for text in decisions if f"{DECIDE} {text}" not in marked}
    assert unmarked == set()
