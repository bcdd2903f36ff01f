"""The nodes `docker/exec`, `docker/pull`, `docker/run` and `docker/stop`.

`docker/exec` takes a whole command line as an operator types it, and is no shell: nothing in it is expanded. The others speak
to the engine by its SDK, in a thread. Who may use the engine is root on its server.

An engine that goes in the middle shows in many errors: those of the socket, and those of the libraries below the SDK (`_GONE`).
"""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import sys
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import docker
from docker import errors, utils
from urllib3.exceptions import HTTPError

from waterflow_agent.nodes import commands, schema
from waterflow_agent.nodes.node import Context, Node, NodeFailure
from waterflow_agent.nodes.parameter_values import duration_s

Answer = TypeVar("Answer")

_GONE = (OSError, HTTPError)
#: Of the program `docker`, on its error stream, with exit code 1 as for what it has run.
_NO_ENGINE = "Cannot connect to the Docker daemon"


def _connect() -> docker.DockerClient:
    try:
        client = docker.from_env(timeout=600)
        client.ping()
    except (errors.DockerException, OSError) as error:
        text = f"no Docker engine answers on this server: {_words(error)}"
        raise NodeFailure(text, may_retry=True) from error
    return client


def _words(error: Exception) -> str:
    if isinstance(error, errors.APIError) and error.explanation:
        return str(error.explanation)
    return str(error)


async def _ask(call: Callable[[docker.DockerClient], Answer]) -> Answer:
    """The engine's answer; a refusal of its is a failure."""

    def ask() -> Answer:
        client = _connect()
        try:
            return call(client)
        except errors.NotFound as error:
            raise NodeFailure(_words(error)) from error
        except errors.APIError as error:
            raise NodeFailure(_words(error), may_retry=error.is_server_error()) from error
        except errors.DockerException as error:
            raise NodeFailure(_words(error)) from error
        except _GONE as error:
            raise NodeFailure(f"the Docker engine has gone: {error}", may_retry=True) from error
        finally:
            client.close()

    return await asyncio.to_thread(ask)


def _split(command: str, name: str) -> list[str]:
    """The words of a command line. Raises `NodeFailure`."""
    try:
        return shlex.split(command)
    except ValueError as error:
        raise NodeFailure(f"{name}: {error}") from error


def _pull(client: docker.DockerClient, image: str) -> str:
    """The image's id, once it is here.

    Not by the SDK's `images.pull`, which hears nothing of a failure after the engine's first word: it then takes an older
    image of the name for the one that was asked for.
    """
    repository, tag = utils.parse_repository_tag(image)
    for said in client.api.pull(repository, tag=tag or "latest", stream=True, decode=True):
        if "error" in said:
            # The registry has the image, or it would have been refused: what is in the way may pass.
            raise NodeFailure(f"{image} cannot be pulled: {said['error']}", may_retry=True)
    return str(client.images.get(image).id)


class DockerExecNode(Node[schema.DockerExec]):
    """A docker command line, or a command inside of a container that runs."""

    parameters = schema.DockerExec

    async def run(self, context: Context, given: schema.DockerExec) -> dict[str, Any]:
        """See the base class."""
        if (given.command is None) == (given.container is None):
            raise NodeFailure("either command, or container and run, is needed")
        if given.command is not None:
            argv = _split(given.command, "command")
            argv = argv if argv[:1] == ["docker"] else ["docker", *argv]
        else:
            if not given.run:
                raise NodeFailure("run is needed with container")
            argv = ["docker", "exec", str(given.container), *_split(given.run, "run")]
        done = await commands.run(argv, cwd=context.directory)
        outputs = {"exit-code": done.exit_code, "stdout": done.stdout}
        if done.exit_code:
            is_away = done.exit_code == 1 and done.complaint.startswith(_NO_ENGINE)
            text = f"docker ended with exit code {done.exit_code}{f': {done.complaint}' if is_away else ''}"
            # 125: the engine itself, not what it ran.
            raise NodeFailure(text, may_retry=is_away or done.exit_code == 125, outputs=outputs)
        return outputs


class DockerPullNode(Node[schema.DockerPull]):
    """The image, on this server."""

    parameters = schema.DockerPull

    async def run(self, context: Context, given: schema.DockerPull) -> dict[str, Any]:
        """See the base class."""

        def pull(client: docker.DockerClient) -> tuple[str, bool]:
            with contextlib.suppress(errors.ImageNotFound):
                before = client.images.get(given.image).id
                if not given.always:
                    return before, False
                after = _pull(client, given.image)
                return after, after != before
            return _pull(client, given.image), True

        image, changed = await _ask(pull)
        context.log(f"{given.image}: {image}, {'pulled' if changed else 'there already'}")
        return {"image": image, "changed": changed}


class DockerRunNode(Node[schema.DockerRun]):
    """A container: to its end, or (`detach`) in the background."""

    parameters = schema.DockerRun

    def __init__(self) -> None:
        #: Held to say that the step is over, or that a container is made from now on.
        self._lock = threading.Lock()
        self._is_over = False
        self._is_making = False

    async def run(self, context: Context, given: schema.DockerRun) -> dict[str, Any]:
        """See the base class."""
        if isinstance(given.command, str):
            _split(given.command, "command")
        starting = asyncio.ensure_future(_ask(lambda client: self._start(client, given)))
        try:
            container = await asyncio.shield(starting)
        except asyncio.CancelledError:
            await self._take_back(starting, given)
            raise
        context.log(f"container {container.name} of {given.image}")
        outputs = {"id": container.id, "name": container.name}
        if given.detach:
            return outputs
        try:
            code = await asyncio.to_thread(self._follow, container)
        except asyncio.CancelledError:
            self._stop(container)
            raise
        except _GONE as error:
            # Not to be tried again by itself: it may be running yet.
            text = f"the Docker engine has gone: nobody knows how the container {container.name} ended"
            raise NodeFailure(text, outputs=outputs) from error
        finally:
            self._remove(container, given)
        outputs["exit-code"] = code
        if code:
            raise NodeFailure(f"the container ended with exit code {code}", outputs=outputs)
        return outputs

    async def _take_back(self, starting: asyncio.Future[Any], given: schema.DockerRun) -> None:
        """Ends what the thread has begun; one that is not so far yet ends with the process."""
        with self._lock:
            self._is_over = True
            if not self._is_making:
                return
        with contextlib.suppress(NodeFailure):
            container = await starting
            self._stop(container)
            self._remove(container, given)

    def _stop(self, container: Any) -> None:
        with contextlib.suppress(errors.DockerException, *_GONE):
            container.stop(timeout=10)

    def _remove(self, container: Any, given: schema.DockerRun) -> None:
        if given.remove:
            with contextlib.suppress(errors.DockerException, *_GONE):
                container.remove(force=True)

    def _start(self, client: docker.DockerClient, given: schema.DockerRun) -> Any:
        try:
            client.images.get(given.image)
        except errors.ImageNotFound:
            _pull(client, given.image)
        with self._lock:
            if self._is_over:
                raise NodeFailure("stopped")
            self._is_making = True
        container = self._make(client, given)
        try:
            container.start()
        except errors.APIError:
            # Its name would be taken when the step is tried again.
            self._remove(container, given)
            raise
        return container

    def _make(self, client: docker.DockerClient, given: schema.DockerRun) -> Any:
        command = shlex.split(given.command) if isinstance(given.command, str) else given.command
        return client.containers.create(
            given.image,
            command,
            detach=True,
            name=given.name,
            environment=given.env or None,
            volumes=given.volumes or None,
            ports=given.ports or None,
            network=given.network,
            user=given.user,
            working_dir=given.working_dir,
            entrypoint=given.entrypoint,
            labels=given.labels or None,
            restart_policy={"Name": given.restart} if given.restart else None,
        )

    def _follow(self, container: Any) -> int:
        for chunk in container.logs(stream=True, follow=True):
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
        return int(container.wait()["StatusCode"])


class DockerStopNode(Node[schema.DockerStop]):
    """No such container runs any more."""

    parameters = schema.DockerStop

    async def run(self, context: Context, given: schema.DockerStop) -> dict[str, Any]:
        """See the base class."""
        grace_s = round(duration_s(given.grace, "grace"))

        def stop(client: docker.DockerClient) -> bool:
            try:
                container = client.containers.get(given.container)
            except errors.NotFound:
                return False
            changed = container.status == "running" or given.remove
            if container.status == "running":
                container.stop(timeout=grace_s)
            if given.remove:
                container.remove(force=True)
            return changed

        changed = await _ask(stop)
        context.log(f"{given.container}: {'stopped' if changed else 'does not run'}")
        return {"changed": changed}
