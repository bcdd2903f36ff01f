"""The reports of runs in the API: pages of rows, and whole tables as Markdown and CSV."""

from __future__ import annotations

import csv
import io
from typing import Any

import httpx
import msgspec

from waterflowd.api.schemas.reports import ReportList, ReportSchema
from waterflowd.testing.api import ApiHarness

YAML = {"Content-Type": "application/yaml"}
INSPECT = """\
name: inspect
jobs:
  inspect:
    runs-on: {group: web, target: each}
    report:
      title: Servers
      columns:
        Kernel: ${{ steps.facts.outputs.kernel }}
        Load: ${{ fromJSON(steps.facts.outputs.load) }}
    steps:
      - id: facts
        run: |
          output kernel=6.1-${{ agent.name }}
          output load=0.5
      - if: agent.name == 'web-2'
        run: exit 3
"""
TWO = """\
name: two
jobs:
  a: {runs-on: web, report: {columns: {X: "${{ agent.name }}"}}, steps: [{run: print a}]}
  b:
    runs-on: web
    strategy: {matrix: {n: [1, 2]}}
    outputs: {twice: "${{ matrix.n * 2 }}"}
    report: [twice]
    steps: [{run: print b}]
"""
HOSTILE = """\
name: hostile
jobs:
  a:
    runs-on: web
    report:
      columns:
        Markup: ${{ steps.s.outputs.markup }}
        Formula: ${{ steps.s.outputs.formula }}
        Number: ${{ steps.s.outputs.number }}
    steps:
      - id: s
        run: |
          output markup=a|b <img src=x> [link](http://x) `code` *bold* snake_case
          output formula==HYPERLINK("http://x")
          output number=-5
"""


async def completed(harness: ApiHarness, client: httpx.AsyncClient, text: str) -> str:
    response = await client.post("/v1/runs", content=text, headers=YAML)
    assert response.status_code == 201, response.text
    run = str(response.json()["id"])
    await harness.completed(run)
    return f"/v1/runs/{run}"


async def get(client: httpx.AsyncClient, path: str, **parameters: Any) -> dict[str, Any]:
    response = await client.get(path, params=parameters)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


async def test_a_report_has_a_row_for_each_server(harness: ApiHarness, client: httpx.AsyncClient) -> None:
    """Also for a server whose job failed, with the values that it has and the reason."""
    harness.connect("web-2", "web")
    run = await completed(harness, client, INSPECT)
    report = await get(client, f"{run}/report")
    msgspec.convert(report, ReportSchema)
    assert (report["job"], report["title"], report["columns"], report["rows_of"]) == (
        "inspect",
        "Servers",
        ["Kernel", "Load"],
        "server",
    )
    assert (report["rows_total"], report["counts"]) == (2, {"success": 1, "failure": 1})
    assert [(row["name"], row["conclusion"], row["values"]) for row in report["rows"]] == [
        ("web-1", "success", {"Kernel": "6.1-web-1", "Load": 0.5}),
        ("web-2", "failure", {"Kernel": "6.1-web-2", "Load": 0.5}),
    ]
    assert report["rows"][0]["note"] == ""
    assert "exit code 3" in report["rows"][1]["note"]
    assert (await get(client, run))["reports"] == ["inspect"]


async def test_rows_come_in_pages_and_by_status(harness: ApiHarness, client: httpx.AsyncClient) -> None:
    """Pages continue where the last one ended; a status selects rows."""
    for number in range(2, 6):
        harness.connect(f"web-{number}", "web")
    run = await completed(harness, client, INSPECT)
    names: list[str] = []
    parameters: dict[str, Any] = {"limit": 2}
    while True:
        page = await get(client, f"{run}/report", **parameters)
        names += [row["name"] for row in page["rows"]]
        if page["next"] is None:
            break
        parameters["cursor"] = page["next"]
    assert names == [f"web-{number}" for number in range(1, 6)]
    failed = await get(client, f"{run}/report", status="failure")
    assert [row["name"] for row in failed["rows"]] == ["web-2"]
    assert (await client.get(f"{run}/report", params={"status": "odd"})).status_code == 400


async def test_a_report_can_be_seen_as_of_any_event(harness: ApiHarness, client: httpx.AsyncClient) -> None:
    """At first there are no rows, then rows without values; at the end all of them have values."""
    run = await completed(harness, client, INSPECT)
    last = (await get(client, run))["seq"]
    seen = [(await get(client, f"{run}/report", at=seq))["rows"] for seq in range(1, last + 1)]
    known = [[row["values"] is not None for row in rows] for rows in seen]
    assert [step for number, step in enumerate(known) if number == 0 or step != known[number - 1]] == [
        [],
        [False],
        [True],
    ]


async def test_a_run_with_several_reports_lists_them(harness: ApiHarness, client: httpx.AsyncClient) -> None:
    """A request for one must name the job; errors list those that have a report."""
    run = await completed(harness, client, TWO)
    listed = await get(client, f"{run}/reports")
    msgspec.convert(listed, ReportList)
    assert [(row["job"], row["rows_of"], row["rows_total"]) for row in listed["reports"]] == [
        ("a", "server", 1),
        ("b", "instance", 2),
    ]
    unnamed = await client.get(f"{run}/report")
    assert (unnamed.status_code, unnamed.json()["code"]) == (409, "WF606")
    assert "a, b" in unnamed.json()["detail"]
    unknown = await client.get(f"{run}/report", params={"job": "c"})
    assert (unknown.status_code, unknown.json()["code"]) == (404, "WF604")
    report = await get(client, f"{run}/report", job="b")
    assert [(row["name"], row["values"]) for row in report["rows"]] == [("1", {"twice": 2}), ("2", {"twice": 4})]


async def test_a_run_without_a_report_says_so(harness: ApiHarness, client: httpx.AsyncClient) -> None:
    """The list is empty; a request for one is answered with how to get one."""
    run = await completed(harness, client, "jobs: {a: {runs-on: web, steps: [{run: print a}]}}")
    assert (await get(client, f"{run}/reports"))["reports"] == []
    missing = await client.get(f"{run}/report")
    assert missing.status_code == 404
    assert "add `report`" in missing.json()["detail"]


async def test_markdown_has_the_whole_table(harness: ApiHarness, client: httpx.AsyncClient) -> None:
    """A last column says why rows have not succeeded, if there are any."""
    run = await completed(harness, client, INSPECT)
    response = await client.get(f"{run}/report/text")
    assert response.headers["content-type"] == "text/markdown; charset=utf-8"
    assert response.text == (
        "### Servers\n\n| Server | Result | Kernel | Load |\n| --- | --- | --- | --- |\n"
        "| web-1 | success | 6.1-web-1 | 0.5 |\n"
    )
    harness.connect("web-2", "web")
    run = await completed(harness, client, INSPECT)
    lines = (await client.get(f"{run}/report/text")).text.splitlines()
    assert lines[2] == "| Server | Result | Kernel | Load | Note |"
    assert lines[5].startswith("| web-2 | failure | 6.1-web-2 | 0.5 | step ")


async def test_values_become_neither_markup_nor_formulas(harness: ApiHarness, client: httpx.AsyncClient) -> None:
    """Control of a server must not become control of the page or the spreadsheet that shows its values."""
    run = await completed(harness, client, HOSTILE)
    line = (await client.get(f"{run}/report/text")).text.splitlines()[-1]
    assert r"a\|b \<img src=x\> \[link\](http://x) \`code\` \*bold\* snake_case" in line
    response = await client.get(f"{run}/report/text", params={"format": "csv"})
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    assert 'filename="hostile-1-a.csv"' in response.headers["content-disposition"]
    headings, row = csv.reader(io.StringIO(response.text))
    assert headings == ["Server", "Result", "Markup", "Formula", "Number", "Note"]
    assert row[3:5] == ['\'=HYPERLINK("http://x")', "-5"]
