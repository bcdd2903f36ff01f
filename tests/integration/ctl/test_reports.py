"""`report`, and reports in `show` and at the end of `run`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.api.test_reports import INSPECT, TWO
from tests.integration.ctl.served import Server, started_id
from tests.integration.ctl.terminals import shown

COLUMNS = ", ".join(f'"Heading {number}": "value {number} of ${{{{ agent.name }}}}"' for number in range(1, 13))
WIDE = f"""\
name: wide
jobs:
  a:
    runs-on: web
    report: {{columns: {{{COLUMNS}}}}}
    steps: [{{id: s, run: print a}}]
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path / "s.sock") as made:
        assert made.harness is not None
        made.harness.connect("web-2", "web")
        yield made


def ran(server: Server, folder: Path, text: str) -> str:
    """Runs a workflow to its end, and returns the id of the run."""
    path = folder / "w.yml"
    path.write_text(text)
    return started_id(server.ctl("run", str(path)))


def test_a_report_is_a_table_with_the_reason_below_each_failed_row(server: Server, tmp_path: Path) -> None:
    """The title has the job and counts of the results."""
    run = ran(server, tmp_path, INSPECT)
    result = server.ctl("report", run)
    assert result.exit_code == 0, result.output
    title, headings, first, second, note = result.stdout.splitlines()
    assert title == "report of inspect: Servers (1 success, 1 failure)"
    assert headings.split() == ["Server", "Result", "Kernel", "Load"]
    assert first.split() == ["web-1", "✓", "success", "6.1-web-1", "0.5"]
    assert second.split() == ["web-2", "✗", "failure", "6.1-web-2", "0.5"]
    assert note.startswith("  ")
    assert "exit code 3" in note


def test_run_and_show_end_with_the_reports(server: Server, tmp_path: Path) -> None:
    """So an inspection needs no second command."""
    path = tmp_path / "w.yml"
    path.write_text(INSPECT)
    result = server.ctl("run", str(path))
    assert "report of inspect: Servers" in result.stdout
    assert "6.1-web-1" in result.stdout
    assert "report of inspect: Servers" in server.ctl("show", started_id(result)).stdout


def test_the_formats_have_the_same_rows(server: Server, tmp_path: Path) -> None:
    """Markdown and CSV go to standard output or into a file; JSON has every field."""
    run = ran(server, tmp_path, INSPECT)
    markdown = server.ctl("report", run, "--format", "markdown").stdout
    assert markdown.splitlines()[4].startswith("| web-1 | success | 6.1-web-1 |")
    target = tmp_path / "report.csv"
    assert server.ctl("report", run, "--format", "csv", "-o", str(target)).exit_code == 0
    with target.open(newline="") as file:
        assert [row[:3] for row in csv.reader(file)] == [
            ["Server", "Result", "Kernel"],
            ["web-1", "success", "6.1-web-1"],
            ["web-2", "failure", "6.1-web-2"],
        ]
    reports: list[dict[str, Any]] = json.loads(server.ctl("report", run, "--json").stdout)
    assert json.loads(server.ctl("report", run, "--format", "json").stdout) == reports
    assert [row["values"]["Load"] for row in reports[0]["rows"]] == [0.5, 0.5]


def test_several_reports_are_shown_one_after_the_other(server: Server, tmp_path: Path) -> None:
    """A CSV file has one table, so the command then asks for the job."""
    run = ran(server, tmp_path, TWO)
    both = server.ctl("report", run).stdout
    assert "report of a (1 success)" in both
    assert "report of b (2 success)" in both
    assert "report of a" not in server.ctl("report", f"{run}/b").stdout
    assert server.ctl("report", run, "--format", "markdown").stdout.count("### ") == 2
    refused = server.ctl("report", run, "--format", "csv")
    assert refused.exit_code == 2
    assert "a, b" in refused.stderr
    assert f"waterflowctl report {run} a --format csv" in refused.stderr
    one = server.ctl("report", run, "b", "--format", "csv").stdout
    assert list(csv.reader(io.StringIO(one)))[1][:3] == ["1", "success", "2"]


def test_a_report_that_does_not_exist_is_an_error_with_the_next_step(server: Server, tmp_path: Path) -> None:
    """For the run, and for a job of it."""
    run = ran(server, tmp_path, "jobs: {a: {runs-on: web, steps: [{run: print a}]}}")
    missing = server.ctl("report", run)
    assert missing.exit_code == 5
    assert "no job of run" in missing.stderr
    assert "add report: to a job" in missing.stderr
    assert server.ctl("report", run, "a").exit_code == 5
    unwritable = server.ctl("report", run, "--output", "x")
    assert unwritable.exit_code == 2
    assert "--format markdown or csv" in unwritable.stderr


def test_a_report_that_is_too_wide_has_a_line_for_each_value(server: Server, tmp_path: Path) -> None:
    """At 80 columns nothing is broken in the middle of a table."""
    run = ran(server, tmp_path, WIDE)
    lines = shown(server, "report", run)
    assert max(map(len, lines)) <= 80
    assert lines[2].split() == ["Heading", "1", "value", "1", "of", "web-1"]
    wide = shown(server, "report", run, columns=300)
    assert len(wide) == 3
