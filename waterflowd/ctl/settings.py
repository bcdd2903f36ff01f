"""The daemon's address and the API token: `--server`, `WATERFLOW_SERVER`, the current context, then the unix socket."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import click
from click.core import ParameterSource

from waterflowd.ctl.contexts import Contexts, default_path
from waterflowd.ctl.failures import USAGE, Failure

#: How long a command waits for a daemon that is just starting.
WAIT_S = 5.0
#: How long an answer may take: longer than the interval of the API's heartbeats.
ANSWER_S = 60.0
DEFAULT_SERVER = "unix:/run/waterflow/waterflowd.sock"


@dataclass(frozen=True)
class Settings:
    """How to reach the daemon."""

    #: `http://host:port`, `https://...` or `unix:/path`.
    server: str
    token: str | None
    #: How long to wait for a daemon that is just starting.
    wait_s: float = WAIT_S
    #: How long an answer may take.
    answer_s: float = ANSWER_S

    @property
    def socket(self) -> str | None:
        """The path of the unix socket; None if the server is an HTTP address."""
        if not self.server.startswith("unix:"):
            return None
        return "/" + self.server.removeprefix("unix:").lstrip("/")


def load(server: str | None, wait_s: float = WAIT_S, context: str | None = None) -> Settings:
    """Return the effective settings. `server` and `context` are from the command line or the environment; `server` wins."""
    token = os.environ.get("WATERFLOW_TOKEN") or None
    if server:
        return Settings(checked(server), token, wait_s)
    contexts = Contexts(default_path())
    name = context or contexts.current
    chosen = contexts.get(name) if name is not None else {}
    address = chosen.get("server") or DEFAULT_SERVER
    if token is None:
        token = chosen.get("token") or _file_text(chosen.get("token-file"))
    return Settings(checked(address), token, wait_s)


def chosen(root: click.Context) -> tuple[str | None, str | None]:
    """Return `--server` and `--context`, or what the environment says; a context that is typed wins over WATERFLOW_SERVER."""
    server, context = root.params["server"], root.params["name"]
    if root.get_parameter_source("name") is ParameterSource.COMMANDLINE:
        server = None
    return server, context


def checked(server: str) -> str:
    """Return the address of a daemon in its full form; a `Failure` says what is wrong with it."""
    if server.startswith(("http://", "https://", "unix:")):
        return server.rstrip("/") if server.startswith("http") else server
    if server.startswith("/"):
        return f"unix:{server}"
    if "://" not in server and server.rpartition(":")[2].isdecimal():
        return f"http://{server}"
    raise Failure(USAGE, f"invalid server address {server!r}", "waterflowctl --server http://localhost:8080 status")


def _file_text(path: object) -> str | None:
    if not isinstance(path, str):
        return None
    try:
        return Path(path).expanduser().read_text("utf-8").strip()
    except OSError as error:
        raise Failure(USAGE, f"cannot read the token file: {error}", f"ls -l {path}") from None
