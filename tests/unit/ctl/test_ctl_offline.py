"""What the command line does without a daemon: help, usage, settings, validation, and the error when it is unreachable."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from tests.patience import PATIENCE_S
from waterflowd.ctl import settings
from waterflowd.ctl.contexts import default_path
from waterflowd.ctl.failures import Failure
from waterflowd.ctl.main import COMMANDS, cli

VALID = "jobs:\n  a:\n    runs-on: web\n    steps:\n      - run: echo hello\n"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WATERFLOW_SERVER", raising=False)
    monkeypatch.delenv("WATERFLOW_TOKEN", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def ctl(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments))


def test_help_imports_nothing_heavy() -> None:
    """The modules that slow down the start are not loaded for `--help`."""
    code = (
        "import sys; from waterflowd.ctl import main\n"
        "try: main.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'httpx', 'rich', 'pydantic', 'fastapi', 'starlette', 'yaml', 'msgspec', 'dulwich', 'zmq', 'lmdb'}\n"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in COMMANDS)


def test_the_list_of_commands_has_a_line_for_each_on_a_narrow_terminal() -> None:
    """In sections, with the texts below each other."""
    lines = CliRunner().invoke(cli, ["--help"], terminal_width=80).output.splitlines()
    entries = [line for line in lines[lines.index("Runs:") :] if line and not line.endswith(":")]
    assert [line.split()[0] for line in entries] == list(COMMANDS)
    assert len({line.index(text) for line, (_, _, text) in zip(entries, COMMANDS.values(), strict=True)}) == 1


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_has_help(name: str) -> None:
    """Every command can be imported and has a description."""
    result = ctl(name, "--help")
    assert result.exit_code == 0
    assert "Usage: " in result.output


def test_a_misspelt_command_is_a_usage_error_with_a_suggestion() -> None:
    """The exit code is 2, and the message suggests the probable name."""
    result = ctl("stauts")
    assert (result.exit_code, 'did you mean "status"?' in result.output) == (2, True)


@pytest.mark.parametrize(
    "server", ["unix:/nonexistent/s.sock", "/nonexistent/s.sock", "http://127.0.0.1:1", "127.0.0.1:1"]
)
@pytest.mark.parametrize("position", [0, 2])
def test_without_a_daemon_the_exit_code_is_4_and_the_next_command_is_named(server: str, position: int) -> None:
    """`--server` is accepted before and after the command."""
    words = ["runs", "--limit", "5"]
    result = (
        ctl(*words[:position], "--server", server, *words[position:])
        if position == 0
        else ctl(*words, "--server", server)
    )
    assert result.exit_code == 4
    assert "cannot connect to the daemon at" in result.output
    assert "next: " in result.output


def test_an_invalid_server_address_is_a_usage_error() -> None:
    """The command does not guess an address."""
    assert ctl("--server", "nonsense", "runs").exit_code == 2
    assert ctl("--server", "ftp://x", "runs").exit_code == 2


def test_the_context_of_the_configuration_is_used_after_command_line_and_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command line overrides the context; a token comes from a file unless the environment has one."""
    assert settings.load(None) == settings.Settings("unix:/run/waterflow/waterflowd.sock", None)
    secret = tmp_path / "token"
    secret.write_text("wf_file\n")
    path = default_path()
    path.parent.mkdir(parents=True)
    path.write_text(f'context = "a"\n[contexts.a]\nserver = "https://a.example/"\ntoken-file = "{secret}"\n')
    assert settings.load(None) == settings.Settings("https://a.example", "wf_file")
    monkeypatch.setenv("WATERFLOW_TOKEN", "wf_env")
    assert settings.load(None).token == "wf_env"
    assert settings.load("unix:/x").socket == "/x"
    assert settings.load("unix:///x/y").socket == "/x/y"
    for broken in ('context = "b"\n', "context = [", 'context = "a"\n[contexts.a]\ntoken-file = "/nonexistent"\n'):
        path.write_text(broken)
        monkeypatch.delenv("WATERFLOW_TOKEN", raising=False)
        with pytest.raises(Failure) as caught:
            settings.load(None)
        assert caught.value.exit_code == 2


def test_validate_exits_with_0_for_valid_files_and_1_with_every_error(tmp_path: Path) -> None:
    """It accepts files and directories; `--json` prints the `errors[]` of a 422."""
    (tmp_path / "good.yml").write_text(VALID)
    assert ctl("validate", str(tmp_path)).exit_code == 0
    bad = tmp_path / "sub" / "bad.yaml"
    bad.parent.mkdir()
    bad.write_text(VALID.replace("runs-on", "runs-onn").replace("run:", "runn:"))
    result = ctl("validate", str(tmp_path))
    assert result.exit_code == 1
    assert f"{bad}:3:5: " in result.output
    assert "^" in result.output
    assert f"{tmp_path / 'good.yml'}: valid" in result.output
    rows = json.loads(ctl("validate", "--json", str(bad)).stdout)
    assert {"code", "path", "line", "column", "message", "snippet", "suggestion"} <= set(rows[0])
    assert {row["line"] for row in rows} >= {3, 5}
    assert json.loads(ctl("validate", "--json", str(tmp_path / "good.yml")).stdout) == []


def test_validate_reports_unreadable_paths(tmp_path: Path) -> None:
    """A missing file and an empty directory are usage errors."""
    assert ctl("validate", str(tmp_path / "none.yml")).exit_code == 2
    assert ctl("validate", str(tmp_path)).exit_code == 2
    assert ctl("validate").exit_code == 2


def test_a_hostile_file_name_is_escaped(tmp_path: Path) -> None:
    """An escape sequence in a name has no effect on the terminal."""
    path = tmp_path / "a\x1b]0;pwn\x07.yml"
    path.write_text(VALID)
    result = ctl("validate", str(path))
    assert "\x1b" not in result.output
    assert "\\x1b]0;pwn\\x07" in result.output


def test_version_is_printed() -> None:
    """Both spellings of the option work."""
    assert ctl("version").output.startswith("waterflowctl ")
    assert ctl("--version").output.startswith("waterflowctl ")


def _with_commands(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    yield name, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for inner in command.list_commands(context):
            found = command.get_command(context, inner)
            assert found is not None
            yield from _with_commands(found, f"{name} {inner}")


def test_no_command_has_an_option_that_names_the_daemon_everywhere() -> None:
    """It would never reach the command: `runs --server web-1` asked for a daemon called web-1."""
    for name, command in _with_commands(cli, "waterflowctl"):
        options = {text for parameter in command.params for text in parameter.opts}
        assert name == "waterflowctl" or not options & {"--server", "--context"}, name
