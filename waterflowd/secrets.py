"""Secrets: where the values come from that workflows name and never hold.

Rules of this file: there is no store of our own. A value is looked up when a task leaves for its agent, and kept nowhere; the
log holds references alone. The environment is asked first, then the file, which is read again when it has changed. A file that
others can read is no source: it is refused with a sentence, and so is one that cannot be read.
"""

from __future__ import annotations

import logging
import os
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path

from waterflowd.errors import Rejected

logger = logging.getLogger("waterflow.secrets")

#: A file of secrets is a page or two.
FILE_BYTES_MAX = 1 << 20


class Secrets:
    """The sources in their order. Called on the loop's thread; reading the file takes less than a millisecond."""

    def __init__(self, env_prefix: str, file: Path | None, environment: Mapping[str, str] = os.environ) -> None:
        self._prefix = env_prefix
        self._file = file
        self._environment = environment
        self._read: tuple[tuple[int, int, int], dict[str, str]] | None = None
        self._told = ""

    def get(self, name: str) -> str | None:
        """The secret's value; None when no source has it. Names are the same in any case, `-` and `_` are one."""
        wanted = _plain(name)
        value = self._environment.get(self._prefix + wanted.upper()) if self._prefix else None
        return value if value is not None else self._of_file().get(wanted)

    def check(self) -> None:
        """Raises `Rejected` WF622 when the file cannot be used."""
        if self._file is not None:
            _load(self._file)

    def _of_file(self) -> dict[str, str]:
        if self._file is None:
            return {}
        try:
            found = self._file.stat()
            version = (found.st_mtime_ns, found.st_size, found.st_ino)
            if self._read is None or self._read[0] != version:
                self._read = (version, _load(self._file))
                self._told = ""
        except OSError as error:
            self._tell(f"cannot read {self._file}: {error.strerror} [WF622]")
            return {}
        except Rejected as error:
            self._tell(str(error))
            return {}
        return self._read[1]

    def _tell(self, text: str) -> None:
        """Once for each fault, not for each task."""
        self._read = None
        if text != self._told:
            self._told = text
            logger.error("%s", text)


def _plain(name: str) -> str:
    return name.replace("-", "_").lower()


def _load(file: Path) -> dict[str, str]:
    try:
        found = file.stat()
        if stat.S_IMODE(found.st_mode) & 0o077:
            raise Rejected("WF622", f"{file} holds secrets and others can read it; next: chmod 600 {file}")
        if found.st_size > FILE_BYTES_MAX:
            raise Rejected("WF622", f"{file} has {found.st_size} bytes; a file of secrets has {FILE_BYTES_MAX} at most")
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise Rejected("WF622", f"cannot read {file}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        # The message of the parser may quote the line, and with it a secret: its place is enough.
        place = str(error).rpartition("(")[2].rstrip(")")
        raise Rejected("WF622", f'{file} is not TOML ({place}); it holds lines of name = "value"') from None
    wrong = [name for name, value in content.items() if not isinstance(value, str)]
    if wrong:
        raise Rejected("WF622", f'{file}: the value of {wrong[0]} is no text; write {wrong[0]} = "value"')
    return {_plain(name): value for name, value in content.items()}
