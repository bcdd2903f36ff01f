"""Contexts: the file is changed as asked for and otherwise kept, and the right daemon is chosen."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from waterflowd.ctl import live_values, settings
from waterflowd.ctl.commands.offline.completion import SHELLS, script
from waterflowd.ctl.contexts import Contexts, default_path
from waterflowd.ctl.failures import Failure
from waterflowd.ctl.main import cli
from waterflowd.model.statuses import Conclusion, Status

KEPT = """\
# The daemons of this team.
context = "a"  # usually

[contexts.a]
server = "https://a.example"
# Rotated each month.
token-file = "~/a.token"

[other]
text = \"\"\"
not a header
\"\"\"

[contexts."b.example"]
server = "unix:/b"
"""


@pytest.fixture(autouse=True)
def _own_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for name in ("WATERFLOW_SERVER", "WATERFLOW_CONTEXT", "WATERFLOW_TOKEN"):
        monkeypatch.delenv(name, raising=False)


def ctl(*words: str, input: str | None = None, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(cli, words, input=input, env=env, prog_name="waterflowctl")


def _written(text: str) -> Path:
    path = default_path()
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return path


def test_contexts_are_added_used_listed_and_removed() -> None:
    """The first one is the current one; the file is private, because it may have a token."""
    assert "no contexts yet" in ctl("context").output
    added = ctl("context", "add", "production", "wf.example:8080", "--token", input="wf_secret\n")
    assert (added.exit_code, added.output) == (0, "added, and made the current one\n")
    assert default_path().stat().st_mode & 0o777 == 0o600
    assert settings.load(None) == settings.Settings("http://wf.example:8080", "wf_secret")
    assert ctl("context", "add", "lab", "/run/lab.sock").exit_code == 0
    assert settings.load(None).server == "http://wf.example:8080"
    assert ctl("context", "use", "lab").output == "commands now talk to unix:/run/lab.sock\n"
    assert settings.load(None) == settings.Settings("unix:/run/lab.sock", None)
    listed = ctl("context", "list")
    assert [line.split() for line in listed.output.splitlines()[1:]] == [
        ["production", "http://wf.example:8080", "stored"],
        ["*", "lab", "unix:/run/lab.sock", "none"],
    ]
    assert "wf_secret" not in listed.output + ctl("context", "--json").output
    assert ctl("context", "remove", "lab").output == "removed; there is no current context now\n"
    assert settings.load(None).server == settings.DEFAULT_SERVER


def test_a_change_keeps_everything_else_in_the_file() -> None:
    """Comments, other tables and their order."""
    path = _written(KEPT)
    Contexts(path).use("b.example")
    assert path.read_text() == KEPT.replace('context = "a"  # usually', "").replace(
        "# The daemons", 'context = "b.example"\n# The daemons'
    ).replace("team.\n\n\n", "team.\n\n")
    Contexts(path).add("c", {"server": "https://c"})
    Contexts(path).remove("a")
    text = path.read_text()
    assert text.endswith('[contexts.c]\nserver = "https://c"\n')
    assert "[other]" in text
    assert "not a header" in text
    assert "a.example" not in text
    assert set(Contexts(path).by_name) == {"b.example", "c"}


def test_the_comment_above_the_next_table_stays() -> None:
    """It belongs to that table; a comment between the removed settings goes with them."""
    path = _written('[contexts.a]\nserver = "/a"\n# of a\ntoken-file = "/t"\n\n# of b\n[contexts.b]\nserver = "/b"\n')
    Contexts(path).remove("a")
    assert path.read_text() == '\n# of b\n[contexts.b]\nserver = "/b"\n'


@pytest.mark.parametrize(
    "text",
    [
        'contexts = {a = {server = "x"}}\n',
        '[contexts]\na = {server = "x"}\n',
        '[contexts.b]\nserver = """\n[contexts.a]\n"""\n[contexts.a]\nserver = "x"\n',
    ],
)
def test_a_file_that_cannot_be_changed_safely_is_left_alone(text: str) -> None:
    """The command says so, and names the file."""
    path = _written(text)
    with pytest.raises(Failure, match="in a way that this command cannot change"):
        Contexts(path).remove("a")
    assert path.read_text() == text
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_mistake_is_said_with_the_next_step() -> None:
    """Unknown and repeated names, and names that cannot be keys."""
    _written(KEPT)
    unknown = ctl("context", "use", "b.exampel")
    assert unknown.exit_code == 2
    assert 'did you mean "b.example"?' in unknown.output
    assert "waterflowctl context list" in unknown.output
    assert 'there is a context "a" already' in ctl("context", "add", "a", "/x").output
    assert "cannot be the name" in ctl("context", "add", "a b", "/x").output
    assert ctl("context", "add", "x", "nonsense").exit_code == 2
    assert ctl("context", "add", "x", "/x", "--token", input="").exit_code == 2
    assert ctl("--context", "none", "runs").exit_code == 2
    assert ctl("runs", "--context", "a", "--server", "/x").exit_code == 2


def test_the_command_line_wins_over_the_environment_and_a_server_over_a_context(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each command says which daemon it cannot reach."""
    _written('context = "a"\n[contexts.a]\nserver = "unix:/a"\n[contexts.b]\nserver = "unix:/b"\n')

    def asked(*words: str) -> str:
        return ctl("--wait", "0", "runs", *words).output.partition("daemon at ")[2].partition(":/")[2][:1]

    assert asked() == "a"
    assert asked("--context", "b") == "b"
    monkeypatch.setenv("WATERFLOW_CONTEXT", "b")
    assert asked() == "b"
    monkeypatch.setenv("WATERFLOW_SERVER", "unix:/s")
    assert asked() == "s"
    assert asked("--context=a") == "a"


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_scripts_call_the_command(shell: str) -> None:
    """They ask waterflowctl itself, so that they never go out of date."""
    printed = ctl("completion", shell)
    assert printed.exit_code == 0
    assert "_WATERFLOWCTL_COMPLETE" in printed.output
    assert printed.output.rstrip("\n") == script(cli, "waterflowctl", shell).rstrip("\n")


def test_names_of_contexts_are_completed_without_a_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a shell asks for them."""
    _written(KEPT)
    answer = ctl(
        env={"_WATERFLOWCTL_COMPLETE": "bash_complete", "COMP_WORDS": "waterflowctl context use ", "COMP_CWORD": "3"}
    )
    assert answer.output.splitlines() == ["plain,a", "plain,b.example"]
    monkeypatch.setenv("WATERFLOW_SERVER", "unix:/s")
    root = cli.make_context("waterflowctl", ["--context", "a", "runs"], resilient_parsing=True)
    assert settings.chosen(root) == (None, "a")
    none = ctl(env={"_WATERFLOWCTL_COMPLETE": "bash_complete", "COMP_WORDS": "waterflowctl show ", "COMP_CWORD": "2"})
    assert (none.exit_code, none.output.strip()) == (0, "")


def test_every_status_and_conclusion_is_completed() -> None:
    """The command line has its own list of them."""
    assert tuple(word.value for words in (Status, Conclusion) for word in words) == live_values.STATUSES
