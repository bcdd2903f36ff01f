"""The node `job/containers`: starts the container and the services of a job, in a network of their own.

It is the first step of such a job. What it has started is removed when the job ends, whatever happens to this process: all of
it has the label of a directory that the agent made before (`execution/job_containers.py`).

Containers are created by the program `docker`, because `options` are options of its command line.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shlex
import shutil
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import docker
from docker import errors

from waterflow_agent.errors import Rejected
from waterflow_agent.execution import sharing
from waterflow_agent.nodes import commands, schema
from waterflow_agent.nodes.containers import labels, removal
from waterflow_agent.nodes.docker import call_engine, pull_image
from waterflow_agent.nodes.node import Context, Node, NodeFailure
from waterflow_agent.nodes.schema.job_containers import ContainerSpec

Answer = TypeVar("Answer")

#: How often the engine is asked whether services are healthy.
_INTERVAL_S = 0.5
#: Of a service that is not healthy, the end of its log is shown.
LOG_LINES_MAX = 50
LOG_BYTES_MAX = 16 << 10
#: A container that runs for as long as the job. The engine's own init reaps what scripts leave behind.
_IDLE = ("--init", "--entrypoint", "tail")
_IDLE_ARGUMENTS = ("-f", "/dev/null")
#: A service's own log on the server is bounded too.
_LOG_OPTIONS = ("--log-driver", "json-file", "--log-opt", "max-size=16m")
#: Options that would take a container out of the job's network, or replace its idle process.
_REFUSED = re.compile(r"--(network|net|network-alias|net-alias|entrypoint|name|cidfile|rm|detach)(=.*)?")
#: Variables that the program `docker` reads itself. They are arguments; the values of all others are in no command line.
_READ_BY_CLIENT = re.compile(
    r"DOCKER_(HOST|CONTEXT|CONFIG|TLS|TLS_VERIFY|CERT_PATH|API_VERSION|CONTENT_TRUST.*|DEFAULT_PLATFORM|CUSTOM_HEADERS)"
    r"|PATH|HOME|LD_.*"
)
_SERVER_ITSELF = "127.0.0.1"


class JobContainersNode(Node[schema.JobContainers]):
    """Starts the containers of a job."""

    parameters = schema.JobContainers

    async def run(self, context: Context, parameters: schema.JobContainers) -> dict[str, Any]:
        """See the base class."""
        starter = _Starter(context)
        chosen = parameters.container if parameters.container is not None and parameters.container.image else None
        services = {name: spec for name, spec in parameters.services.items() if spec.image}
        if chosen is None and not services:
            return {"container": {}, "services": {}}
        await starter.prepare()
        started = {name: await starter.start(labels.service(name), spec, name) for name, spec in services.items()}
        container: dict[str, Any] = {}
        if chosen is not None:
            found = await starter.start(labels.CONTAINER, chosen, None)
            await starter.admit_user(found)
            container = {"id": found, "network": starter.network}
        for name, identity in started.items():
            await starter.wait(name, identity)
        facts = {name: await starter.facts(identity) for name, identity in started.items()}
        return {"container": container, "services": facts}


class _Starter:
    """Starts the containers of one job."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._start = str(context.containers)
        self._job = str(context.workspace)
        self._temp = context.env["RUNNER_TEMP"]
        #: The id of the job's network.
        self.network = ""

    async def prepare(self) -> None:
        """Remove what an earlier try of the job has left, and create the network."""

        def create(client: docker.DockerClient) -> str:
            removal.remove(client, labels.JOB, self._job)
            name = f"waterflow-{os.urandom(6).hex()}"
            found = {labels.JOB: self._job, labels.START: self._start}
            return str(client.networks.create(name, driver="bridge", labels=found).id)

        try:
            self.network = await call_engine(create)
        except NodeFailure as failure:
            text = (
                f"{failure.text}; a job with container or services needs a Docker engine that its steps may use: "
                "choose servers that have one with runs-on"
            )
            raise NodeFailure(text, may_retry=failure.may_retry) from failure

    async def start(self, role: str, spec: ContainerSpec, service: str | None) -> str:
        """Pull the image, create the container and start it. Returns its id."""
        what = "the job's container" if service is None else f"the service {service}"
        image = spec.image or ""
        credentials = None
        if spec.credentials is not None:
            credentials = {"username": spec.credentials.username, "password": spec.credentials.password}

        def fetch(client: docker.DockerClient) -> None:
            try:
                pull_image(client, image, credentials)
            except (NodeFailure, errors.APIError):
                # As with a local build, an image that is already on the server needs no registry.
                with contextlib.suppress(errors.ImageNotFound):
                    client.images.get(image)
                    return
                raise

        self._context.log(f"{what}: {image}")
        try:
            await call_engine(fetch)
        except NodeFailure as failure:
            raise NodeFailure(f"{what}: {failure.text}", may_retry=failure.may_retry) from failure
        identity = await self._create(what, role, spec, service)
        await self._run(what, "start", identity)
        return identity

    async def _create(self, what: str, role: str, spec: ContainerSpec, service: str | None) -> str:
        try:
            options = shlex.split(spec.options or "")
        except ValueError as error:
            raise NodeFailure(f"{what}: options: {error}") from error
        for option in options:
            if _REFUSED.fullmatch(option):
                raise NodeFailure(f"{what}: options: {option.partition('=')[0]} is not possible in a job; remove it")
        env = _text_variables(spec.env)
        arguments = ["create", "--network", self.network]
        for name, value in env.items():
            arguments += ["--env", f"{name}={value}" if _READ_BY_CLIENT.fullmatch(name) else name]
        for port in spec.ports:
            arguments += ["--publish", published(str(port))]
        for volume in spec.volumes:
            arguments += ["--volume", volume]
        if not any(option.startswith("--log-") for option in options):
            arguments += _LOG_OPTIONS
        if service is not None:
            arguments += ["--network-alias", service, *options, *self._label_options(role), "--", spec.image or ""]
        else:
            for place in (self._job, self._temp, self._start):
                arguments += ["--mount", f"type=bind,source={place},target={place}"]
            arguments += ["--workdir", self._job, *_IDLE, *options, *self._label_options(role)]
            arguments += ["--", spec.image or "", *_IDLE_ARGUMENTS]
        hidden = {name: value for name, value in env.items() if not _READ_BY_CLIENT.fullmatch(name)}
        return await self._run(what, *arguments, env=hidden)

    def _label_options(self, role: str) -> list[str]:
        """Options by which the container is found and removed; behind those of the file, because the last one counts."""
        found = {labels.JOB: self._job, labels.TEMP: self._temp, labels.START: self._start, labels.ROLE: role}
        return [part for name, value in found.items() for part in ("--label", f"{name}={value}")]

    async def _run(self, what: str, *arguments: str, env: Mapping[str, str] | None = None) -> str:
        """Run the program `docker`. Returns the last line that it prints."""
        program = shutil.which("docker", path=self._context.env.get("PATH"))
        if program is None:
            raise NodeFailure(f"{what}: program docker not found on this server; install the Docker client")
        own = {**os.environ, **(env or {})}
        done = await commands.run([program, *arguments], cwd=self._context.directory, env=own, is_echoed=False)
        if done.exit_code:
            raise NodeFailure(f"{what}: {done.last_error or f'docker ended with exit code {done.exit_code}'}")
        return done.stdout.strip().rpartition("\n")[2]

    async def admit_user(self, identity: str) -> None:
        """Let the user of the container use the job's directories. Raises `NodeFailure` if no script can run in it."""

        def user(client: docker.DockerClient) -> str:
            found = client.containers.get(identity).exec_run(["id", "-u"])
            return found.output.decode("utf-8", "replace").strip() if found.exit_code == 0 else ""

        state = (await self._inspect(identity))["State"]
        if not state["Running"]:
            await self._show_log("the job's container", identity)
            raise NodeFailure(
                f"the job's container ended at once with exit code {state['ExitCode']}; its log is above. The image needs the "
                "program tail, which its user may run"
            )
        text = await call_engine(user)
        # Without the program `id` the scripts will show whether they may.
        uid = int(text) if text.isdecimal() else 0
        if uid in (0, os.geteuid()):
            return
        try:
            for place in (self._job, self._temp):
                sharing.grant(place, uid, sharing.READ | sharing.WRITE | sharing.ENTER)
        except (OSError, Rejected) as error:
            raise NodeFailure(
                f"the job's container runs as user {uid}, who cannot use the job's directory on this server ({error}); next: "
                f"options: --user {os.geteuid()}, which is the user of steps, or --user 0"
            ) from error

    async def wait(self, name: str, identity: str) -> None:
        """Wait until a service with a health check is healthy. Raises `NodeFailure` when it is unhealthy, or has failed."""
        is_announced = False
        while True:
            state = (await self._inspect(identity))["State"]
            health = state.get("Health", {}).get("Status", "")
            if not state["Running"] and state["ExitCode"]:
                await self._show_log(f"the service {name}", identity)
                raise NodeFailure(f"the service {name} ended with exit code {state['ExitCode']}; its log is above")
            if health == "unhealthy":
                await self._show_log(f"the service {name}", identity)
                raise NodeFailure(f"the service {name} is unhealthy; its log is above")
            if health != "starting" or not state["Running"]:
                self._context.log(f"the service {name} is {health if health not in ('', 'none') else state['Status']}")
                return
            if not is_announced:
                self._context.log(f"waiting until the service {name} is healthy")
                is_announced = True
            await asyncio.sleep(_INTERVAL_S)

    async def facts(self, identity: str) -> dict[str, Any]:
        """Return what `job.services.NAME` has: id, network, and the server's port for each port of the container."""
        bound: dict[str, Any] = (await self._inspect(identity))["NetworkSettings"]["Ports"] or {}
        ports = {port.partition("/")[0]: str(found[0]["HostPort"]) for port, found in bound.items() if found}
        return {"id": identity, "network": self.network, "ports": ports}

    async def _show_log(self, what: str, identity: str) -> None:
        lines = await call_engine(lambda client: client.containers.get(identity).logs(tail=LOG_LINES_MAX))
        self._context.log(f"the last lines of {what}:")
        self._context.log(bytes(lines)[-LOG_BYTES_MAX:].decode("utf-8", "replace").rstrip("\n"))

    async def _inspect(self, identity: str) -> dict[str, Any]:
        inspect: Callable[[docker.DockerClient], dict[str, Any]] = lambda client: client.api.inspect_container(identity)  # noqa: E731
        return await call_engine(inspect)


def published(port: str) -> str:
    """Return the argument that publishes a port: on the server itself only, unless the file names an address.

    As the program `docker` reads it: everything in front of the last two parts, if there are three, is an address.
    """
    colons = port.count(":")
    if colons > 2 or (colons == 2 and not port.startswith(":")):
        return port
    return f"{_SERVER_ITSELF}{':' * (2 - colons)}{port}"


def _text_variables(env: Mapping[str, object]) -> dict[str, str]:
    found = {name: _text(value) for name, value in env.items()}
    for name, value in found.items():
        if not name or "=" in name or "\0" in name or "\0" in value:
            raise NodeFailure(f"env: {name!r} is not a valid variable name, or its value contains a NUL byte")
    return found


def _text(value: object) -> str:
    """Return a value as an expression prints it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return "" if value is None else str(value)
