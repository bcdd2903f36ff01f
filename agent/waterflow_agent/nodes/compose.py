"""The nodes `docker/compose-up` and `docker/compose-down`, by the command `docker compose` (version 2).

What has been started stays when something fails or the step is cancelled: it is what one looks at then, and
`docker/compose-down` takes it away.
"""

from __future__ import annotations

import json
import os
from typing import Any

from waterflow_agent.nodes import commands, schema
from waterflow_agent.nodes.node import Context, Node, NodeFailure

#: Of compose: an image could not be pulled.
_PULL_FAILED = 18


async def _program(context: Context) -> list[str]:
    """`docker compose` where there is version 2, else a failure that says what is missing."""
    found = await commands.run(["docker", "compose", "version", "--short"], cwd=context.directory, is_shown=False)
    if found.exit_code or found.stdout.lstrip("v").startswith("1."):
        raise NodeFailure(
            "docker compose version 2 is missing on this server; next: install its plugin (docker-compose-plugin of Docker's"
            " own packages, docker-compose of Debian 13). docker-compose 1.29 of Debian 12 does not read today's files"
        )
    return ["docker", "compose"]


def _options(context: Context, given: schema.ComposeUp | schema.ComposeDown) -> list[str]:
    file = context.path(given.file)
    # Not of pathlib, whose question may be an error by itself.
    if not os.path.isfile(file):
        raise NodeFailure(f"{file} does not exist")
    options = ["--file", str(file), "--ansi", "never", "--progress", "plain"]
    if given.project is not None:
        options += ["--project-name", given.project]
    for profile in given.profiles:
        options += ["--profile", profile]
    return options


def _failure(verb: str, done: commands.CompletedProgram, outputs: dict[str, Any]) -> NodeFailure:
    """In compose's own last words. An engine or a registry that is away may come back."""
    said = done.complaint
    text = f"docker compose {verb} ended with exit code {done.exit_code}{f': {said}' if said else ''}"
    may_retry = done.exit_code == _PULL_FAILED or "Cannot connect to the Docker daemon" in done.stderr
    return NodeFailure(text, may_retry=may_retry, outputs=outputs)


class ComposeUpNode(Node[schema.ComposeUp]):
    """The services of the file, up."""

    parameters = schema.ComposeUp

    async def run(self, context: Context, given: schema.ComposeUp) -> dict[str, Any]:
        """See the base class."""
        program = [*await _program(context), *_options(context, given)]
        env = {**context.env, **given.env}
        argv = [*program, "up", "--detach"]
        argv += ["--build"] if given.build else []
        argv += ["--wait"] if given.wait else []
        argv += ["--pull", given.pull] if given.pull is not None else []
        argv += ["--remove-orphans"] if given.remove_orphans else []
        done = await commands.run(argv, cwd=context.directory, env=env)
        shown = await commands.run(
            [*program, "ps", "--all", "--format", "json"], cwd=context.directory, env=env, is_shown=False
        )
        services = _services(shown)
        if done.exit_code:
            raise _failure("up", done, {"services": services or []})
        if shown.exit_code:
            raise _failure("ps", shown, {"services": []})
        if services is None:
            raise NodeFailure("docker compose ps printed what is no list of services", outputs={"services": []})
        return {"services": services}


def _services(shown: commands.CompletedProgram) -> list[dict[str, Any]] | None:
    """What `docker compose ps` says of each; None when it says nothing that can be read."""
    text = shown.stdout.strip()
    try:
        # One object a line since 2.21, a list before.
        rows = json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.splitlines()]
    except ValueError:
        return None
    if shown.exit_code:
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
    """The services of the file, gone."""

    parameters = schema.ComposeDown

    async def run(self, context: Context, given: schema.ComposeDown) -> dict[str, Any]:
        """See the base class."""
        argv = [*await _program(context), *_options(context, given), "down"]
        argv += ["--volumes"] if given.volumes else []
        argv += ["--remove-orphans"] if given.remove_orphans else []
        done = await commands.run(argv, cwd=context.directory, env={**context.env, **given.env})
        if done.exit_code:
            raise _failure("down", done, {})
        return {}
