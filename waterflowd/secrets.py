"""Secrets: where the values come from that workflows name and never hold.

Rules of this file: there is no store of our own. A value is looked up when a task leaves for its agent, and kept nowhere; the
log holds references alone. The order is environment, systemd credentials, file; the first that has the name gives the value.
The file is read again when it has changed. A file that others can read is no source: it is refused with a sentence, and so is
one that cannot be read, and a value that no step could have. A source that fails is as good as one that has no such name.
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
#: Linux takes no variable of more than 128 KiB, and a value may stand in the midst of a text.
VALUE_BYTES_MAX = 64 << 10


class Secrets:
    """The sources in their order. Called on the loop's thread; reading the file takes less than a millisecond."""

    def __init__(
        self,
        env_prefix: str,
        file: Path | None,
        environment: Mapping[str, str] = os.environ,
        credential_prefix: str = "",
    ) -> None:
        self._prefix = env_prefix
        self._credential_prefix = credential_prefix
        self._file = file
        self._environment = environment
        self._read: tuple[tuple[int, int, int], dict[str, str]] | None = None
        #: Faults that were told, by source.
        self._told: dict[str, str] = {}

    def get(self, name: str) -> str | None:
        """The secret's value; None when no source has it. Names are the same in any case, `-` and `_` are one."""
        wanted = _plain(name)
        value = self._environment.get(self._prefix + wanted.upper()) if self._prefix else None
        if value is None:
            value = self._of_credentials(wanted)
        if value is None:
            value = self._of_file().get(wanted)
        if value is not None and (fault := _fault(value)):
            self._tell(wanted, f"the secret {name} {fault} [WF622]")
            return None
        return value

    def check(self) -> None:
        """Raises `Rejected` WF622 when the file cannot be used."""
        if self._file is not None:
            _load(self._file)

    def _of_credentials(self, wanted: str) -> str | None:
        """What systemd gave the daemon, in memory that nobody else reads; without the line's end that editors add."""
        directory = self._environment.get("CREDENTIALS_DIRECTORY", "")
        if not directory or not self._credential_prefix:
            return None
        try:
            for entry in os.listdir(directory):
                if entry.startswith(self._credential_prefix):
                    name = _plain(entry.removeprefix(self._credential_prefix))
                    if name == wanted:
                        return _text_of(Path(directory, entry)).removesuffix("\n")
        except (OSError, UnicodeDecodeError) as error:
            fault = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            self._tell("credentials", f"cannot read the credential of the secret {wanted}: {fault} [WF622]")
        return None

    def _of_file(self) -> dict[str, str]:
        if self._file is None:
            return {}
        try:
            found = self._file.stat()
            version = (found.st_mtime_ns, found.st_size, found.st_ino)
            if self._read is None or self._read[0] != version:
                self._read = (version, _load(self._file))
                self._told.pop("file", None)
        except OSError as error:
            self._tell("file", f"cannot read {self._file}: {error.strerror} [WF622]")
            self._read = None
            return {}
        except Rejected as error:
            self._tell("file", str(error))
            self._read = None
            return {}
        return self._read[1]

    def _tell(self, source: str, text: str) -> None:
        """Once for each fault, not for each task."""
        if self._told.get(source) != text:
            self._told[source] = text
            logger.error("%s", text)


def _plain(name: str) -> str:
    return name.replace("-", "_").lower()


def _fault(value: str) -> str:
    """What makes it impossible to give this to a step; empty for nothing."""
    if "\0" in value:
        return "has a NUL byte, which no environment can hold"
    try:
        size = len(value.encode("utf-8"))
    except UnicodeEncodeError:
        return "is not UTF-8"
    return f"has {size} bytes; {VALUE_BYTES_MAX} is the most" if size > VALUE_BYTES_MAX else ""


def _text_of(file: Path) -> str:
    """The text of a file that is about as large as a value, or too large to be one."""
    with file.open("rb") as opened:
        return opened.read(VALUE_BYTES_MAX + 2).decode("utf-8")


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
