"""The own log of the daemon and of the agent, on standard error: text for people, or one JSON object per line for programs.

Rules of this file:

- The subject of an entry is in fields beside the message: `run`, `workflow`, `repository`, `job`, `step`, `attempt`, `agent`,
  and everything else that is passed as `extra` to the standard library's loggers. So entries can be searched in both formats.
- Texts may come from strangers. Control characters and characters that change the direction of text are escaped, and our own
  tokens are shortened. The lines of a traceback are indented, so that none of them looks like an entry.
- When the stream is read by the systemd journal, the level is written as the journal expects it (`<4>`), and text lines have no
  time, because the journal adds one. JSON objects always have a time, because they may be forwarded.
- The standard library is sufficient: one formatter is shorter than the setup of a logging library.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

from waterflow_agent.attempts import AttemptId
from waterflow_agent.display import escape_for_display

#: Attributes of every record; all others were passed as `extra`.
_OWN = frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None))) | {"message", "asctime", "taskName"}
#: These fields come first, in this order; the others follow by name.
_ORDER = ("run", "workflow", "repository", "job", "step", "attempt", "agent")
#: API tokens (`wf_...`) and join tokens (`wfj1....`); the prefix that stays identifies the token.
_TOKEN = re.compile(r"\b(wf_|wfj1\.)([A-Za-z0-9_-]{4})[A-Za-z0-9_-]{12,}")
_BARE = re.compile(r"[A-Za-z0-9_.:/@+-]+")
_TEXT_LENGTH_MAX = 8_192
#: As syslog numbers them, for the journal.
_SYSLOG = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


def configure(level: str, style: str = "text") -> None:
    """Writes log entries to standard error from now on; `style` is `text` or `json`."""
    handler = logging.StreamHandler(sys.stderr)
    is_journal = goes_to_journal(sys.stderr)
    handler.setFormatter(
        JsonFormatter(is_journal=is_journal) if style == "json" else TextFormatter(is_journal=is_journal)
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # Its debug entries report every wait of the event loop.
    logging.getLogger("asyncio").setLevel(max(root.level, logging.INFO))


def subject(attempt: AttemptId) -> dict[str, Any]:
    """The fields of an entry about an attempt, for `extra`."""
    return {"run": attempt.run, "job": attempt.job, "step": attempt.step, "attempt": attempt.number}


def goes_to_journal(stream: TextIO) -> bool:
    """Whether the systemd journal reads the stream: JOURNAL_STREAM names its device and inode."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return device == str(found.st_dev) and inode == str(found.st_ino)


class Formatter(logging.Formatter):
    """Common to both formats: fields, escaping, and the level for the journal."""

    def __init__(self, *, is_journal: bool = False) -> None:
        super().__init__()
        self._is_journal = is_journal

    def format(self, record: logging.LogRecord) -> str:
        """One entry."""
        prefix = f"<{_SYSLOG.get(record.levelno, 6)}>" if self._is_journal else ""
        return prefix + self._entry(record)

    def _entry(self, record: logging.LogRecord) -> str:
        raise AssertionError("subclasses override this")

    def _traceback(self, record: logging.LogRecord) -> list[str]:
        if not record.exc_info or record.exc_info[0] is None:
            return []
        return [printable(line) for line in self.formatException(record.exc_info).split("\n")]


class TextFormatter(Formatter):
    """`TIME LEVEL logger: sentence run=... job=...`."""

    def _entry(self, record: logging.LogRecord) -> str:
        when = "" if self._is_journal else f"{_time_text(record)} "
        level = record.levelname.lower()
        pairs = "".join(f" {name}={_value_text(value)}" for name, value in _fields(record).items())
        lines = [f"{when}{level:<7} {record.name}: {printable(record.getMessage())}{pairs}", *self._traceback(record)]
        return "\n    | ".join(lines)


class JsonFormatter(Formatter):
    """One JSON object on one line, in ASCII."""

    def _entry(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": _time_text(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": printable(record.getMessage()),
        }
        entry.update((name, value) for name, value in _fields(record).items() if name not in entry)
        traceback = self._traceback(record)
        if traceback:
            entry["exception"] = "\n".join(traceback)
        return json.dumps(entry, ensure_ascii=True, separators=(",", ":"))


def printable(text: str) -> str:
    """The text on one line of limited length, with control characters escaped and tokens shortened."""
    redacted = _TOKEN.sub(r"\1\2...", escape_for_display(text, _TEXT_LENGTH_MAX))
    return redacted if len(text) <= _TEXT_LENGTH_MAX else f"{redacted} ({len(text)} characters)"


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """The fields beside the message; None means that a field is absent."""
    fields = {name: _plain(value) for name, value in vars(record).items() if name not in _OWN and value is not None}
    first = {name: fields.pop(name) for name in _ORDER if name in fields}
    return first | dict(sorted(fields.items()))


def _plain(value: Any) -> str | int | float | bool:
    return value if isinstance(value, (bool, int, float)) else printable(str(value))


def _value_text(value: str | int | float | bool) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if _BARE.fullmatch(text) else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _time_text(record: logging.LogRecord) -> str:
    instant = datetime.fromtimestamp(record.created, UTC)
    return instant.isoformat(timespec="milliseconds").replace("+00:00", "Z")
