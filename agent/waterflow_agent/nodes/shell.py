"""The node `shell`: turns a script into a file, a command line and an environment, and the end of its process into a result.

The environment; later entries override earlier ones:

1. of the agent's environment only `INHERITED`; `PATH`, `HOME`, `USER` and `LOGNAME` get defaults;
2. `CI=true`;
3. the step's `env`;
4. GitHub's variables that have a true value here (`GITHUB_SHA`, `RUNNER_OS`, ...), each also with the prefix `WATERFLOW_`;
5. the variables of Waterflow: `WATERFLOW_RUN_ID`, `_JOB`, `_STEP`, `_STEP_NAME`, `_ATTEMPT`, `_AGENT`, `_WORKSPACE`, `_TEMP`,
   and `WATERFLOW_OUTPUT`, `_ENV`, `_PATH`, `_SUMMARY`; `GITHUB_OUTPUT`, `_ENV`, `_PATH`, `_STEP_SUMMARY` are the same files.

Linux limits a variable to 128 KiB. A value over `VALUE_BYTES_MAX` is written to a file, whose path is in `NAME_FILE`; in a
script for bash or sh, the shell variable `NAME` contains it too (not exported: child processes use the file).
"""

from __future__ import annotations

import contextlib
import functools
import os
import pwd
import re
import shlex
import shutil
from collections.abc import Mapping

import msgspec

from waterflow_agent.attempts import Outcome
from waterflow_agent.errors import Rejected
from waterflow_agent.nodes import github_variables, schema, step_files
from waterflow_agent.nodes.outcome import STDERR, NodeResult, one_line
from waterflow_agent.nodes.step_files import StepFiles
from waterflow_agent.wire import messages

INHERITED = (
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "LANG",
    "LANGUAGE",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "TMPDIR",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "DOCKER_HOST",
    "DOCKER_TLS_VERIFY",
    "DOCKER_CERT_PATH",
)
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: A little below the kernel's limit of 128 KiB for name, value and NUL.
VALUE_BYTES_MAX = 100 << 10
#: Arguments and environment of one process; the limit of the kernel is 2 MiB by default.
ENVIRONMENT_BYTES_MAX = 1_900_000

#: The result file of a node with its own process; directories of scripts have no such file.
RESULT = "result"

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BASH = ("bash", "--noprofile", "--norc", "-eo", "pipefail", "{0}")
_SH = ("sh", "-e", "{0}")
_SHELLS: dict[str, tuple[str, ...]] = {
    "bash": _BASH,
    "sh": _SH,
    "python": ("python3", "{0}"),
    "pwsh": ("pwsh", "-NoLogo", "-NoProfile", "-NonInteractive", "-File", "{0}"),
}
_SUFFIXES = {"python": ".py", "pwsh": ".ps1"}


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """The command for the runner."""

    argv: list[str]
    env: dict[str, str]
    files: StepFiles


class AttemptLocation(msgspec.Struct, frozen=True, kw_only=True):
    """Where an attempt runs: its directories, as absolute paths, and the agent."""

    #: The directory for the files of the attempt; empty or reset, or not created yet.
    files: str
    workspace: str
    #: The job's directory for temporary files.
    temp: str
    agent: str
    #: The directory of the job's containers, for the step that starts them.
    containers: str = ""


def inherited(own: Mapping[str, str]) -> dict[str, str]:
    """Return what every step inherits of the agent's environment `own`, with defaults."""
    env = {name: own[name] for name in INHERITED if name in own}
    env.setdefault("PATH", DEFAULT_PATH)
    if not env.keys() >= {"HOME", "USER", "LOGNAME"}:
        env = _account() | env
    env["CI"] = "true"
    return env


def prepare(
    parameters: schema.Shell, task: messages.Task, location: AttemptLocation, start: Mapping[str, str]
) -> Command:
    """Write the script and its files, and return the command. `start` is the result of `inherited`.

    Raises `Rejected` WF705 (invalid environment) or WF706 (invalid shell), and `OSError`.
    """
    env = environment(task, location, start)
    # What the image of a container has is not known here.
    chosen = "sh" if not parameters.shell and task.container else parameters.shell
    template, suffix = _template(chosen, env.get("PATH", DEFAULT_PATH))
    files = create_step_files(env, location)
    prelude = move_large_values(env, location.files, template[0])
    script = f"{location.files}/script{suffix}"
    write(script, prelude + parameters.run.removesuffix("\n") + "\n")
    argv = [part.replace("{0}", script) for part in template] + parameters.args
    return command(argv, env, files)


def create_step_files(env: dict[str, str], location: AttemptLocation) -> StepFiles:
    """Create the files for outputs and environment, and put their paths into `env`. Raises `OSError`."""
    files = step_files.create(location.files)
    # The directory may have been used by a node before.
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{location.files}/{RESULT}")
    env |= {
        "WATERFLOW_OUTPUT": files.output,
        "WATERFLOW_ENV": files.env,
        "WATERFLOW_PATH": files.path,
        "WATERFLOW_SUMMARY": files.summary,
        "GITHUB_OUTPUT": files.output,
        "GITHUB_ENV": files.env,
        "GITHUB_PATH": files.path,
        "GITHUB_STEP_SUMMARY": files.summary,
    }
    return files


def command(argv: list[str], env: dict[str, str], files: StepFiles) -> Command:
    """Return the command. Raises `Rejected` WF705 if arguments and environment are too large."""
    _check_size(argv, env)
    return Command(argv=argv, env=env, files=files)


def finish(result: NodeResult, files: StepFiles, path: str) -> NodeResult:
    """Return the result with the script's outputs, also if it failed; files that cannot be parsed fail the step.

    `path` is the `PATH` of the script, to which it may have added directories for later steps.
    """
    try:
        contents = step_files.collect(files)
    except Rejected as error:
        text = f"{result.reason_text}; {error.text}" if result.reason_text else error.text
        line = f"waterflow: {error.text}\n".encode("utf-8", "replace")
        is_success = result.outcome is Outcome.SUCCESS
        return msgspec.structs.replace(
            result,
            outcome=Outcome.FAILURE if is_success else result.outcome,
            reason_code="node-error" if is_success else result.reason_code,
            reason_text=one_line(text),
            summary=step_files.summary(files),
            printed=[*result.printed, (STDERR, line)],
        )
    if not (contents.outputs or contents.env or contents.denied or contents.directories or contents.summary.text):
        return result
    printed = [*result.printed]
    for name in contents.denied:
        printed.append(
            (STDERR, f"waterflow: {name} in WATERFLOW_ENV is ignored: steps may not set this variable\n".encode())
        )
    env = dict(contents.env)
    if contents.directories:
        # The last one is searched first, as on GitHub.
        env["PATH"] = ":".join([*reversed(contents.directories), path])
    return msgspec.structs.replace(
        result, outputs=dict(contents.outputs), env=env, summary=contents.summary, printed=printed
    )


def environment(task: messages.Task, location: AttemptLocation, start: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the step's process. Raises `Rejected` WF705."""
    for name, value in task.env.items():
        if not name or "=" in name or "\0" in name or "\0" in value:
            raise Rejected("WF705", f"env: {name!r} is not a valid variable name, or its value contains a NUL byte")
    key = task.key
    return {
        **start,
        **task.env,
        **github_variables.variables(task, location.agent),
        **github_variables.in_composite_step(task, location.workspace),
        "GITHUB_WORKSPACE": location.workspace,
        "RUNNER_TEMP": location.temp,
        "WATERFLOW_TEMP": location.temp,
        "WATERFLOW_RUN_ID": key.attempt.run,
        "WATERFLOW_JOB": key.attempt.job,
        "WATERFLOW_STEP": key.attempt.step,
        "WATERFLOW_STEP_NAME": task.step_name,
        "WATERFLOW_ATTEMPT": str(key.attempt.number),
        "WATERFLOW_AGENT": location.agent,
        "WATERFLOW_WORKSPACE": location.workspace,
    }


def _account() -> dict[str, str]:
    try:
        account = pwd.getpwuid(os.geteuid())
    except KeyError:
        return {"HOME": "/"}
    return {"HOME": account.pw_dir, "USER": account.pw_name, "LOGNAME": account.pw_name}


def _template(shell: str | None, path: str) -> tuple[tuple[str, ...], str]:
    if not shell:
        # Not set, or an expression without a value.
        return (_BASH if _has_bash(path) else _SH), ""
    known = _SHELLS.get(shell)
    if known is not None:
        return known, _SUFFIXES.get(shell, "")
    try:
        parts = tuple(shlex.split(shell))
    except ValueError as error:
        raise Rejected("WF706", f"with.shell: {error}") from error
    if not any("{0}" in part for part in parts):
        raise Rejected(
            "WF706", f'with.shell: expected {", ".join(_SHELLS)} or a command with {{0}}, found "{one_line(shell)}"'
        )
    return parts, ""


@functools.lru_cache(maxsize=64)
def _has_bash(path: str) -> bool:
    # Cached, because the lookup costs more than the rest of the preparation.
    return shutil.which("bash", path=path) is not None


def move_large_values(env: dict[str, str], directory: str, program: str) -> str:
    """Move large values to files; return shell code that reads them back, to prepend to the script."""
    # The encoded size is between one and four times `len`, which decides most cases.
    large = [
        name for name, value in env.items() if len(value) > VALUE_BYTES_MAX // 4 and _size(value) > VALUE_BYTES_MAX
    ]
    prelude = ""
    for number, name in enumerate(large):
        path = f"{directory}/value{number}"
        write(path, env.pop(name))
        env[f"{name}_FILE"] = path
        if _VARIABLE.fullmatch(name) and os.path.basename(program) == "bash":
            prelude += f'IFS= read -r -d "" {name} < {shlex.quote(path)} || :; '
        elif _VARIABLE.fullmatch(name) and os.path.basename(program) in ("sh", "dash"):
            # The x keeps trailing newlines, which the substitution would strip.
            prelude += f"{name}=$(cat {shlex.quote(path)}; printf x); {name}=${{{name}%x}}; "
    return prelude


def _check_size(argv: list[str], env: Mapping[str, str]) -> None:
    total = sum(_size(part) + 9 for part in argv) + sum(_size(name) + _size(value) + 10 for name, value in env.items())
    if total <= ENVIRONMENT_BYTES_MAX:
        return
    largest = max(env, key=lambda name: _size(env[name]))
    raise Rejected(
        "WF705",
        f"arguments and environment have {total} bytes, more than a process can have; the largest variable is"
        f" {largest} with {_size(env[largest])} bytes",
    )


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogateescape"))


def write(path: str, text: str) -> None:
    """Write a file that only the step can read. Raises `OSError`."""
    content = text.encode("utf-8", "surrogateescape")
    # Overwritten and truncated, because truncating first is twenty times slower.
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with open(fd, "wb") as file:
        file.write(content)
        file.truncate(len(content))
