"""The commands of the documentation work exactly as written; those that cannot run here exist with their options."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import waterflow_agent.cli
import waterflowd.app.cli
from tests.acceptance.operations.documented_shell import PAGE_FOLDER, DocumentedShell
from tests.documentation import LANGUAGES_OF_COMMANDS, PAGES, ROOT, Block, blocks
from waterflowd.ctl.main import cli as waterflowctl

pytestmark = pytest.mark.log_engine("the pages describe the default engine")

TOUR = "docs/getting-started.md"
#: Pages with commands for the daemon of the tour.
PAGES_OF_THE_TOUR = ("README.md", "docs/web.md", "examples/README.md")
#: Has the same blocks as another page (tests/unit/test_documentation.py).
TRANSLATION = "README.zh-CN.md"
#: Pages whose commands need no daemon.
PAGES_WITHOUT_A_DAEMON = ("docs/own-nodes.md", "docs/schedules.md", "docs/coming-from-cron.md")

IS_NIGHTLY = os.environ.get("WATERFLOW_SWEEP") == "full"
PROGRAMS: dict[str, click.Command] = {
    "waterflowctl": waterflowctl,
    "waterflowd": waterflowd.app.cli.main,
    "waterflow-agent": waterflow_agent.cli.main,
}
#: Where a shell command begins, with the programs before it that start another one.
BEGINNING = r"(?:^|[(;&|]|\bdo)\s*(?:sudo (?:-u \S+ )?)?(?:docker compose .* exec \S+ )?"
#: Other programs that a block may need.
TOOLS = ("curl", "jq", "openssl")


def _is_run(block: Block) -> bool:
    if "file" in block.attributes:
        return True
    is_left_out = {"skip", "excerpt"} & block.attributes.keys()
    return block.language in LANGUAGES_OF_COMMANDS and not is_left_out


def _has_tools(block: Block) -> bool:
    return all(shutil.which(tool) for tool in TOOLS if re.search(rf"\b{tool}\b", block.content))


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[DocumentedShell]:
    """A shell in an empty folder."""
    opened = DocumentedShell(tmp_path / "tour")
    try:
        yield opened
    finally:
        opened.close()


def test_getting_started_and_the_pages_around_it_work_as_written(shell: DocumentedShell, tmp_path: Path) -> None:
    """The tour works from its first command to its last, and its daemon does what the other pages say."""
    *tour, stop = [block for block in blocks(TOUR) if _is_run(block)]
    assert stop.content.startswith("kill "), "the tour must end with stopping what it has started"
    for block in tour:
        if "nightly" not in block.attributes:
            shell.run_block(block)
        elif IS_NIGHTLY:
            _in_a_checkout(shell, tmp_path / "checkout", block)
    for page in PAGES_OF_THE_TOUR:
        for block in filter(_has_tools, filter(_is_run, blocks(page))):
            shell.run_block(block)
    shell.run_block(stop)


def _in_a_checkout(shell: DocumentedShell, checkout: Path, block: Block) -> None:
    """Runs a block that begins in a checkout of Waterflow; installing leaves files there, so it is a copy."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout
    for name in listed.decode().rstrip("\0").split("\0"):
        if (ROOT / name).is_file():
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, checkout / name)
    assert shell.run(f"cd {shlex.quote(str(checkout))}").code == 0
    shell.run_block(block)
    used = shell.run("command -v waterflowd").output.strip()
    assert used == f"{shell.adapted(PAGE_FOLDER)}/venv/bin/waterflowd"


@pytest.mark.parametrize("page", PAGES_WITHOUT_A_DAEMON)
def test_a_page_that_needs_no_daemon_works_as_written(shell: DocumentedShell, page: str) -> None:
    """Its commands run in an empty folder, with the files of the page."""
    for block in filter(_is_run, blocks(page)):
        shell.run_block(block)


def test_every_block_has_a_language_and_every_command_is_run_or_says_why_not() -> None:
    """A new block of commands is either run by a test above or marked with a reason."""
    run = {TOUR, TRANSLATION, *PAGES_OF_THE_TOUR, *PAGES_WITHOUT_A_DAEMON}
    every = [block for page in PAGES for block in blocks(page)]
    assert len(every) > 100
    wrong = [f"{block.location}: the block has no language" for block in every if not block.language]
    wrong += [
        f'{block.location}: no test runs this block; add the page to this file, or skip="REASON"'
        for block in every
        if block.language in LANGUAGES_OF_COMMANDS and _is_run(block) and block.page not in run
    ]
    wrong += [
        f"{block.location}: commands belong into a block sh or console"
        for block in every
        if block.language == "text" and re.search(r"^\$ ", block.content, re.MULTILINE)
    ]
    assert not wrong, "\n".join(["", *wrong])


def test_an_excerpt_has_the_commands_of_the_page_that_it_is_from() -> None:
    """What a short page shows of a longer one is what the tests run there."""
    excerpts = [block for page in PAGES for block in blocks(page) if "excerpt" in block.attributes]
    assert excerpts
    for block in excerpts:
        whole = [
            command.text
            for other in blocks(block.attributes["excerpt"])
            if _is_run(other) and other.language in LANGUAGES_OF_COMMANDS
            for command in other.commands
        ]
        assert [command.text for command in block.commands if command.text not in whole] == [], block.location


def test_every_command_that_a_page_names_exists_with_its_options() -> None:
    """A command in a sentence, in a table or in a block that cannot be run has not been renamed or removed."""
    wrong = []
    for page in PAGES:
        if page in ("CHANGELOG.md", "ARCHITECTURE.md"):
            continue
        for where, command in _named(page):
            problem = _unknown_part(command)
            if problem is not None:
                wrong.append(f"{where}: {' '.join(command)}: {problem}")
    assert not wrong, "\n".join(["", *wrong])


def _named(page: str) -> Iterator[tuple[str, list[str]]]:
    """Returns the commands in the sentences and blocks of a page, each as words."""
    text = (ROOT / page).read_text("utf-8")
    programs = "|".join(sorted(PROGRAMS, key=len, reverse=True))
    for found in re.finditer(rf"`((?:{programs}) [^`]*)`", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)):
        yield page, found[1].split()
    for block in blocks(page):
        if block.language in LANGUAGES_OF_COMMANDS:
            for found in re.finditer(rf"{BEGINNING}((?:{programs}) [^|;&)>#\n]*)", _typed(block), re.MULTILINE):
                yield block.location, found[1].split()


def _typed(block: Block) -> str:
    return "\n".join(re.sub(r"\s#.*$", "", command.text, flags=re.MULTILINE) for command in block.commands)


def _unknown_part(words: list[str]) -> str | None:
    """Returns what the program does not know of a command; None if it knows everything."""
    program, *rest = words
    command = PROGRAMS[program]
    context = click.Context(command)
    known = _options(command)
    for word in rest:
        if word.startswith("-") and len(word) > 1:
            name = re.split(r"[=\[]", word)[0].rstrip(",.")
            if name not in known:
                return f"unknown option {name}"
        elif isinstance(command, click.Group) and re.fullmatch(r"[a-z][a-z-]*", word):
            inner = command.get_command(context, word)
            if inner is None:
                if known & {"ARGUMENT"}:
                    continue
                return f"unknown command {word}"
            command = inner
            known |= _options(command)
    return None


def _options(command: click.Command) -> set[str]:
    names = {"--help", "-h", "--version"}
    for parameter in command.params:
        names |= {"ARGUMENT"} if isinstance(parameter, click.Argument) else set(parameter.opts)
        names |= set(parameter.secondary_opts)
    return names
