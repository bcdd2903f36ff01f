"""The node `shell`: a script becomes a file, a command line and an environment; the end of its process becomes a result.

Environment, in this order, later ones win:

1. of the agent's own environment only `INHERITED`; `PATH`, `HOME`, `USER` and `LOGNAME` are filled in when absent;
2. `CI=true`;
3. the step's environment from the file;
4. the names that Waterflow sets: `WATERFLOW_RUN_ID`, `_JOB`, `_STEP`, `_STEP_NAME`, `_ATTEMPT`, `_AGENT`, `_WORKSPACE`, and
   `WATERFLOW_OUTPUT`, `_ENV`, `_SUMMARY`, with `GITHUB_OUTPUT`, `GITHUB_ENV`, `GITHUB_STEP_SUMMARY` for the same files.

Linux takes at most 128 KiB for one variable. A value over `VALUE_BYTES_MAX` is put into a file that `NAME_FILE` names; a
script for bash or sh finds it in the shell variable `NAME` as well (which is not exported: its children have the file).
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
from waterflow_agent.nodes import schema, step_files
from waterflow_agent.nodes.outcome import STDERR, NodeResult, one_line
from waterflow_agent.nodes.step_files import StepFiles
from waterflow_agent.wire import messages

INHERITED = (
    *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR"),
    *(
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
        "http_proxy",
        "https_proxy",
        "no_proxy",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
    ),
)
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: A little below the kernel's limit for one string (128 KiB, with name and NUL).
VALUE_BYTES_MAX = 100 << 10
#: Arguments and environment of one process; the kernel's own limit depends on the stack's, and is 2 MiB by default.
ENVIRONMENT_BYTES_MAX = 1_900_000

#: Where a node with a process of its own leaves what it gives; a script's directory has no such file.
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
    """What the runner is asked for."""

    argv: list[str]
    env: dict[str, str]
    files: StepFiles


class AttemptLocation(msgspec.Struct, frozen=True, kw_only=True):
    """Where an attempt runs, and for whom: the names that its environment tells. Paths are absolute."""

    #: Directory for the attempt's own files; as good as new, or not there yet.
    files: str
    workspace: str
    agent: str


def inherited(own: Mapping[str, str]) -> dict[str, str]:
    """What every step gets of the agent's environment `own`, completed where it is bare."""
    env = {name: own[name] for name in INHERITED if name in own}
    env.setdefault("PATH", DEFAULT_PATH)
    if not env.keys() >= {"HOME", "USER", "LOGNAME"}:
        env = _account() | env
    env["CI"] = "true"
    return env


def prepare(
    parameters: schema.Shell, task: messages.Task, location: AttemptLocation, start: Mapping[str, str]
) -> Command:
    """Writes the script and its files, and gives the command. `start` is what `inherited` gave.

    Raises `Rejected` WF705 (an environment that no process can have) or WF706 (a shell that is none); `OSError` when the
    disk refuses.
    """
    env = environment(task, location, start)
    template, suffix = _template(parameters.shell, env["PATH"])
    files = create_step_files(env, location)
    prelude = move_large_values(env, location.files, template[0])
    script = f"{location.files}/script{suffix}"
    write(script, prelude + parameters.run.removesuffix("\n") + "\n")
    argv = [part.replace("{0}", script) for part in template] + parameters.args
    return command(argv, env, files)


def create_step_files(env: dict[str, str], location: AttemptLocation) -> StepFiles:
    """Makes the files that a script hands values back in, and tells it in `env` where they are. Raises `OSError`."""
    files = step_files.create(location.files)
    # The directory may have been a node's before.
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{location.files}/{RESULT}")
    env |= {
        "WATERFLOW_OUTPUT": files.output,
        "WATERFLOW_ENV": files.env,
        "WATERFLOW_SUMMARY": files.summary,
        "GITHUB_OUTPUT": files.output,
        "GITHUB_ENV": files.env,
        "GITHUB_STEP_SUMMARY": files.summary,
    }
    return files


def command(argv: list[str], env: dict[str, str], files: StepFiles) -> Command:
    """The command, if a process can have these arguments and this environment; raises `Rejected` WF705 otherwise."""
    _check_size(argv, env)
    return Command(argv=argv, env=env, files=files)


def finish(end: NodeResult, files: StepFiles) -> NodeResult:
    """`end` with what the script handed back; what cannot be read fails the step. Outputs of a failed step are kept."""
    try:
        written = step_files.collect(files)
    except Rejected as error:
        text = f"{end.reason_text}; {error.text}" if end.reason_text else error.text
        line = f"waterflow: {error.text}\n".encode("utf-8", "replace")
        is_success = end.outcome is Outcome.SUCCESS
        return msgspec.structs.replace(
            end,
            outcome=Outcome.FAILURE if is_success else end.outcome,
            reason_code="node-error" if is_success else end.reason_code,
            reason_text=one_line(text),
            printed=[*end.printed, (STDERR, line)],
        )
    if not (written.outputs or written.env or written.denied):
        return end
    printed = [*end.printed]
    for name in written.denied:
        printed.append((STDERR, f"waterflow: {name} in WATERFLOW_ENV is ignored: a step may not set it\n".encode()))
    return msgspec.structs.replace(end, outputs=dict(written.outputs), env=written.env, printed=printed)


def environment(task: messages.Task, location: AttemptLocation, start: Mapping[str, str]) -> dict[str, str]:
    """What the step's process has in its environment. Raises `Rejected` WF705."""
    for name, value in task.env.items():
        if not name or "=" in name or "\0" in name or "\0" in value:
            raise Rejected("WF705", f"env: {name!r} is not a variable's name, or its value has a NUL byte")
    key = task.key
    return {
        **start,
        **task.env,
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
    if shell is None:
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
    # Remembered: looking costs more than the rest of the preparation, and a shell does not come and go.
    return shutil.which("bash", path=path) is not None


def move_large_values(env: dict[str, str], directory: str, program: str) -> str:
    """Puts large values into files; gives the start of a script's first line that reads them back, "" for none."""
    # len is a lower bound of the encoded size, and a quarter of the upper one: most values are settled by it.
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
            # The x keeps line ends at the end of the value, which the substitution would drop.
            prelude += f"{name}=$(cat {shlex.quote(path)}; printf x); {name}=${{{name}%x}}; "
    return prelude


def _check_size(argv: list[str], env: Mapping[str, str]) -> None:
    total = sum(_size(part) + 9 for part in argv) + sum(_size(name) + _size(value) + 10 for name, value in env.items())
    if total <= ENVIRONMENT_BYTES_MAX:
        return
    largest = max(env, key=lambda name: _size(env[name]))
    raise Rejected(
        "WF705",
        f"arguments and environment of {total} bytes are more than a process can have; the largest variable is"
        f" {largest} with {_size(env[largest])} bytes",
    )


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogateescape"))


def write(path: str, text: str) -> None:
    """A file for the step alone, with this content. Raises `OSError`."""
    content = text.encode("utf-8", "surrogateescape")
    # Written over and cut: emptying a file first takes a file system twenty times as long.
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with open(fd, "wb") as file:
        file.write(content)
        file.truncate(len(content))
