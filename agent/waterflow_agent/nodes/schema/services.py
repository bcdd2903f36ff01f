"""Nodes for systemd units, containers and Compose projects."""

from __future__ import annotations

from typing import Annotated, Literal

from waterflow_agent.nodes.schema.records import DURATION, Duration, NonEmpty, Parameters, about

_COMPOSE_FILE = about("The Compose file, relative to the step's working directory.", "file: compose.yml")
_COMPOSE_PROJECT = about("The name of the project.", "project: shop", without="Compose's own choice")
_COMPOSE_ENV = about("Variables for the file.", "env: {TAG: v2}")
_COMPOSE_PROFILES = about("Profiles to enable.", "profiles: [debug]")
_REMOVE_ORPHANS = about("Removes containers of services that are no longer in the file.", "remove-orphans: true")
_CONTAINER_IMAGE = about("The image.", "image: myapp:latest")


class SystemdUnit(Parameters, frozen=True, kw_only=True):
    """Starts, stops, enables or reloads a systemd unit, unless it is already in the requested state.

    The agent must be allowed to do so: it needs the privileged profile.
    """

    name: Annotated[NonEmpty, about("The unit.", "name: app.service")]
    state: Annotated[
        Literal["started", "stopped", "restarted", "reloaded"] | None,
        about("The requested state. `restarted` and `reloaded` always act.", "state: started", without="unchanged"),
    ] = None
    enabled: Annotated[bool | None, about("Whether the unit starts at boot.", "enabled: true", without="unchanged")] = (
        None
    )
    reload: Annotated[
        bool, about("If the unit is running, reloads it, or restarts it if it cannot reload.", "reload: true")
    ] = False
    daemon_reload: Annotated[bool, about("Makes systemd read its unit files again first.", "daemon-reload: true")] = (
        False
    )


class DockerExec(Parameters, frozen=True, kw_only=True):
    """Runs a docker `command` line, or `run` inside a `container`.

    There is no shell: nothing is expanded.
    """

    command: Annotated[
        str | None,
        about("A whole command line, with or without `docker` in front.", "command: docker pull myapp:latest"),
    ] = None
    container: Annotated[
        str | None, about("A running container; requires `run`.", "container: mysql\nrun: mysqladmin ping")
    ] = None
    run: Annotated[
        str | None,
        about("The command to run inside it.", 'container: mysql\nrun: mysql -e "CREATE DATABASE app"'),
    ] = None


class DockerPull(Parameters, frozen=True, kw_only=True):
    """Pulls an image; `changed` says whether it differs from the one before."""

    image: Annotated[NonEmpty, _CONTAINER_IMAGE]
    always: Annotated[bool, about("With `false` the image is pulled only if it is not there.", "always: false")] = True


class DockerRun(Parameters, frozen=True, kw_only=True):
    """Runs a container until it exits, or in the background with `detach`.

    The container's output is the step's output. A cancel stops the container.
    """

    image: Annotated[NonEmpty, _CONTAINER_IMAGE]
    command: Annotated[
        str | list[str] | None,
        about("The command: a list, or a text that is split like a shell does.", "command: [migrate, --all]"),
    ] = None
    name: Annotated[str | None, about("The name of the container.", "name: app")] = None
    env: Annotated[dict[str, str], about("Environment variables.", "env: {MODE: prod}")] = {}
    volumes: Annotated[
        list[str],
        about("`host:container`, with `:ro` for read-only.", "volumes: ['/srv/data:/data:ro']"),
    ] = []
    ports: Annotated[
        dict[str, int | list[int]],
        about("Ports of the container, and the ports of the host that they are published on.", "ports: {80/tcp: 8080}"),
    ] = {}
    network: Annotated[str | None, about("The network.", "network: host")] = None
    user: Annotated[str | None, about("The user inside the container.", "user: '1000'")] = None
    working_dir: Annotated[str | None, about("The working directory inside the container.", "working-dir: /app")] = None
    entrypoint: Annotated[
        str | list[str] | None, about("Overrides the entrypoint of the image.", "entrypoint: [sh, -c]")
    ] = None
    labels: Annotated[dict[str, str], about("Labels.", "labels: {team: web}")] = {}
    restart: Annotated[
        Literal["always", "on-failure", "unless-stopped"] | None,
        about("The restart policy of the container.", "detach: true\nrestart: unless-stopped"),
    ] = None
    detach: Annotated[bool, about("Leaves the container running and ends the step.", "detach: true")] = False
    remove: Annotated[bool, about("Removes the container after it has exited.", "remove: false")] = True


class DockerStop(Parameters, frozen=True, kw_only=True):
    """Stops a container, if it is running."""

    container: Annotated[NonEmpty, about("The name or id of the container.", "container: app")]
    grace: Annotated[
        Duration, about(f"How long the container has to exit before it is killed: {DURATION}.", "grace: 30s")
    ] = "10s"
    remove: Annotated[bool, about("Also removes the container.", "remove: true")] = False


class ComposeUp(Parameters, frozen=True, kw_only=True):
    """Starts the services of a Compose file.

    It uses `docker compose` version 2. `outputs.services` has the state of each service.
    """

    file: Annotated[NonEmpty, _COMPOSE_FILE]
    project: Annotated[str | None, _COMPOSE_PROJECT] = None
    env: Annotated[dict[str, str], _COMPOSE_ENV] = {}
    profiles: Annotated[list[str], _COMPOSE_PROFILES] = []
    build: Annotated[bool, about("Builds images first.", "build: true")] = False
    wait: Annotated[
        bool, about("Waits until all services are running, and healthy if they have a health check.", "wait: false")
    ] = True
    pull: Annotated[Literal["always", "missing", "never"] | None, about("Which images are pulled.", "pull: always")] = (
        None
    )
    remove_orphans: Annotated[bool, _REMOVE_ORPHANS] = False


class ComposeDown(Parameters, frozen=True, kw_only=True):
    """Stops and removes the services of a Compose file."""

    file: Annotated[NonEmpty, _COMPOSE_FILE]
    project: Annotated[str | None, _COMPOSE_PROJECT] = None
    env: Annotated[dict[str, str], _COMPOSE_ENV] = {}
    profiles: Annotated[list[str], _COMPOSE_PROFILES] = []
    volumes: Annotated[bool, about("Also removes their volumes.", "volumes: true")] = False
    remove_orphans: Annotated[bool, _REMOVE_ORPHANS] = False
