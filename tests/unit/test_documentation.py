"""The documentation's workflows compile, its broken examples do not, and its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest

from waterflowd.dsl import compile_workflow, render_diagnostic

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*.md")])

_FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


class Block(NamedTuple):
    """A fenced block that is a whole workflow."""

    location: str
    info: str
    content: str

    @property
    def is_broken(self) -> bool:
        """Whether it shows errors on purpose."""
        return "broken" in self.info.split()


#: Workflows that steps in the documentation start, in addition to the one that is shown.
_STARTED = (
    b"on: {workflow_dispatch: {inputs: {version: {}}}}\njobs: {a: {runs-on: web-servers, steps: [{run: make}]}}\n"
)
_BESIDE = {"other.yml": _STARTED, "release.yml": _STARTED}


def _blocks() -> list[Block]:
    blocks = []
    for page in PAGES:
        text = page.read_text("utf-8")
        for found in _FENCE.finditer(text):
            info, content = found.group(1).strip(), found.group(2)
            if info.split()[:1] == ["yaml"] and re.search(r"^jobs:", content, re.MULTILINE):
                line = text.count("\n", 0, found.start()) + 1
                blocks.append(Block(f"{page.relative_to(ROOT)}:{line}", info, content))
    return blocks


def _anchors(page: Path) -> set[str]:
    """Returns the anchors of a page's headings, as forges generate them."""
    text = _FENCE.sub("", page.read_text("utf-8"))
    plain = [re.sub(r"[^\w\- ]", "", heading.lower().replace("`", "")) for heading in _HEADING.findall(text)]
    return {heading.strip().replace(" ", "-") for heading in plain}


def _links() -> list[tuple[Path, str]]:
    return [
        (page, link)
        for page in PAGES
        for link in _LINK.findall(_FENCE.sub("", page.read_text("utf-8")))
        if not re.match(r"[a-z]+:", link)
    ]


def test_there_are_pages_and_workflows() -> None:
    """The tests below must not pass because they found nothing to check."""
    assert {"README.md", "README.zh-CN.md", "ARCHITECTURE.md"} <= {page.name for page in PAGES}
    assert len(_blocks()) >= 10


@pytest.mark.parametrize(
    "block", [found for found in _blocks() if not found.is_broken], ids=lambda found: found.location
)
def test_a_workflow_of_the_documentation_compiles(block: Block) -> None:
    """A reader can copy it as it is."""
    compiled = compile_workflow("documentation.yml", block.content.encode(), _BESIDE)
    assert compiled.plan is not None, [(found.line, found.code, found.message) for found in compiled.diagnostics]


@pytest.mark.parametrize("block", [found for found in _blocks() if found.is_broken], ids=lambda found: found.location)
def test_a_counterexample_in_the_documentation_is_invalid(block: Block) -> None:
    """A counterexample that has become valid would mislead readers."""
    assert compile_workflow("documentation.yml", block.content.encode()).diagnostics


def test_every_relative_link_leads_to_a_file_and_a_heading() -> None:
    """When a page is moved or a heading renamed, its links must be updated."""
    broken = []
    for page, link in _links():
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        is_heading_missing = anchor and target.suffix == ".md" and target.exists() and anchor not in _anchors(target)
        if not target.exists() or is_heading_missing:
            broken.append(f"{page.relative_to(ROOT)}: {link}")
    assert not broken, "\n".join(["", *broken])


def test_every_row_of_a_table_has_the_same_number_of_cells() -> None:
    """A row with a cell too many or too few loses text when it is displayed."""
    broken = []
    for page in PAGES:
        cells = 0
        for number, line in enumerate(_FENCE.sub("", page.read_text("utf-8")).splitlines(), 1):
            found = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
            if found and cells and found != cells:
                broken.append(f"{page.relative_to(ROOT)}, line {number} without blocks: {line[:80]}")
            cells = found
    assert not broken, "\n".join(["", *broken])


def test_errors_match_the_tutorial() -> None:
    """Breaking the tutorial's workflow as described gives exactly the errors that the tutorial and the README show."""
    tutorial = (ROOT / "docs" / "getting-started.md").read_text("utf-8")
    workflow = next(found.content for found in _blocks() if found.content.startswith("name: deploy\n"))
    broken = workflow.replace("needs: backup", "needs: bakup")
    errors = [
        render_diagnostic(error) for error in compile_workflow("workflows/deploy.yml", broken.encode()).diagnostics
    ]
    assert errors
    for error in errors:
        assert error in tutorial, error
    assert errors[0] in (ROOT / "README.md").read_text("utf-8")


def test_every_test_that_a_guarantee_names_exists() -> None:
    """A guarantee whose test was renamed or removed would have no proof."""
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", (ROOT / "docs" / "developers" / "proofs.md").read_text("utf-8"))
    assert named
    missing = []
    for file, name in named:
        path = ROOT / "tests" / file
        if not path.exists() or not re.search(rf"^(async )?def {name}\(", path.read_text("utf-8"), re.MULTILINE):
            missing.append(f"{file}::{name}")
    assert not missing, "\n".join(["", *missing])


def test_the_readme_stays_short() -> None:
    """Readers must be able to finish it, and both translations have the same content."""
    english, chinese = (ROOT / "README.md").read_text("utf-8"), (ROOT / "README.zh-CN.md").read_text("utf-8")
    assert len(english.splitlines()) <= 125
    assert len(chinese.splitlines()) <= 125
    assert _code(english) == _code(chinese)


def _code(text: str) -> list[str]:
    """Returns the fenced blocks without their comments."""
    return [re.sub(r"\s+# .*$", "", content, flags=re.MULTILINE) for _, content in _FENCE.findall(text)]
