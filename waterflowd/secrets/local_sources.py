"""The sources on the daemon's host: its environment, its systemd credentials, a file.

Rules of this file: a value is looked up when it is wanted, and kept nowhere. The order is environment, systemd credentials,
file; the first that has the name gives the value. The file is read again when it has changed. A file that others can read is no
source: it is refused with a sentence, and so is one that cannot be read, and a value that no step could have. A source that
fails is as good as one that has no such name.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from waterflow_agent.errors import Rejected
from waterflowd.secrets import values

logger = logging.getLogger("waterflow.secrets")

#: A file of secrets is a page or two.
FILE_BYTES_MAX = 1 << 20


class LocalSources:
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
        wanted = values.normalize_name(name)
        value = self._environment.get(self._prefix + wanted.upper()) if self._prefix else None
        if value is None:
            value = self._of_credentials(wanted)
        if value is None:
            value = self._of_file().get(wanted)
        if value is not None and (fault := values.problem(value)):
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
                    name = values.normalize_name(entry.removeprefix(self._credential_prefix))
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


def _text_of(file: Path) -> str:
    """The text of a file that is about as large as a value, or too large to be one."""
    with file.open("rb") as opened:
        return opened.read(values.BYTES_MAX + 2).decode("utf-8")


def _load(file: Path) -> dict[str, str]:
    try:
        found = file.stat()
        if stat.S_IMODE(found.st_mode) & 0o077:
            raise Rejected("WF622", f"{file} holds secrets and others can read it; next: chmod 600 {file}")
        if found.st_size > FILE_BYTES_MAX:
            raise Rejected("WF622", f"{file} has {found.st_size} bytes; a file of secrets has {FILE_BYTES_MAX} at most")
        content = file.read_bytes()
    except OSError as error:
        raise Rejected("WF622", f"cannot read {file}: {error.strerror}") from error
    return values.parse(content, str(file))
