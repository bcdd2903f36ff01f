"""The files in which a script returns outputs, environment and a summary: created before it starts, read after it has ended.

The summary is any text, meant to be Markdown. It never fails a step: what cannot be read of it is replaced by a note. The other
files are parsed. Such a file is a list of entries: `name=value` on one line, or

    name<<DELIMITER
    any lines
    DELIMITER

whichever of `=` and `<<` comes first. Empty lines are skipped; the last value of a name wins.

The files are not trusted. Only regular files are read, never links, pipes or devices, and their total size is limited. Invalid
UTF-8 or an invalid entry fails the step; the reason has the file and the line, but not the content, which may be a secret.
Variables that would change how programs of later steps are found or loaded are ignored: a directory of programs is added to
`PATH` by a line of the file for it.
"""

from __future__ import annotations

import os
import re
import stat

import msgspec

from waterflow_agent.errors import Rejected
from waterflow_agent.wire import messages

_MAKE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
#: The names of these files.
RETURNED = ("output", "env", "path", "summary")
#: A generous limit, so that parsing does not block the agent.
NAMES_MAX = 5_000
#: More than the longest part of a secret that masking looks for.
_MARGIN_BYTES = 1_024

_OUTPUT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,127}")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
#: Variables that control the loader, the shell, interpreters or Git, and those of Waterflow.
_DENIED = re.compile(
    r"PATH|IFS|ENV|BASH_ENV|SHELLOPTS|BASHOPTS|PS4|PROMPT_COMMAND|NODE_OPTIONS|PERL5OPT|PERL5LIB|RUBYOPT|JAVA_TOOL_OPTIONS"
    r"|LD_.*|PYTHON.*|GIT_.*|WF_.*|WATERFLOW_.*|GITHUB_.*"
)


class StepFiles(msgspec.Struct, frozen=True, kw_only=True):
    """The paths of the files of one attempt."""

    output: str
    env: str
    path: str
    summary: str


class StepFileContents(msgspec.Struct, frozen=True, kw_only=True):
    """What a script returned; `denied` are variables in `WATERFLOW_ENV` that were ignored."""

    outputs: dict[str, str]
    env: dict[str, str]
    denied: list[str]
    #: Directories for `PATH`, in the order in which they were added.
    directories: list[str]
    summary: Summary


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """A summary, or its beginning, and the size of all of it.

    The beginning is longer than what is kept: secrets must be masked before it is cut, so that none is cut in half.
    """

    text: str = ""
    bytes_total: int = 0
    is_whole: bool = True

    def kept(self) -> str:
        """Return what is kept of the summary, in whole lines where possible, with a note if it is not all."""
        content = self.text.encode("utf-8", "replace")
        if self.is_whole and len(content) <= messages.SUMMARY_BYTES_MAX:
            return self.text
        # The end of what was read may be the beginning of a secret.
        end = min(messages.SUMMARY_BYTES_MAX, len(content) if self.is_whole else len(content) - _MARGIN_BYTES)
        kept = content[: max(end, 0)]
        line_end = kept.rfind(b"\n")
        if line_end > 0:
            kept = kept[:line_end]
        note = f"*(cut: of {self.bytes_total:,} bytes, at most {messages.SUMMARY_BYTES_MAX:,} are kept)*"
        return f"{kept.decode('utf-8', 'ignore')}\n\n{note}\n"


def locate(directory: str) -> StepFiles:
    """Return the paths of the files in the directory of an attempt."""
    return StepFiles(
        output=f"{directory}/output",
        env=f"{directory}/env",
        path=f"{directory}/path",
        summary=f"{directory}/summary",
    )


def create(directory: str) -> StepFiles:
    """Create the directory and empty files, unless they exist. Raises `OSError`."""
    files = locate(directory)
    for path in (files.output, files.env, files.path, files.summary):
        try:
            is_empty = os.lstat(path).st_size == 0
        except FileNotFoundError:
            is_empty = False
            os.makedirs(directory, mode=0o700, exist_ok=True)
        if not is_empty:
            os.close(os.open(path, _MAKE, 0o600))
    return files


def collect(files: StepFiles) -> StepFileContents:
    """Parse what the script wrote. Raises `Rejected` WF704 that names the file and the line."""
    output = _read(files.output, "WATERFLOW_OUTPUT", messages.OUTPUTS_BYTES_MAX)
    env = _read(files.env, "WATERFLOW_ENV", messages.OUTPUTS_BYTES_MAX - len(output))
    path = _read(files.path, "WATERFLOW_PATH", messages.OUTPUTS_BYTES_MAX - len(output) - len(env))
    variables = _parse(env, "WATERFLOW_ENV", _ENV_NAME)
    denied = [name for name in variables if is_denied(name)]
    return StepFileContents(
        outputs=_parse(output, "WATERFLOW_OUTPUT", _OUTPUT_NAME),
        env={name: value for name, value in variables.items() if name not in denied},
        denied=denied,
        directories=_directories(path, "WATERFLOW_PATH"),
        summary=summary(files),
    )


def summary(files: StepFiles) -> Summary:
    """Return the summary that the script wrote; if it cannot be read, a note with the reason."""
    try:
        content, size = _read_beginning(
            files.summary, "WATERFLOW_SUMMARY", messages.SUMMARY_BYTES_MAX + 2 * _MARGIN_BYTES
        )
    except Rejected as error:
        return Summary(text=f"*({error.text})*\n")
    text = content.decode("utf-8", "replace").replace("\0", "\ufffd")
    return Summary(text=text, bytes_total=max(size, len(content)), is_whole=size <= len(content))


def is_denied(name: str) -> bool:
    """Return whether a script may not set this variable for later steps."""
    return _DENIED.fullmatch(name) is not None


def _read(path: str, label: str, bytes_max: int) -> bytes:
    # One byte more than allowed, because a process may still be writing.
    content, size = _read_beginning(path, label, bytes_max + 1)
    if max(len(content), size) > bytes_max:
        raise _too_large(label)
    return content


def _read_beginning(path: str, label: str, bytes_max: int) -> tuple[bytes, int]:
    """Return the beginning of a file, and the size of all of it."""
    try:
        if _is_empty(path):
            return b"", 0
        # Without O_NONBLOCK, opening a pipe would block the agent.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except FileNotFoundError:
        return b"", 0
    except OSError as error:
        raise Rejected("WF704", f"cannot read {label} (a symbolic link?): {error.strerror}") from error
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise Rejected("WF704", f"{label} is no longer a regular file")
        return (os.read(fd, bytes_max) if found.st_size else b""), found.st_size
    finally:
        os.close(fd)


def _is_empty(path: str) -> bool:
    found = os.lstat(path)
    return stat.S_ISREG(found.st_mode) and found.st_size == 0


def _too_large(label: str) -> Rejected:
    return Rejected(
        "WF704",
        f"{label} is too large: WATERFLOW_OUTPUT, _ENV and _PATH are limited to {messages.OUTPUTS_BYTES_MAX} bytes in total",
    )


def _lines(content: bytes, label: str) -> list[str]:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        broken = content.count(b"\n", 0, error.start) + 1
        raise Rejected("WF704", f"{label} line {broken}: invalid UTF-8") from error
    # Not splitlines, which splits at more characters.
    return text.removesuffix("\n").split("\n")


def _directories(content: bytes, label: str) -> list[str]:
    """The directories in the file: one on each line, absolute, without duplicates."""
    if not content:
        return []
    found: dict[str, None] = {}
    for number, line in enumerate(_lines(content, label), 1):
        directory = line.removesuffix("\r")
        if directory and (not directory.startswith("/") or ":" in directory or "\0" in directory):
            raise Rejected(
                "WF704", f"{label} line {number}: expected the absolute path of a directory, without a colon"
            )
        if directory:
            found.pop(directory, None)
            found[directory] = None
        if len(found) > NAMES_MAX:
            raise Rejected("WF704", f"{label} line {number}: more than {NAMES_MAX} directories")
    return list(found)


def _parse(content: bytes, label: str, name_pattern: re.Pattern[str]) -> dict[str, str]:
    if not content:
        return {}
    lines = _lines(content, label)
    values: dict[str, str] = {}
    position = 0
    while position < len(lines):
        number, line = position + 1, lines[position].removesuffix("\r")
        position += 1
        if not line:
            continue
        found = re.match(r"([^=<]*)(=|<<)(.*)", line, re.DOTALL)
        if found is None or not name_pattern.fullmatch(found.group(1)):
            raise Rejected("WF704", f"{label} line {number}: expected name=value or name<<DELIMITER")
        name, separator, value = found.group(1), found.group(2), found.group(3)
        if separator == "<<":
            value, position = _block(lines, position, value, f"{label} line {number}")
        if "\0" in value:
            raise Rejected("WF704", f"{label} line {number}: the value of {name} contains a NUL byte")
        values[name] = value
        if len(values) > NAMES_MAX:
            raise Rejected("WF704", f"{label} line {number}: more than {NAMES_MAX} names")
    return values


def _block(lines: list[str], position: int, delimiter: str, location: str) -> tuple[str, int]:
    if not delimiter:
        raise Rejected("WF704", f"{location}: missing delimiter after <<")
    for end in range(position, len(lines)):
        if lines[end].removesuffix("\r") == delimiter:
            return "\n".join(lines[position:end]), end + 1
    raise Rejected("WF704", f"{location}: the closing delimiter is missing")
