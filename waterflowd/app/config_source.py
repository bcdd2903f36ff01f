"""Where the daemon's configuration comes from, so that it can be read again."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from waterflowd.app import config
from waterflowd.app.config import Config


class ConfigSource:
    """The file, the options of the command line, and the environment of the process."""

    def __init__(
        self,
        file: Path | None = None,
        overrides: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._file = file
        self._overrides = overrides
        self._environment = environment

    @property
    def path(self) -> Path | None:
        """The file in use; None if there is none."""
        return config.file_in_use(self._file, self._environment)

    def load(self) -> Config:
        """The configuration as it is now. Raises `Rejected` WF620 with the place of the error."""
        return config.load(self._file, overrides=self._overrides, environment=self._environment)

    def place_of_repository(self, name: str) -> str:
        """Where the configuration has a repository, for people."""
        path = self.path
        try:
            text = path.read_text(encoding="utf-8") if path is not None else ""
            names = [item.get("name") for item in tomllib.loads(text).get("repositories", [])]
            return f"{path}:{config.line_of_item(text, 'repositories', names.index(name))}"
        except (OSError, ValueError, AttributeError, TypeError):
            # It was changed since the daemon read it, or the repository comes from the environment.
            return f"the configuration of the daemon ({path or 'its environment'})"
