"""The nodes `docker/compose-up` and `docker/compose-down`, by the command `docker compose` (version 2)."""

from __future__ import annotations

import json
from typing import Any

from waterflow_agent.nodes import commands, schema
from waterflow_agent.nodes.node import Context, Node, NodeFailure


async def _program(context: Context) -> list[str]:
    """`docker compose` where there is version 2, else a failure that says what is missing."""
    found = await commands.run(["docker", "compose", "version", "--short"], cwd=context.directory, is_shown=False)
    if found.exit_code or found.stdout.lstrip("v").startswith("1."):
        raise NodeFailure(
            "docker compose version 2 is missing on this server; next: install its plugin (docker-compose-plugin). "
            "docker-compose 1.29 of Debian 12 does not read today's files"
        )
    return ["docker", "compose"]


def _options(context: Context, given: schema.ComposeUp | schema.ComposeDown) -> list[str]:
    file = context.path(given.file)
    if not file.is_file():
        raise NodeFailure(f"{file} does not exist")
    options = ["--file", str(file), "--ansi", "never", "--progress", "plain"]
    if given.project is not None:
        options += ["--project-name", given.project]
    for profile in given.profiles:
        options += ["--profile", profile]
    return options


class Up(Node[schema.ComposeUp]):
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
        services = await self._services(context, program, env)
        if done.exit_code:
            raise NodeFailure(
                f"docker compose up ended with exit code {done.exit_code}", outputs={"services": services}
            )
        return {"services": services}

    async def _services(self, context: Context, program: list[str], env: dict[str, str]) -> list[dict[str, Any]]:
        shown = await commands.run(
            [*program, "ps", "--all", "--format", "json"], cwd=context.directory, env=env, is_shown=False
        )
        # One object a line since 2.21, a list before.
        text = shown.stdout.strip()
        try:
            rows = json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.splitlines()]
        except ValueError:
            return []
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


class Down(Node[schema.ComposeDown]):
    """The services of the file, gone."""

    parameters = schema.ComposeDown

    async def run(self, context: Context, given: schema.ComposeDown) -> dict[str, Any]:
        """See the base class."""
        argv = [*await _program(context), *_options(context, given), "down"]
        argv += ["--volumes"] if given.volumes else []
        argv += ["--remove-orphans"] if given.remove_orphans else []
        done = await commands.run(argv, cwd=context.directory, env={**context.env, **given.env})
        if done.exit_code:
            raise NodeFailure(f"docker compose down ended with exit code {done.exit_code}")
        return {}
