"""The nodes `docker/exec`, `docker/pull`, `docker/run` and `docker/stop`.

`docker/exec` takes a whole command line as an operator types it, and is no shell: nothing in it is expanded. The others speak
to the engine by its SDK, in a thread. Who may use the engine is root on its server.
"""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import docker
from docker import errors, utils

from waterflow_agent.nodes import commands, schema
from waterflow_agent.nodes.durations import seconds
from waterflow_agent.nodes.node import Context, Node, NodeFailure

Answer = TypeVar("Answer")


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
        finally:
            client.close()

    return await asyncio.to_thread(ask)


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


class Exec(Node[schema.DockerExec]):
    """A docker command line, or a command inside of a container that runs."""

    parameters = schema.DockerExec

    async def run(self, context: Context, given: schema.DockerExec) -> dict[str, Any]:
        """See the base class."""
        if (given.command is None) == (given.container is None):
            raise NodeFailure("either command, or container and run, is needed")
        if given.command is not None:
            try:
                argv = shlex.split(given.command)
            except ValueError as error:
                raise NodeFailure(f"command: {error}") from error
            argv = argv if argv[:1] == ["docker"] else ["docker", *argv]
        else:
            if not given.run:
                raise NodeFailure("run is needed with container")
            argv = ["docker", "exec", str(given.container), *(shlex.split(given.run))]
        done = await commands.run(argv, cwd=context.directory)
        outputs = {"exit-code": done.exit_code, "stdout": done.stdout}
        if done.exit_code:
            # 125: the engine itself, not what it ran.
            text = f"docker ended with exit code {done.exit_code}"
            raise NodeFailure(text, may_retry=done.exit_code == 125, outputs=outputs)
        return outputs


class Pull(Node[schema.DockerPull]):
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


class Run(Node[schema.DockerRun]):
    """A container: to its end, or (`detach`) in the background."""

    parameters = schema.DockerRun

    async def run(self, context: Context, given: schema.DockerRun) -> dict[str, Any]:
        """See the base class."""
        container = await _ask(lambda client: self._start(client, given))
        context.log(f"container {container.name} of {given.image}")
        if given.detach:
            return {"id": container.id, "name": container.name}
        try:
            code = await asyncio.to_thread(self._follow, container)
        except asyncio.CancelledError:
            with contextlib.suppress(errors.DockerException):
                container.stop(timeout=10)
            raise
        finally:
            if given.remove:
                with contextlib.suppress(errors.DockerException):
                    container.remove(force=True)
        outputs = {"id": container.id, "name": container.name, "exit-code": code}
        if code:
            raise NodeFailure(f"the container ended with exit code {code}", outputs=outputs)
        return outputs

    def _start(self, client: docker.DockerClient, given: schema.DockerRun) -> Any:
        command = shlex.split(given.command) if isinstance(given.command, str) else given.command
        try:
            client.images.get(given.image)
        except errors.ImageNotFound:
            _pull(client, given.image)
        return client.containers.run(
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


class Stop(Node[schema.DockerStop]):
    """No such container runs any more."""

    parameters = schema.DockerStop

    async def run(self, context: Context, given: schema.DockerStop) -> dict[str, Any]:
        """See the base class."""

        def stop(client: docker.DockerClient) -> bool:
            try:
                container = client.containers.get(given.container)
            except errors.NotFound:
                return False
            changed = container.status == "running" or given.remove
            if container.status == "running":
                container.stop(timeout=round(seconds(given.grace, "grace")))
            if given.remove:
                container.remove(force=True)
            return changed

        changed = await _ask(stop)
        context.log(f"{given.container}: {'stopped' if changed else 'does not run'}")
        return {"changed": changed}
