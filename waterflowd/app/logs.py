"""The daemon's own log, on standard error: lines for people, or a JSON object a line for programs.

Rules of this file:

- What a line is about stands in fields beside the sentence: `run`, `workflow`, `repository`, `job`, `step`, `attempt`, `agent`,
  and what else is given as `extra` to a call of the standard library's loggers. So it can be searched for, in either format.
- Texts come from strangers: whatever would begin a new line, move a cursor or turn the direction of text is escaped, and
  what looks like one of our own tokens is cut. A traceback's lines are indented, so none of them looks like an entry.
- Where the service manager's journal reads, it is told the level in its own way (`<4>`), and notes the time by itself: a line
  of text then has no time of its own. A JSON object always has one, because objects travel on.
- The standard library is enough: one formatter is shorter than the set-up of a library for it, and costs no import.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
from datetime import UTC, datetime
from typing import Any, TextIO

from waterflowd.rates import TokenBucket

#: What every record has; all else of it was given as `extra`.
_OWN = frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None))) | {"message", "asctime", "taskName"}
#: These first, in this order; the others follow by name.
_ORDER = ("run", "workflow", "repository", "job", "step", "attempt", "agent")
#: Control characters, separators that count as new lines, marks that turn the direction of text, halves of characters.
_HARMFUL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
#: API tokens (`wf_...`) and join tokens (`wfj1....`); the beginning tells which one it was.
_TOKEN = re.compile(r"\b(wf_|wfj1\.)([A-Za-z0-9_-]{4})[A-Za-z0-9_-]{12,}")
_BARE = re.compile(r"[A-Za-z0-9_.:/@+-]+")
_TEXT_LENGTH_MAX = 8_192
#: As syslog numbers them, for the journal.
_SYSLOG = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


def configure(level: str, style: str = "text") -> None:
    """Sends what is logged to standard error from now on; `style` is `text` or `json`."""
    handler = logging.StreamHandler(sys.stderr)
    is_journal = goes_to_journal(sys.stderr)
    handler.setFormatter(
        JsonFormatter(is_journal=is_journal) if style == "json" else TextFormatter(is_journal=is_journal)
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("watchfiles").setLevel(logging.WARNING)
    logging.getLogger("uvicorn.error").filters[:] = [Bounded()]
    # They tell of every request.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("httpcore").setLevel(logging.WARNING)
    # Its debug lines tell of every wait of the event loop.
    logging.getLogger("asyncio").setLevel(max(root.level, logging.INFO))


class Bounded(logging.Filter):
    """Lets a burst of lines through and then one a second: what strangers send to a port makes a line each."""

    def __init__(self, per_s: float = 1.0, burst: float = 20) -> None:
        super().__init__()
        self._bucket = TokenBucket(per_s, burst, _monotonic_ms())

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written; errors always are."""
        return record.levelno >= logging.ERROR or self._bucket.take(_monotonic_ms())


def _monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def goes_to_journal(stream: TextIO) -> bool:
    """Whether the service manager's journal reads the stream: it names the device and inode that it has opened."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return device == str(found.st_dev) and inode == str(found.st_ino)


class Formatter(logging.Formatter):
    """What both formats share: fields, harmless texts, the journal's level."""

    def __init__(self, *, is_journal: bool = False) -> None:
        super().__init__()
        self._is_journal = is_journal

    def format(self, record: logging.LogRecord) -> str:
        """One entry."""
        prefix = f"<{_SYSLOG.get(record.levelno, 6)}>" if self._is_journal else ""
        return prefix + self._entry(record)

    def _entry(self, record: logging.LogRecord) -> str:
        raise AssertionError("each format has its own")

    def _traceback(self, record: logging.LogRecord) -> list[str]:
        if not record.exc_info or record.exc_info[0] is None:
            return []
        return [harmless(line) for line in self.formatException(record.exc_info).split("\n")]


class TextFormatter(Formatter):
    """`TIME LEVEL logger: sentence run=... job=...`."""

    def _entry(self, record: logging.LogRecord) -> str:
        when = "" if self._is_journal else f"{_time_text(record)} "
        level = record.levelname.lower()
        pairs = "".join(f" {name}={_value_text(value)}" for name, value in _fields(record).items())
        lines = [f"{when}{level:<7} {record.name}: {harmless(record.getMessage())}{pairs}", *self._traceback(record)]
        return "\n    | ".join(lines)


class JsonFormatter(Formatter):
    """One JSON object on one line, in ASCII."""

    def _entry(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": _time_text(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": harmless(record.getMessage()),
        }
        entry.update((name, value) for name, value in _fields(record).items() if name not in entry)
        traceback = self._traceback(record)
        if traceback:
            entry["exception"] = "\n".join(traceback)
        return json.dumps(entry, ensure_ascii=True, separators=(",", ":"))


def harmless(text: str) -> str:
    """`text` on one bounded line, with control characters escaped and without tokens."""
    if len(text) > _TEXT_LENGTH_MAX:
        text = text[:_TEXT_LENGTH_MAX] + f"... ({len(text)} characters)"
    return _TOKEN.sub(r"\1\2...", _HARMFUL.sub(_escape, text))


def _escape(found: re.Match[str]) -> str:
    number = ord(found[0])
    return {"\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(found[0]) or (
        f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"
    )


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """What was given beside the sentence; None means that there is none."""
    given = {name: _plain(value) for name, value in vars(record).items() if name not in _OWN and value is not None}
    first = {name: given.pop(name) for name in _ORDER if name in given}
    return first | dict(sorted(given.items()))


def _plain(value: Any) -> str | int | float | bool:
    return value if isinstance(value, (bool, int, float)) else harmless(str(value))


def _value_text(value: str | int | float | bool) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if _BARE.fullmatch(text) else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _time_text(record: logging.LogRecord) -> str:
    instant = datetime.fromtimestamp(record.created, UTC)
    return instant.isoformat(timespec="milliseconds").replace("+00:00", "Z")
