"""The sources on the daemon's host: its environment, its systemd credentials, and a file.

Rules of this file: a value is looked up for each use and not kept. The order is environment, systemd credentials, file; the
first source with the name wins. The file is read again when it has changed. A file that other users can read is not used, nor
is a value that a step could not receive; the log says why. A source that fails counts as one that does not have the name.
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

#: Much larger than any real file of secrets.
FILE_BYTES_MAX = 1 << 20


class LocalSources:
    """The sources in their order. Called on the event loop's thread; reading the file takes less than a millisecond."""

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
        #: The last logged problem of each source.
        self._logged: dict[str, str] = {}

    def get(self, name: str) -> str | None:
        """The secret's value, or None if no source has it. Case does not matter, and `-` equals `_`."""
        key = values.normalize_name(name)
        value = self._environment.get(self._prefix + key.upper()) if self._prefix else None
        if value is None:
            value = self._from_credentials(key)
        if value is None:
            value = self._from_file().get(key)
        if value is not None and (problem := values.problem(value)):
            self._log_once(key, f"secret {name} {problem} [WF622]")
            return None
        return value

    def check(self) -> None:
        """Raises `Rejected` WF622 if the file cannot be used."""
        if self._file is not None:
            _load(self._file)

    def _from_credentials(self, key: str) -> str | None:
        """The systemd credential, without the trailing newline that editors add."""
        directory = self._environment.get("CREDENTIALS_DIRECTORY", "")
        if not directory or not self._credential_prefix:
            return None
        try:
            for entry in os.listdir(directory):
                if entry.startswith(self._credential_prefix):
                    name = values.normalize_name(entry.removeprefix(self._credential_prefix))
                    if name == key:
                        return _read_text(Path(directory, entry)).removesuffix("\n")
        except (OSError, UnicodeDecodeError) as error:
            problem = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            self._log_once("credentials", f"cannot read the credential of secret {key}: {problem} [WF622]")
        return None

    def _from_file(self) -> dict[str, str]:
        if self._file is None:
            return {}
        try:
            found = self._file.stat()
            version = (found.st_mtime_ns, found.st_size, found.st_ino)
            if self._read is None or self._read[0] != version:
                self._read = (version, _load(self._file))
                self._logged.pop("file", None)
        except OSError as error:
            self._log_once("file", f"cannot read {self._file}: {error.strerror} [WF622]")
            self._read = None
            return {}
        except Rejected as error:
            self._log_once("file", str(error))
            self._read = None
            return {}
        return self._read[1]

    def _log_once(self, source: str, text: str) -> None:
        """Logs each problem once, not for each task."""
        if self._logged.get(source) != text:
            self._logged[source] = text
            logger.error("%s", text)


def _read_text(file: Path) -> str:
    """The file's text, up to slightly more than a value may have."""
    with file.open("rb") as opened:
        return opened.read(values.BYTES_MAX + 2).decode("utf-8")


def _load(file: Path) -> dict[str, str]:
    try:
        found = file.stat()
        if stat.S_IMODE(found.st_mode) & 0o077:
            raise Rejected("WF622", f"{file} holds secrets, but other users can read it; next: chmod 600 {file}")
        if found.st_size > FILE_BYTES_MAX:
            raise Rejected(
                "WF622", f"{file} has {found.st_size:,} bytes; the maximum for a secrets file is {FILE_BYTES_MAX:,}"
            )
        content = file.read_bytes()
    except OSError as error:
        raise Rejected("WF622", f"cannot read {file}: {error.strerror}") from error
    return values.parse(content, str(file))
