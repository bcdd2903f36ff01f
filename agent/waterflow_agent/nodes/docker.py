"""The nodes `docker/exec`, `docker/pull`, `docker/run` and `docker/stop`.

`docker/exec` takes a command line as an operator types it, without a shell: nothing in it is expanded. The others use the
SDK, in a thread. Access to the engine is equivalent to root on its server.

A lost connection to the engine causes many kinds of errors: those of the socket, and those of the libraries below the SDK
(`_CONNECTION_ERRORS`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import sys
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import docker
from docker import errors, utils
from urllib3.exceptions import HTTPError

from waterflow_agent.nodes import commands, schema
from waterflow_agent.nodes.containers import probe
from waterflow_agent.nodes.node import Context, Node, NodeFailure
from waterflow_agent.nodes.parameter_values import duration_s

Answer = TypeVar("Answer")

_CONNECTION_ERRORS = (OSError, HTTPError)
#: The error of the program `docker`, with exit code 1, the same as that of a failed command.
_NO_ENGINE = "Cannot connect to the Docker daemon"


def _connect() -> docker.DockerClient:
    try:
        client = docker.from_env(timeout=600)
        client.ping()
    except (errors.DockerException, OSError) as error:
        address = os.environ.get("DOCKER_HOST") or probe.DEFAULT_ADDRESS
        text = f"cannot connect to the Docker engine at {address}: {_words(error)}"
        raise NodeFailure(text, may_retry=True) from error
    return client


def _words(error: Exception) -> str:
    if isinstance(error, errors.APIError) and error.explanation:
        return str(error.explanation)
    # The libraries below the SDK wrap the error of the socket, which alone says something to a person.
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return str(error)


async def call_engine(call: Callable[[docker.DockerClient], Answer]) -> Answer:
    """Call the engine in a thread; its errors become `NodeFailure`."""

    def connect_and_call() -> Answer:
        client = _connect()
        try:
            return call(client)
        except errors.NotFound as error:
            raise NodeFailure(_words(error)) from error
        except errors.APIError as error:
            raise NodeFailure(_words(error), may_retry=error.is_server_error()) from error
        except errors.DockerException as error:
            raise NodeFailure(_words(error)) from error
        except _CONNECTION_ERRORS as error:
            raise NodeFailure(f"lost the connection to the Docker engine: {error}", may_retry=True) from error
        finally:
            client.close()

    return await asyncio.to_thread(connect_and_call)


def _split(command: str, name: str) -> list[str]:
    """Split a command line. Raises `NodeFailure`."""
    try:
        return shlex.split(command)
    except ValueError as error:
        raise NodeFailure(f"{name}: {error}") from error


def pull_image(client: docker.DockerClient, image: str, credentials: dict[str, str] | None = None) -> str:
    """Pull an image and return its id.

    `images.pull` of the SDK ignores errors after the engine's first message, and then returns an older image of that name.
    """
    repository, tag = utils.parse_repository_tag(image)
    for progress in client.api.pull(repository, tag=tag or "latest", stream=True, decode=True, auth_config=credentials):
        if "error" in progress:
            # The registry has the image, or it would have refused the request: the problem may be temporary.
            raise NodeFailure(f"cannot pull {image}: {progress['error']}", may_retry=True)
    return str(client.images.get(image).id)


class DockerExecNode(Node[schema.DockerExec]):
    """Runs a docker command line, or a command in a running container."""

    parameters = schema.DockerExec

    async def run(self, context: Context, parameters: schema.DockerExec) -> dict[str, Any]:
        """See the base class."""
        if (parameters.command is None) == (parameters.container is None):
            raise NodeFailure("set either command, or container and run")
        if parameters.command is not None:
            argv = _split(parameters.command, "command")
            argv = argv if argv[:1] == ["docker"] else ["docker", *argv]
        else:
            if not parameters.run:
                raise NodeFailure("container requires run")
            argv = ["docker", "exec", str(parameters.container), *_split(parameters.run, "run")]
        done = await commands.run(argv, cwd=context.directory)
        outputs = {"exit-code": done.exit_code, "stdout": done.stdout}
        if done.exit_code:
            is_unreachable = done.exit_code == 1 and done.last_error.startswith(_NO_ENGINE)
            text = f"docker ended with exit code {done.exit_code}{f': {done.last_error}' if is_unreachable else ''}"
            # 125: an error of the engine, not of the command.
            raise NodeFailure(text, may_retry=is_unreachable or done.exit_code == 125, outputs=outputs)
        return outputs


class DockerPullNode(Node[schema.DockerPull]):
    """Pulls an image to this server."""

    parameters = schema.DockerPull

    async def run(self, context: Context, parameters: schema.DockerPull) -> dict[str, Any]:
        """See the base class."""

        def pull(client: docker.DockerClient) -> tuple[str, bool]:
            with contextlib.suppress(errors.ImageNotFound):
                before = client.images.get(parameters.image).id
                if not parameters.always:
                    return before, False
                after = pull_image(client, parameters.image)
                return after, after != before
            return pull_image(client, parameters.image), True

        image, changed = await call_engine(pull)
        context.log(f"{parameters.image}: {image}, {'pulled' if changed else 'already present'}")
        return {"image": image, "changed": changed}


class DockerRunNode(Node[schema.DockerRun]):
    """Runs a container until it ends, or in the background (`detach`)."""

    parameters = schema.DockerRun

    def __init__(self) -> None:
        #: Guards the two flags: the step has ended; the container is being created.
        self._lock = threading.Lock()
        self._has_ended = False
        self._is_creating = False

    async def run(self, context: Context, parameters: schema.DockerRun) -> dict[str, Any]:
        """See the base class."""
        if isinstance(parameters.command, str):
            _split(parameters.command, "command")
        starting = asyncio.ensure_future(call_engine(lambda client: self._start(client, parameters)))
        try:
            container = await asyncio.shield(starting)
        except asyncio.CancelledError:
            await self._undo_start(starting, parameters)
            raise
        context.log(f"container {container.name} of {parameters.image}")
        outputs = {"id": container.id, "name": container.name}
        if parameters.detach:
            return outputs
        try:
            code = await asyncio.to_thread(self._follow, container)
        except asyncio.CancelledError:
            self._stop(container)
            raise
        except _CONNECTION_ERRORS as error:
            # No retry: the container may still be running.
            text = f"lost the connection to the Docker engine; the outcome of container {container.name} is unknown"
            raise NodeFailure(text, outputs=outputs) from error
        finally:
            self._remove(container, parameters)
        outputs["exit-code"] = code
        if code:
            raise NodeFailure(f"the container ended with exit code {code}", outputs=outputs)
        return outputs

    async def _undo_start(self, starting: asyncio.Future[Any], parameters: schema.DockerRun) -> None:
        """Remove a container that the thread has created; a thread that has not come so far ends with the process."""
        with self._lock:
            self._has_ended = True
            if not self._is_creating:
                return
        with contextlib.suppress(NodeFailure):
            container = await starting
            self._stop(container)
            self._remove(container, parameters)

    def _stop(self, container: Any) -> None:
        with contextlib.suppress(errors.DockerException, *_CONNECTION_ERRORS):
            container.stop(timeout=10)

    def _remove(self, container: Any, parameters: schema.DockerRun) -> None:
        if parameters.remove:
            with contextlib.suppress(errors.DockerException, *_CONNECTION_ERRORS):
                container.remove(force=True)

    def _start(self, client: docker.DockerClient, parameters: schema.DockerRun) -> Any:
        try:
            client.images.get(parameters.image)
        except errors.ImageNotFound:
            pull_image(client, parameters.image)
        with self._lock:
            if self._has_ended:
                raise NodeFailure("stopped")
            self._is_creating = True
        container = self._create(client, parameters)
        try:
            container.start()
        except errors.APIError:
            # Its name would be in use when the step is retried.
            self._remove(container, parameters)
            raise
        return container

    def _create(self, client: docker.DockerClient, parameters: schema.DockerRun) -> Any:
        command = shlex.split(parameters.command) if isinstance(parameters.command, str) else parameters.command
        return client.containers.create(
            parameters.image,
            command,
            detach=True,
            name=parameters.name,
            environment=parameters.env or None,
            volumes=parameters.volumes or None,
            ports=parameters.ports or None,
            network=parameters.network,
            user=parameters.user,
            working_dir=parameters.working_dir,
            entrypoint=parameters.entrypoint,
            labels=parameters.labels or None,
            restart_policy={"Name": parameters.restart} if parameters.restart else None,
        )

    def _follow(self, container: Any) -> int:
        for chunk in container.logs(stream=True, follow=True):
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
        return int(container.wait()["StatusCode"])


class DockerStopNode(Node[schema.DockerStop]):
    """Stops a container, if it is running."""

    parameters = schema.DockerStop

    async def run(self, context: Context, parameters: schema.DockerStop) -> dict[str, Any]:
        """See the base class."""
        grace_s = round(duration_s(parameters.grace, "grace"))

        def stop(client: docker.DockerClient) -> bool:
            try:
                container = client.containers.get(parameters.container)
            except errors.NotFound:
                return False
            changed = container.status == "running" or parameters.remove
            if container.status == "running":
                container.stop(timeout=grace_s)
            if parameters.remove:
                container.remove(force=True)
            return changed

        changed = await call_engine(stop)
        context.log(f"{parameters.container}: {'stopped' if changed else 'not running'}")
        return {"changed": changed}
