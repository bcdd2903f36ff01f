"""The containers of a job: the parameters of the step with which such a job begins. No workflow file names this node."""

from __future__ import annotations

from typing import Annotated

import msgspec

from waterflow_agent.nodes.schema.records import Parameters, about


class Credentials(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a registry asks for."""

    username: str
    password: str


class ContainerSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A container, with its keys as in the workflow file."""

    #: Empty or None: there is no such container.
    image: str | None = None
    #: A value that was an expression has its type.
    env: dict[str, str | int | float | bool | None] = {}
    ports: list[str | int] = []
    volumes: list[str] = []
    options: str | None = None
    credentials: Credentials | None = None


class JobContainers(Parameters, frozen=True, kw_only=True):
    """Starts the container and the services of a job, and waits until they are healthy."""

    container: Annotated[ContainerSpec | None, about("The container of the job's scripts.", "container: {}")] = None
    services: Annotated[dict[str, ContainerSpec], about("The services, by name.", "services: {}")] = {}
