"""The nodes `docker/compose-up` and `docker/compose-down`, by the command `docker compose` (version 2).

Services that were started keep running if the step fails or is cancelled, so that they can be inspected;
`docker/compose-down` removes them.
"""

from __future__ import annotations

import json
import os
from typing import Any

from waterflow_agent.nodes import commands, schema
from waterflow_agent.nodes.node import Context, Node, NodeFailure

#: Exit code of compose when an image could not be pulled.
_PULL_FAILED = 18


async def _program(context: Context) -> list[str]:
    """Return the command for version 2 of compose. Raises `NodeFailure` if it is not installed."""
    found = await commands.run(["docker", "compose", "version", "--short"], cwd=context.directory, is_echoed=False)
    if found.exit_code or found.stdout.lstrip("v").startswith("1."):
        raise NodeFailure(
            "docker compose version 2 is not installed on this server; next: install docker-compose-plugin from Docker's"
            " repository, or docker-compose of Debian 13 (that of Debian 12 is too old)"
        )
    return ["docker", "compose"]


def _options(context: Context, parameters: schema.ComposeUp | schema.ComposeDown) -> list[str]:
    file = context.path(parameters.file)
    # Not Path.is_file, which raises an error for some paths.
    if not os.path.isfile(file):
        raise NodeFailure(f"{file} does not exist")
    options = ["--file", str(file), "--ansi", "never", "--progress", "plain"]
    if parameters.project is not None:
        options += ["--project-name", parameters.project]
    for profile in parameters.profiles:
        options += ["--profile", profile]
    return options


def _failure(verb: str, done: commands.CompletedProgram, outputs: dict[str, Any]) -> NodeFailure:
    """Make a failure with the last error of compose; a retry can help if the engine or the registry was unreachable."""
    error = done.last_error
    text = f"docker compose {verb} ended with exit code {done.exit_code}{f': {error}' if error else ''}"
    may_retry = done.exit_code == _PULL_FAILED or "Cannot connect to the Docker daemon" in done.stderr
    return NodeFailure(text, may_retry=may_retry, outputs=outputs)


class ComposeUpNode(Node[schema.ComposeUp]):
    """Starts the services of a file."""

    parameters = schema.ComposeUp

    async def run(self, context: Context, parameters: schema.ComposeUp) -> dict[str, Any]:
        """See the base class."""
        program = [*await _program(context), *_options(context, parameters)]
        env = {**context.env, **parameters.env}
        argv = [*program, "up", "--detach"]
        argv += ["--build"] if parameters.build else []
        argv += ["--wait"] if parameters.wait else []
        argv += ["--pull", parameters.pull] if parameters.pull is not None else []
        argv += ["--remove-orphans"] if parameters.remove_orphans else []
        done = await commands.run(argv, cwd=context.directory, env=env)
        result = await commands.run(
            [*program, "ps", "--all", "--format", "json"], cwd=context.directory, env=env, is_echoed=False
        )
        services = _services(result)
        if done.exit_code:
            raise _failure("up", done, {"services": services or []})
        if result.exit_code:
            raise _failure("ps", result, {"services": []})
        if services is None:
            raise NodeFailure("cannot parse the output of docker compose ps", outputs={"services": []})
        return {"services": services}


def _services(result: commands.CompletedProgram) -> list[dict[str, Any]] | None:
    """Return the services that `docker compose ps` lists; None if its output cannot be parsed."""
    text = result.stdout.strip()
    try:
        # One object per line since 2.21, a list before.
        rows = json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.splitlines()]
    except ValueError:
        return None
    if result.exit_code:
        return None
    return [
        {
            "name": row.get("Service", ""),
            "container": row.get("Name", ""),
            "state": row.get("State", ""),
            "health": row.get("Health", ""),
            "exit-code": row.get("ExitCode"),
        }
        for row in rows
    ]


class ComposeDownNode(Node[schema.ComposeDown]):
    """Stops and removes the services of a file."""

    parameters = schema.ComposeDown

    async def run(self, context: Context, parameters: schema.ComposeDown) -> dict[str, Any]:
        """See the base class."""
        argv = [*await _program(context), *_options(context, parameters), "down"]
        argv += ["--volumes"] if parameters.volumes else []
        argv += ["--remove-orphans"] if parameters.remove_orphans else []
        done = await commands.run(argv, cwd=context.directory, env={**context.env, **parameters.env})
        if done.exit_code:
            raise _failure("down", done, {})
        return {}
