"""The node `systemd/unit`: starts, stops, reloads, enables or disables a unit, if it is not in the requested state.

A unit that is starting or stopping is not in that state yet; a second request waits for the first one and repeats nothing.
"""

from __future__ import annotations

from typing import Any

from waterflow_agent.nodes import commands, schema
from waterflow_agent.nodes.node import Context, Node, NodeFailure

_STARTED = ("active", "reloading")
_STOPPED = ("inactive", "failed")


class SystemdUnitNode(Node[schema.SystemdUnit]):
    """Controls a unit with `systemctl`."""

    parameters = schema.SystemdUnit

    async def run(self, context: Context, parameters: schema.SystemdUnit) -> dict[str, Any]:
        """See the base class."""
        if parameters.name.startswith("-"):
            raise NodeFailure(f'invalid unit name "{parameters.name}"')
        if parameters.daemon_reload:
            await self._do(context, "daemon-reload")
        before = await self._show(context, parameters.name)
        if before["LoadState"] == "not-found":
            raise NodeFailure(f"unit {parameters.name} not found on this server", outputs={"changed": False})
        changed = False
        if parameters.enabled is not None:
            is_enabled = before["UnitFileState"] in ("enabled", "enabled-runtime", "static", "alias")
            if is_enabled != parameters.enabled:
                await self._do(context, "enable" if parameters.enabled else "disable", parameters.name)
                changed = True
        verb = self._verb(parameters, before["ActiveState"])
        if verb is not None:
            changed = True
            try:
                await self._do(context, verb, parameters.name)
            except NodeFailure as failure:
                outputs = _outputs(await self._show(context, parameters.name), changed)
                raise NodeFailure(failure.text, outputs=outputs) from failure
        after = await self._show(context, parameters.name)
        outputs = _outputs(after, changed)
        should_run = parameters.state in ("started", "restarted", "reloaded")
        if should_run and after["ActiveState"] == "failed":
            await commands.run(["systemctl", "status", "--no-pager", "--", parameters.name], cwd=context.directory)
            raise NodeFailure(f"{parameters.name} failed; see the log above", outputs=outputs)
        context.log(
            f"{parameters.name}: {after['ActiveState']} ({after['SubState']}), {'changed' if changed else 'unchanged'}"
        )
        return outputs

    def _verb(self, parameters: schema.SystemdUnit, state: str) -> str | None:
        reload = "reload-or-restart" if parameters.reload and state in _STARTED else None
        match parameters.state:
            case "started":
                return reload if state in _STARTED else "start"
            case "stopped":
                return None if state in _STOPPED else "stop"
            case "restarted":
                return "restart"
            case "reloaded":
                return "reload-or-restart"
        return reload

    async def _show(self, context: Context, name: str) -> dict[str, str]:
        properties = ("LoadState", "ActiveState", "SubState", "UnitFileState")
        argv = ["systemctl", "show", f"--property={','.join(properties)}", "--", name]
        result = await commands.run(argv, cwd=context.directory, is_echoed=False)
        if result.exit_code:
            raise NodeFailure("cannot connect to systemd on this server", may_retry=True)
        values = dict(line.split("=", 1) for line in result.stdout.splitlines() if "=" in line)
        return {name: values.get(name, "") for name in properties}

    async def _do(self, context: Context, verb: str, *names: str) -> None:
        done = await commands.run(["systemctl", verb, *(["--", *names] if names else [])], cwd=context.directory)
        if done.exit_code:
            raise NodeFailure(f"systemctl {' '.join((verb, *names))} ended with exit code {done.exit_code}")


def _outputs(found: dict[str, str], changed: bool) -> dict[str, Any]:
    return {
        "changed": changed,
        "active": found["ActiveState"],
        "sub-state": found["SubState"],
        "enabled": found["UnitFileState"],
    }
