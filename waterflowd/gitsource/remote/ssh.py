"""Fetching over ssh: OpenSSH without prompts, without trusting new hosts, and without reading its configuration.

Rules of this file: only files that the daemon's configuration names are read; host, user and path were checked with the URL.
The standard error of ssh is written to a file, from which the error message is made.
"""

from __future__ import annotations

import re
import subprocess
from contextlib import suppress
from typing import IO

from dulwich.client import SSHGitClient, SSHVendor, SubprocessWrapper

from waterflow_agent.display import escape_for_display
from waterflowd.gitsource.remote.fetch_errors import FetchError, no_access, no_repository, unreachable
from waterflowd.gitsource.remote.fetch_protocol import RemoteCredentials
from waterflowd.gitsource.urls import RemoteUrl
from waterflowd.reconcile import codes

_CONNECT_S = 20
_STDERR_BYTES_MAX = 64 << 10
_CLOSE_S = 2.0
_OFFERED = re.compile(r"Server host key: (\S+) (SHA256:[A-Za-z0-9+/=]+)")
_KNOWN = re.compile(r"^\S+ (\S+) (SHA256:[A-Za-z0-9+/=]+)", re.MULTILINE)
#: What ssh itself prints at this level, besides errors.
_OWN_LINES = ("debug", "Transferred: ", "Bytes per second: ")
_KNOWN_LINE = re.compile(r"found: line (\d+)")


def arguments(url: RemoteUrl, credentials: RemoteCredentials) -> list[str]:
    """The command line of ssh, without the remote command."""
    options = {
        "StrictHostKeyChecking": "yes",
        "BatchMode": "yes",
        "IdentitiesOnly": "yes",
        "IdentityFile": _quoted(credentials.ssh_key_file),
        "IdentityAgent": "none",
        "UserKnownHostsFile": _quoted(credentials.known_hosts_file),
        "GlobalKnownHostsFile": "none",
        "UpdateHostKeys": "no",
        "CheckHostIP": "no",
        "VerifyHostKeyDNS": "no",
        "PreferredAuthentications": "publickey",
        "ClearAllForwardings": "yes",
        "ControlPath": "none",
        "PermitLocalCommand": "no",
        "ConnectTimeout": str(_CONNECT_S),
        "ServerAliveInterval": "20",
        # Only this level prints the fingerprint of an unknown host key.
        "LogLevel": "DEBUG1",
        "SetEnv": "GIT_PROTOCOL=version=2",
    }
    # `-F none`: neither the user's nor the system's configuration.
    line = ["ssh", "-F", "none", "-T", "-x", "-p", str(url.port)]
    for name, value in options.items():
        line += ["-o", f"{name}={value}"]
    if url.user:
        line += ["-l", url.user]
    return [*line, "--", url.host]


class OpenSsh(SSHVendor):
    """Starts OpenSSH for dulwich."""

    def __init__(self, url: RemoteUrl, credentials: RemoteCredentials, stderr: IO[bytes]) -> None:
        self._line = arguments(url, credentials)
        self._stderr = stderr

    def run_command(self, host: str, command: bytes, *_: object, **__: object) -> SubprocessWrapper:
        """Runs the remote command; host and options were fixed before."""
        try:
            process = subprocess.Popen(
                [*self._line, command],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
            )
        except FileNotFoundError as error:
            raise not_installed() from error
        return _Connection(process)


class _Connection(SubprocessWrapper):
    """An ssh process that is killed soon after its pipes are closed."""

    def can_read(self) -> bool:
        """Always False, so that a request is written as a whole; see `fetch_child`."""
        return False

    def close(self, timeout: int | None = None) -> None:
        """Closes the pipes and ends the process."""
        for pipe in (self.proc.stdin, self.proc.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        with suppress(subprocess.TimeoutExpired):
            self.proc.wait(_CLOSE_S)
            return
        self.proc.kill()
        self.proc.wait()


def not_installed() -> FetchError:
    """The error for a machine without OpenSSH."""
    return no_access("ssh is not installed on this machine; install the OpenSSH client")


def client(url: RemoteUrl, credentials: RemoteCredentials, stderr: IO[bytes]) -> SSHGitClient:
    """Dulwich's client over OpenSSH, whose standard error is written to `stderr`."""
    return SSHGitClient(url.host, port=url.port, username=url.user or None, vendor=OpenSsh(url, credentials, stderr))


def error_from(url: RemoteUrl, credentials: RemoteCredentials, stderr: IO[bytes]) -> FetchError:
    """The error, from the standard error of ssh."""
    stderr.seek(0)
    text = stderr.read(_STDERR_BYTES_MAX).decode("utf-8", "replace")
    # After authentication the remote's own messages are in the text too.
    is_authenticated = "\ndebug1: Authentication succeeded" in text or "\nAuthenticated to " in text
    if "Host key verification failed" in text and not is_authenticated:
        return _host_key(url, credentials, text)
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith(_OWN_LINES)]
    last = escape_for_display(lines[-1]) if lines else "it closed the connection without a message"
    if "Permission denied" in text and not is_authenticated:
        who = f"{url.user}@{url.authority}" if url.user else url.authority
        return no_access(
            f"{who} does not accept the key in ssh-key-file {escape_for_display(credentials.ssh_key_file)}: {last}"
        )
    if is_authenticated:
        return no_repository(f"{url.authority} has no accessible repository at {escape_for_display(url.path)}: {last}")
    return unreachable(f"cannot reach {url.authority} by ssh: {last}")


def _host_key(url: RemoteUrl, credentials: RemoteCredentials, text: str) -> FetchError:
    offered = _OFFERED.search(text)
    key = f"{offered[1]} {offered[2]}" if offered else "a key that ssh did not print"
    name = url.host if url.port == 22 else f"[{url.host}]:{url.port}"
    file = escape_for_display(credentials.known_hosts_file, 100)
    known, lines = _known(name, credentials.known_hosts_file)
    if known:
        message = (
            f"the host key of {url.authority} has changed: offered {key}, known {known} ({file} line {lines}). "
            "If its owner confirms the new fingerprint, replace the line; otherwise the connection may be intercepted"
        )
    else:
        message = (
            f"the host key of {url.authority} is unknown: offered {key}, none in {file}. Verify the fingerprint with the "
            f"host's owner, then run: ssh-keyscan -p {url.port} {url.host} >> {file}"
        )
    return FetchError(codes.HOST_KEY, message)


def _known(name: str, file: str) -> tuple[str, str]:
    """Fingerprints of the host's known keys, and their line numbers; hashed names are found too."""
    with suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(
            ["ssh-keygen", "-l", "-F", name, "-f", file], capture_output=True, text=True, timeout=10, check=False
        )
        keys = ", ".join(f"{kind} {fingerprint}" for kind, fingerprint in _KNOWN.findall(done.stdout))
        return escape_for_display(keys), ", ".join(_KNOWN_LINE.findall(done.stdout)[:3])
    return "", ""


def _quoted(path: str) -> str:
    """A path quoted for ssh's options, which split at blanks and expand `%`, quotes and `~`."""
    escaped = path.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'
