"""From a script to a command line and an environment."""

from __future__ import annotations

import subprocess
from pathlib import Path

import msgspec
import pytest

from tests.patience import PATIENCE_S
from waterflow_agent.errors import Rejected
from waterflow_agent.nodes import schema, shell
from waterflow_agent.nodes.shell import AttemptLocation, Command
from waterflow_agent.testing import task_id
from waterflow_agent.wire import messages

OWN = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/home/x",
    "USER": "x",
    "LOGNAME": "x",
    "SECRET_OF_THE_AGENT": "no",
    "LANG": "C",
}


def prepared(
    tmp_path: Path,
    parameters: schema.Shell,
    env: dict[str, str] | None = None,
    facts: dict[str, str] | None = None,
    job: str = "build",
) -> Command:
    task = messages.Task(
        key=task_id("01RUN", job, "test", 2, 7),
        node="shell",
        params={},
        env=env or {},
        step_name="the tests",
        working_directory=None,
        timeout_ms=1,
        stop_signal="TERM",
        grace_ms=1,
        output_bytes_max=1,
        boot_id="",
        instance="",
        facts=facts or {},
    )
    location = AttemptLocation(files=str(tmp_path), workspace="/work/space", temp="/work/temp", agent="web-1")
    return shell.prepare(parameters, task, location, shell.inherited(OWN))


def run(command: Command) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command.argv, env=command.env, capture_output=True, check=False, timeout=PATIENCE_S)


def test_facts_about_the_run_have_the_names_of_github_and_of_waterflow(tmp_path: Path) -> None:
    """A step cannot override them, and the identity of the attempt keeps its own names."""
    facts = {"sha": "abc", "ref": "refs/heads/fix/it", "repository": "acme/shop", "os": "Linux"}
    env = prepared(tmp_path, schema.Shell(run="true"), {"GITHUB_SHA": "forged"}, facts, job="build[eu]").env

    assert (env["GITHUB_SHA"], env["WATERFLOW_SHA"]) == ("abc", "abc")
    assert (env["RUNNER_OS"], env["WATERFLOW_OS"]) == ("Linux", "Linux")
    assert (env["GITHUB_JOB"], env["WATERFLOW_JOB"]) == ("build", "build[eu]")
    assert (env["GITHUB_REF_NAME"], env["GITHUB_REF_TYPE"]) == ("fix/it", "branch")
    assert (env["GITHUB_REPOSITORY_OWNER"], env["GITHUB_RUN_ID"], env["RUNNER_NAME"]) == ("acme", "01RUN", "web-1")
    assert env["GITHUB_ACTOR"] == ""
    assert (env["GITHUB_WORKSPACE"], env["RUNNER_TEMP"]) == ("/work/space", "/work/temp")
    assert env["GITHUB_PATH"] == env["WATERFLOW_PATH"] == f"{tmp_path}/path"


@pytest.mark.parametrize(("folder", "expected"), [("steps/a", "/work/space/steps/a"), (".", "/work/space")])
def test_scripts_of_a_composite_step_know_the_directory_of_its_file(tmp_path: Path, folder: str, expected: str) -> None:
    """Other scripts do not have the variables."""
    env = prepared(tmp_path, schema.Shell(run="true"), {}, {"action_path": folder}).env
    assert (env["GITHUB_ACTION_PATH"], env["WATERFLOW_ACTION_PATH"]) == (expected, expected)

    assert "GITHUB_ACTION_PATH" not in prepared(tmp_path, schema.Shell(run="true"), {}).env


def test_environment_has_only_known_variables(tmp_path: Path) -> None:
    """Only known variables of the agent are passed on, together with those of the step and of Waterflow."""
    env = prepared(tmp_path, schema.Shell(run="true"), {"MINE": "1", "CI": "no", "WATERFLOW_RUN_ID": "forged"}).env

    assert "SECRET_OF_THE_AGENT" not in env
    assert (env["PATH"], env["HOME"], env["MINE"], env["CI"]) == ("/usr/bin:/bin", "/home/x", "1", "no")
    assert env["WATERFLOW_RUN_ID"] == "01RUN"
    assert (env["WATERFLOW_JOB"], env["WATERFLOW_STEP"], env["WATERFLOW_ATTEMPT"]) == ("build", "test", "2")
    assert (env["WATERFLOW_AGENT"], env["WATERFLOW_WORKSPACE"]) == ("web-1", "/work/space")
    assert env["GITHUB_OUTPUT"] == env["WATERFLOW_OUTPUT"] == f"{tmp_path}/output"
    assert env["GITHUB_ENV"] == env["WATERFLOW_ENV"] == f"{tmp_path}/env"
    assert env["GITHUB_STEP_SUMMARY"] == env["WATERFLOW_SUMMARY"] == f"{tmp_path}/summary"


def test_bare_environment_is_completed() -> None:
    """Some init systems start services without PATH, HOME and USER; steps have them anyway."""
    env = shell.inherited({})

    assert env["PATH"] == shell.DEFAULT_PATH
    assert env["HOME"].startswith("/")
    assert env["CI"] == "true"


def test_default_shell_stops_at_the_first_failure(tmp_path: Path) -> None:
    """It is bash with `-eo pipefail`."""
    done = run(prepared(tmp_path, schema.Shell(run="false | true\necho not here")))

    assert (done.returncode, done.stdout) == (1, b"")


def test_line_numbers_are_those_of_the_script(tmp_path: Path) -> None:
    """Text that is inserted before a script is put on its first line, so line numbers do not change."""
    command = prepared(tmp_path, schema.Shell(run="true\necho $LINENO"), {"BIG": "x" * 200_000})

    assert run(command).stdout == b"2\n"


@pytest.mark.parametrize("which", ["bash", "sh"])
@pytest.mark.parametrize("value", ["x" * 120_000, "x" * 120_000 + "\n\n", "ü'\"$(id)`\\" * 20_000])
def test_large_values_are_passed_in_files(tmp_path: Path, which: str, value: str) -> None:
    """A value that is too large for an environment becomes a shell variable and a file, byte for byte."""
    command = prepared(tmp_path, schema.Shell(run='printf %s "$BIG"', shell=which), {"BIG": value})

    assert "BIG" not in command.env
    assert Path(command.env["BIG_FILE"]).read_text() == value
    assert run(command).stdout == value.encode()


def test_oversized_environment_is_refused(tmp_path: Path) -> None:
    """The error is raised before anything starts, and names the largest variable."""
    env = {f"V{number}": "x" * 90_000 for number in range(30)} | {"LARGEST": "x" * 99_000}

    with pytest.raises(Rejected, match="LARGEST"):
        prepared(tmp_path, schema.Shell(run="true"), env)


@pytest.mark.parametrize(
    ("parameters", "argv"),
    [
        (schema.Shell(run="x"), ["bash", "--noprofile", "--norc", "-eo", "pipefail", "{}"]),
        (schema.Shell(run="x", shell="sh", args=["a b"]), ["sh", "-e", "{}", "a b"]),
        (schema.Shell(run="x", shell="python"), ["python3", "{}.py"]),
        (schema.Shell(run="x", shell=""), ["bash", "--noprofile", "--norc", "-eo", "pipefail", "{}"]),
        (schema.Shell(run="x", shell="pwsh"), ["pwsh", "-NoLogo", "-NoProfile", "-NonInteractive", "-File", "{}.ps1"]),
        (schema.Shell(run="x", shell="perl -w {0}"), ["perl", "-w", "{}"]),
        (schema.Shell(run="x", shell="env 'A=b c' sh {0} -x"), ["env", "A=b c", "sh", "{}", "-x"]),
    ],
)
def test_known_shells_and_templates_give_command_lines(
    tmp_path: Path, parameters: schema.Shell, argv: list[str]
) -> None:
    """Known shells and a template are supported; arguments come last and are never split."""
    expected = [part.replace("{}", f"{tmp_path}/script") for part in argv]

    assert prepared(tmp_path, parameters).argv == expected


@pytest.mark.parametrize("text", ["zsh", "perl -w", "'open {0}"])
def test_unknown_shell_is_refused(tmp_path: Path, text: str) -> None:
    """The value is neither a known shell nor a command with a placeholder for the script."""
    with pytest.raises(Rejected, match=r"with\.shell"):
        prepared(tmp_path, schema.Shell(run="x", shell=text))


@pytest.mark.parametrize("env", [{"A=B": "x"}, {"": "x"}, {"A": "x\0y"}])
def test_invalid_variable_is_refused(tmp_path: Path, env: dict[str, str]) -> None:
    """The error contains the variable's name, never its value."""
    with pytest.raises(Rejected, match="env: ") as caught:
        prepared(tmp_path, schema.Shell(run="x"), env)

    assert "y" not in caught.value.text.replace("byte", "").replace("any", "")


def test_script_is_private(tmp_path: Path) -> None:
    """Only this user can read the script and its files."""
    command = prepared(tmp_path, schema.Shell(run="x"))

    paths = (tmp_path / "script", *msgspec.structs.astuple(command.files))
    assert {Path(path).stat().st_mode & 0o777 for path in paths} == {0o600}
