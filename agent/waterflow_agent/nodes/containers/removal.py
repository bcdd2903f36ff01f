"""Removes the containers and networks of a job: `python -m waterflow_agent.nodes.containers.removal DIRECTORY [MOVED ...]`.

The agent runs this program as the user of the job's steps when a job has ended, and again after an error. A container may have
written files as root into the job's directories; a user that is not root gets them first, so that they can be deleted. By then
the agent has moved most of them: `MOVED` is where they may be. A container that runs still sees them, whatever their names are.
One that has ended, as after a reboot, could not even be started again, so new containers of its image do the work.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import Any

import docker
from docker import errors, types
from urllib3.exceptions import HTTPError

from waterflow_agent.nodes.containers import labels

CONNECTION_ERRORS = (OSError, HTTPError)
#: For a single call; removing a container waits for its processes.
_CALL_S_MAX = 60
#: The directory itself stays that of the agent, which could not move it otherwise.
_GIVE = 'chown -hR "$1" "$3"; chown "$2" "$3"'


def main(arguments: list[str]) -> int:
    """Remove what was started for the directory. Prints one line and returns 1 if something is left."""
    try:
        client = docker.from_env(timeout=_CALL_S_MAX)
        try:
            remove(client, labels.START, arguments[0], arguments[1:])
        finally:
            client.close()
    except (errors.DockerException, *CONNECTION_ERRORS) as error:
        print(" ".join(str(error).split()))
        return 1
    return 0


def remove(client: docker.DockerClient, label: str, value: str, moved: Sequence[str] = ()) -> None:
    """Remove all containers with this label, their anonymous volumes, and then the networks. Raises the SDK's errors."""
    chosen = {"label": f"{label}={value}"}
    for container in client.containers.list(all=True, filters=chosen, ignore_removed=True):
        if os.geteuid() and container.labels.get(labels.ROLE) == labels.CONTAINER:
            give_files(container, os.geteuid(), os.getegid(), moved)
        with contextlib.suppress(errors.NotFound):
            container.remove(force=True, v=True)
    for network in client.networks.list(filters=chosen):
        with contextlib.suppress(errors.NotFound):
            network.remove()


def give_files(container: Any, uid: int, gid: int, moved: Sequence[str] = ()) -> None:
    """Give this user what the container has written into the job's directories, if that is possible."""
    places = [place for name in (labels.JOB, labels.TEMP, labels.START) if (place := container.labels.get(name))]
    try:
        agent = os.stat(container.labels.get(labels.START, ""))
    except OSError:
        return
    owners = (f"{uid}:{gid}", f"{agent.st_uid}:{agent.st_gid}")
    is_running = container.status == "running"
    for place in places if is_running else (*places, *moved):
        with contextlib.suppress(errors.DockerException, *CONNECTION_ERRORS):
            if is_running:
                container.exec_run(["sh", "-c", _GIVE, "sh", *owners, place], user="0")
            else:
                _give_in_new_container(container, place, owners)


def _give_in_new_container(container: Any, place: str, owners: Sequence[str]) -> None:
    """As `give_files`, for one directory. Raises the SDK's errors, also if the directory does not exist."""
    found = {name: value for name in (labels.JOB, labels.START) if (value := container.labels.get(name))}
    helper = container.client.containers.create(
        container.attrs["Image"],
        entrypoint=["sh", "-c", _GIVE, "sh"],
        command=[*owners, place],
        user="0",
        network_mode="none",
        mounts=[types.Mount(place, place, type="bind")],
        labels=found,
    )
    try:
        helper.start()
        helper.wait()
    finally:
        helper.remove(force=True, v=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
