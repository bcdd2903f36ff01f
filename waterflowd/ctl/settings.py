"""The daemon's address and the API token: `--server`, `WATERFLOW_SERVER`, the current context, then the unix socket."""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from waterflowd.ctl.failures import USAGE, Failure

#: How long a command waits for a daemon that is just starting.
WAIT_S = 5.0
DEFAULT_SERVER = "unix:/run/waterflow/waterflowd.sock"


@dataclass(frozen=True)
class Settings:
    """How to reach the daemon."""

    #: `http://host:port`, `https://...` or `unix:/path`.
    server: str
    token: str | None
    #: How long to wait for a daemon that is just starting.
    wait_s: float = WAIT_S

    @property
    def socket(self) -> str | None:
        """The path of the unix socket; None if the server is an HTTP address."""
        if not self.server.startswith("unix:"):
            return None
        return "/" + self.server.removeprefix("unix:").lstrip("/")


def configuration_path() -> Path:
    """Return the path of the file with the contexts."""
    folder = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    return Path(folder) / "waterflow" / "config.toml"


def load(server: str | None, wait_s: float = WAIT_S) -> Settings:
    """Return the effective settings; `server` is the value from the command line or the environment."""
    token = os.environ.get("WATERFLOW_TOKEN") or None
    if server:
        return Settings(_checked(server), token, wait_s)
    context = _context(configuration_path())
    address = context.get("server") or DEFAULT_SERVER
    if token is None:
        token = context.get("token") or _file_text(context.get("token-file"))
    return Settings(_checked(address), token, wait_s)


def _checked(server: str) -> str:
    if server.startswith(("http://", "https://", "unix:")):
        return server.rstrip("/") if server.startswith("http") else server
    if server.startswith("/"):
        return f"unix:{server}"
    if "://" not in server and server.rpartition(":")[2].isdecimal():
        return f"http://{server}"
    raise Failure(USAGE, f"invalid server address {server!r}", "waterflowctl --server http://localhost:8080 status")


def _context(path: Path) -> dict[str, Any]:
    """Return the current context of the configuration; empty if there is none."""
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise Failure(USAGE, f"cannot read {path}: {error}", f"edit {path}") from None
    name = content.get("context")
    if name is None:
        return {}
    _check_mode(path, content)
    found = content.get("contexts", {}).get(name)
    if not isinstance(found, dict):
        raise Failure(USAGE, f'{path} has no context "{name}"', f"edit {path}")
    return found


def _check_mode(path: Path, content: dict[str, Any]) -> None:
    """Refuse a file with a token that others can read."""
    contexts = content.get("contexts", {})
    has_token = isinstance(contexts, dict) and any(
        isinstance(each, dict) and "token" in each for each in contexts.values()
    )
    if has_token and path.stat().st_mode & 0o077:
        raise Failure(USAGE, f"{path} contains a token, and other users can read it", f"chmod 600 {path}")


def _file_text(path: object) -> str | None:
    if not isinstance(path, str):
        return None
    try:
        return Path(path).expanduser().read_text("utf-8").strip()
    except OSError as error:
        raise Failure(USAGE, f"cannot read the token file: {error}", f"ls -l {path}") from None
