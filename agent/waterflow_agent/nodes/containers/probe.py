"""Asks the Docker engine for its version, as the user of a step: `python -m waterflow_agent.nodes.containers.probe`.

The agent runs this program again and again, so it imports little: the engine's API on a unix socket needs no library. Only an
engine at another kind of address is asked through the SDK. It prints the version, or the problem and returns 1.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import socket
import sys

#: Where the engine is unless `DOCKER_HOST` says otherwise.
DEFAULT_ADDRESS = "unix:///var/run/docker.sock"
UNIX = "unix://"
#: For a connection and an answer. An engine that is just starting keeps its clients waiting.
ANSWER_S_MAX = 20
#: More than an engine with many components says of itself.
_ANSWER_BYTES_MAX = 256 << 10
_VERSION_LENGTH_MAX = 64
_REQUEST = b"GET /version HTTP/1.0\r\nHost: docker\r\n\r\n"


class ProbeError(Exception):
    """Why containers cannot be started, one sentence."""


def main() -> int:
    """Print the version, or the problem. Returns the exit code."""
    try:
        version = engine_version(os.environ.get("DOCKER_HOST") or DEFAULT_ADDRESS)
        if shutil.which("docker") is None:
            raise ProbeError("the program docker is not installed; install the Docker client")
    except ProbeError as error:
        print(" ".join(str(error).split()))
        return 1
    print(version)
    return 0


def engine_version(address: str) -> str:
    """Return the version of the engine at this address. Raises `ProbeError`."""
    answer = _ask_socket(address) if address.startswith(UNIX) else _ask_sdk(address)
    version = answer.get("Version") if isinstance(answer, dict) else None
    if not isinstance(version, str) or not version.isprintable():
        raise ProbeError(f"what answers at {address} is not a Docker engine")
    return version[:_VERSION_LENGTH_MAX]


def no_engine(address: str) -> str:
    """Return the problem of a server without an engine."""
    return f"no Docker engine at {address}"


def _ask_socket(address: str) -> object:
    path = address.removeprefix(UNIX)
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(ANSWER_S_MAX)
            connection.connect(path)
            connection.sendall(_REQUEST)
            answer = b""
            while len(answer) < _ANSWER_BYTES_MAX and (chunk := connection.recv(1 << 16)):
                answer += chunk
    except FileNotFoundError as error:
        raise ProbeError(no_engine(address)) from error
    except PermissionError as error:
        raise ProbeError(f"user {_user()} may not use {path}; add the user to the socket's group") from error
    except TimeoutError as error:
        raise ProbeError(f"the Docker engine at {address} has not answered within {ANSWER_S_MAX} s") from error
    except OSError as error:
        raise ProbeError(f"the Docker engine at {address} does not answer: {error.strerror or error}") from error
    if not answer:
        raise ProbeError(f"the Docker engine at {address} has closed the connection")
    head, _, body = answer.partition(b"\r\n\r\n")
    try:
        return json.loads(body) if head.split(b" ", 2)[1:2] == [b"200"] else None
    except ValueError:
        return None


def _ask_sdk(address: str) -> object:
    import docker
    from docker import errors
    from urllib3.exceptions import HTTPError

    try:
        client = docker.from_env(timeout=ANSWER_S_MAX)
        try:
            return client.version()
        finally:
            client.close()
    except (errors.DockerException, OSError, HTTPError) as error:
        raise ProbeError(f"the Docker engine at {address} does not answer: {error}") from error


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


if __name__ == "__main__":
    sys.exit(main())
