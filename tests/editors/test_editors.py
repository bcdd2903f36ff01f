"""The schema in an editor: the YAML language server marks errors, completes, and shows descriptions.

These tests need node and npm; the server is installed from the npm registry on first use (see `language_server.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import npm
from tests.editors.language_server import FILES, LanguageServer
from waterflowd.dsl import compile_workflow
from waterflowd.dsl.reference.json_schema import schema_text

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted(ROOT.glob("examples/*.yml"))

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

STEP = "jobs:\n  a:\n    runs-on: web\n    steps:\n      - "
JOBS = "jobs: {a: {runs-on: web, steps: [{run: x}]}}\n"

#: A file, the line of its mistake, and a part of the editor's message there.
BAD = {
    "a key at the top": ("naem: x\n" + JOBS, 1, "naem"),
    "a key of an event": ("on:\n  push:\n    brnaches: [main]\n" + JOBS, 3, "brnaches"),
    "an event": ("on: puhs\n" + JOBS, 1, "workflow_dispatch"),
    "a key of a job": ("jobs:\n  a:\n    runs-on: web\n    step: []\n    steps: [{run: x}]\n", 4, "step"),
    "a key of runs-on": ("jobs:\n  a:\n    runs-on: {group: web, lables: {}}\n    steps: [{run: x}]\n", 3, "lables"),
    "no runs-on": ("name: x\njobs:\n  a:\n    steps: [{run: x}]\n", 3, "runs-on"),
    "a key of a step": (STEP + "run: x\n        timeout: 5\n", 6, "timeout"),
    "a number in words": (STEP + "run: x\n        timeout-minutes: long\n", 6, "35 days"),
    "run and uses": (STEP + "run: x\n        uses: log\n", 6, "uses"),
    "a node": (STEP + "name: x\n        uses: sleeep\n", 6, "sleep"),
    "a parameter": (STEP + "uses: log\n        with:\n          mesage: m\n", 7, "mesage"),
    "a missing parameter": (STEP + "name: x\n        uses: log\n        with: {}\n", 7, "message"),
    "a value of a parameter": (
        STEP + "uses: approval\n        with:\n          timeout: 1d\n          default: no\n",
        8,
        "reject",
    ),
    "an inner step": (
        STEP + "uses: loop\n        with:\n          items: [a]\n          steps:\n            - rnu: x\n",
        9,
        "rnu",
    ),
}

#: A file with the position of the cursor, and some of the completions there.
COMPLETIONS = {
    "at the top": ("|", ["name", "on", "jobs", "concurrency"]),
    "in a job": ("jobs:\n  a:\n    |\n", ["runs-on", "needs", "steps", "strategy"]),
    "in an empty step": (STEP + "|\n", ["run", "uses", "retry", "on-lost"]),
    "in a step": (STEP + "run: x\n        |\n", ["env", "timeout-minutes", "working-directory"]),
    "after uses": (STEP + "uses: |\n", ["shell", "sleep", "loop", "approval"]),
    "the parameters of a node": (STEP + "uses: loop\n        with:\n          |\n", ["items", "as", "steps", "while"]),
    "in an inner step": (
        STEP + "uses: loop\n        with:\n          items: [a]\n          steps:\n            - |\n",
        ["run"],
    ),
    "events": ("on:\n  |\n" + JOBS, ["push", "schedule", "webhook"]),
    "a value": (STEP + "run: x\n        on-lost: |\n", ["fail", "retry", "hold"]),
    "in runs-on": ("jobs:\n  a:\n    runs-on:\n      |\n", ["group", "target", "batch"]),
}

#: A file with the position of the pointer, and a part of the text shown there.
HOVERS = {
    "a key at the top": ("o|n: push\n" + JOBS, "What starts the workflow"),
    "a key of an event": ("on:\n  push:\n    bran|ches: [main]\n" + JOBS, "Branch patterns"),
    "a key of a job": ("jobs:\n  a:\n    ru|ns-on: web\n    steps: [{run: x}]\n", "The group of servers"),
    "a key of a step": (STEP + "run: x\n        on-l|ost: retry\n", "cannot be determined"),
    "a parameter": (STEP + "uses: log\n        with:\n          mess|age: m\n", "The text to print"),
    "the parameter of a loop": (
        STEP + "uses: loop\n        with:\n          it|ems: [a]\n          steps: [{run: x}]\n",
        "10,000",
    ),
}


@pytest.fixture(scope="module")
def server(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LanguageServer]:
    """The language server with the schema of workflows."""
    if program := npm.missing_program():
        pytest.skip(f"{program} is not installed; it runs the language server of editors")
    assert pytestconfig.cache is not None
    try:
        folder = npm.installed(FILES, pytestconfig.cache.mkdir("yaml-language-server"))
    except npm.Unavailable as error:
        pytest.skip(str(error))
    schema = tmp_path_factory.mktemp("schema") / "workflow.schema.json"
    schema.write_text(schema_text(), "utf-8")
    with LanguageServer(folder, schema) as running:
        yield running


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.name)
def test_a_valid_file_has_no_diagnostics(server: LanguageServer, file: Path) -> None:
    """None of the examples is marked as an error."""
    assert server.problems(file.read_text("utf-8"), is_wrong=False) == []


@pytest.mark.parametrize(("text", "line", "word"), BAD.values(), ids=BAD.keys())
def test_a_mistake_has_a_diagnostic_at_its_line(server: LanguageServer, text: str, line: int, word: str) -> None:
    """The mark has the wrong name or what was expected; the compiler refuses the file too."""
    found = server.problems(text, is_wrong=True)
    assert any(marked == line and word in message for marked, message in found), found
    assert compile_workflow("workflows/w.yml", text.encode(), {}).diagnostics


@pytest.mark.parametrize(("text", "names"), COMPLETIONS.values(), ids=COMPLETIONS.keys())
def test_completions_are_offered(server: LanguageServer, text: str, names: list[str]) -> None:
    """Keys, nodes, their parameters, and values are completed."""
    assert set(names) <= set(server.completions(text))


@pytest.mark.parametrize(("text", "words"), HOVERS.values(), ids=HOVERS.keys())
def test_the_description_of_a_key_is_shown_on_hover(server: LanguageServer, text: str, words: str) -> None:
    """The text is the same sentence as in the reference."""
    assert words in server.hover(text)
