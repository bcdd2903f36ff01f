"""Removes the containers and networks of a job: `python -m waterflow_agent.nodes.containers.removal DIRECTORY`.

The agent runs this program as the user of the job's steps when a job has ended, and again after an error. A container may have
written files as root into the job's directory; a user that is not root gets them first, so that they can be deleted.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any

import docker
from docker import errors
from urllib3.exceptions import HTTPError

from waterflow_agent.nodes.containers import labels

CONNECTION_ERRORS = (OSError, HTTPError)
#: For a single call; removing a container waits for its processes.
_CALL_S_MAX = 60


def main(arguments: list[str]) -> int:
    """Remove what was started for the directory. Prints one line and returns 1 if something is left."""
    try:
        client = docker.from_env(timeout=_CALL_S_MAX)
        try:
            remove(client, labels.START, arguments[0])
        finally:
            client.close()
    except (errors.DockerException, *CONNECTION_ERRORS) as error:
        print(" ".join(str(error).split()))
        return 1
    return 0


def remove(client: docker.DockerClient, label: str, value: str) -> None:
    """Remove all containers with this label, their anonymous volumes, and then the networks. Raises the SDK's errors."""
    chosen = {"label": f"{label}={value}"}
    for container in client.containers.list(all=True, filters=chosen, ignore_removed=True):
        if os.geteuid() and container.labels.get(labels.ROLE) == labels.CONTAINER:
            give_files(container, os.geteuid(), os.getegid())
        with contextlib.suppress(errors.NotFound):
            container.remove(force=True, v=True)
    for network in client.networks.list(filters=chosen):
        with contextlib.suppress(errors.NotFound):
            network.remove()


def give_files(container: Any, uid: int, gid: int) -> None:
    """Give this user what the container has written into the job's directories, if that is possible.

    The directories themselves stay those of the agent, which could not move them otherwise.
    """
    start = container.labels.get(labels.START)
    places = [place for place in (container.labels.get(labels.JOB), start) if place]
    with contextlib.suppress(errors.DockerException, *CONNECTION_ERRORS):
        agent = os.stat(start)
        if container.status != "running":
            container.start()
        container.exec_run(["chown", "-hR", f"{uid}:{gid}", *places], user="0")
        container.exec_run(["chown", f"{agent.st_uid}:{agent.st_gid}", *places], user="0")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
