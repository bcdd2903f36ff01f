"""The node `systemd/unit`: a unit as it should be: started or stopped, enabled or not, and only changed when it is not so.

A unit on its way is not there yet: asking systemd for what it is already about to do waits for it, and starts nothing twice.
"""

from __future__ import annotations

from typing import Any

from waterflow_agent.nodes import commands, schema
from waterflow_agent.nodes.node import Context, Node, NodeFailure

_STARTED = ("active", "reloading")
_STOPPED = ("inactive", "failed")


class SystemdUnitNode(Node[schema.SystemdUnit]):
    """Talks to systemd by `systemctl`, as an operator would."""

    parameters = schema.SystemdUnit

    async def run(self, context: Context, given: schema.SystemdUnit) -> dict[str, Any]:
        """See the base class."""
        if given.name.startswith("-"):
            raise NodeFailure(f'"{given.name}" is no name of a unit')
        if given.daemon_reload:
            await self._do(context, "daemon-reload")
        before = await self._show(context, given.name)
        if before["LoadState"] == "not-found":
            raise NodeFailure(f"there is no unit {given.name} on this server", outputs={"changed": False})
        changed = False
        if given.enabled is not None:
            is_enabled = before["UnitFileState"] in ("enabled", "enabled-runtime", "static", "alias")
            if is_enabled != given.enabled:
                await self._do(context, "enable" if given.enabled else "disable", given.name)
                changed = True
        verb = self._verb(given, before["ActiveState"])
        if verb is not None:
            changed = True
            try:
                await self._do(context, verb, given.name)
            except NodeFailure as failure:
                outputs = _outputs(await self._show(context, given.name), changed)
                raise NodeFailure(failure.text, outputs=outputs) from failure
        after = await self._show(context, given.name)
        outputs = _outputs(after, changed)
        wanted = given.state in ("started", "restarted", "reloaded")
        if wanted and after["ActiveState"] == "failed":
            await commands.run(["systemctl", "status", "--no-pager", "--", given.name], cwd=context.directory)
            raise NodeFailure(f"{given.name} has failed; the log above says why", outputs=outputs)
        context.log(
            f"{given.name}: {after['ActiveState']} ({after['SubState']}), {'changed' if changed else 'as it should be'}"
        )
        return outputs

    def _verb(self, given: schema.SystemdUnit, state: str) -> str | None:
        reload = "reload-or-restart" if given.reload and state in _STARTED else None
        match given.state:
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
        shown = await commands.run(argv, cwd=context.directory, is_shown=False)
        if shown.exit_code:
            raise NodeFailure("systemd does not answer on this server", may_retry=True)
        values = dict(line.split("=", 1) for line in shown.stdout.splitlines() if "=" in line)
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
