"""The entry point of `waterflowctl`: the table of commands, imported one by one when they are called."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any

import click

from waterflowd import __version__
from waterflowd.ctl.client import Client

#: Command: module, attribute, what it does. The order is the one of `--help`.
COMMANDS: dict[str, tuple[str, str, str]] = {
    "status": ("status", "status", "One screen: what is wrong, what runs, what waits and why, what failed last."),
    "run": ("run", "run", "Start a workflow by name, or a file, and wait for its result."),
    "runs": ("runs", "runs", "List runs, newest first."),
    "show": ("runs", "show", "Show a run with its jobs and steps; --at SEQ as it was then."),
    "watch": ("run", "watch", "Watch a run until it ends; Ctrl-C leaves it going."),
    "logs": ("logs", "logs", "Print what a run's steps printed; -f follows."),
    "events": ("logs", "events", "Print a run's event history; -f follows."),
    "why": ("runs", "why", "Say why a run is not going on, or why it failed."),
    "cancel": ("runs", "cancel", "Ask for a run's end."),
    "rerun": ("rerun", "rerun", "Run again: all of it, only what failed, or from a step on."),
    "approve": ("approvals", "approve", "Approve what waits for people."),
    "reject": ("approvals", "reject", "Reject what waits for people."),
    "validate": ("validate", "validate", "Check workflow files; needs no daemon."),
    "schema": ("schema", "schema", "Print the JSON Schema of workflow files, for editors; needs no daemon."),
    "cron": ("schedules", "cron", "Show when a cron expression comes next; needs no daemon."),
    "workflows": ("repositories", "workflows", "List the workflows that the repositories hold."),
    "schedules": ("schedules", "schedules", "List schedules with their next instants, in UTC and in their zones."),
    "sync": ("repositories", "sync", "Look at the repositories' remotes now."),
    "suspend": ("repositories", "suspend", "Stop looking at a repository until it is resumed."),
    "resume": ("repositories", "resume", "Look at a suspended repository again."),
    "agents": ("agents", "agents", "List agents; make join tokens, approve and revoke."),
    "groups": ("agents", "groups", "List groups of servers."),
    "nodes": ("agents", "nodes", "List what a step can use."),
    "tokens": ("tokens", "tokens", "List, create and revoke API tokens."),
    "audit": ("audit", "audit", "Show who did what, and who was refused."),
    "version": ("version", "version", "Print the version."),
    "demo": ("demo", "demo", "Everything on this machine in a temporary directory: see it work."),
}

_GLOBAL = "--server"


class Commands(click.Group):
    """A group that imports its commands when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports one command."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module, attribute, _ = entry
        command: click.Command = getattr(importlib.import_module(f"waterflowd.ctl.commands.{module}"), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Finds the command, with a suggestion for a misspelt one."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            found = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f'; did you mean "{found[0]}"?' if found else ""
            raise click.UsageError(f'there is no command "{args[0]}"{hint} (waterflowctl --help lists them)', ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Takes `--server` wherever it stands before `--`."""
        return super().parse_args(ctx, _global_first(args))


def _global_first(args: Sequence[str]) -> list[str]:
    first: list[str] = []
    rest: list[str] = []
    waiting = iter(args)
    for word in waiting:
        if word == "--":
            rest += [word, *waiting]
        elif word == _GLOBAL:
            first += [word, *[value for value in [next(waiting, None)] if value is not None]]
        elif word.startswith(f"{_GLOBAL}="):
            first.append(word)
        else:
            rest.append(word)
    return first + rest


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--server", envvar="WATERFLOW_SERVER", metavar="URL", help="http://HOST:PORT or unix:/PATH.")
@click.version_option(__version__, prog_name="waterflowctl", message="%(prog)s %(version)s")
@click.pass_context
def cli(context: click.Context, server: str | None) -> None:
    """Start, watch and understand Waterflow's runs.

    Exit codes: 0 ok, 1 the run failed, 2 usage, 3 cancelled, 4 daemon unreachable, 5 request refused.
    """
    context.obj = Lazy(server)
    context.call_on_close(context.obj.close)


class Lazy:
    """The client, made when a command first asks for it; offline commands never do."""

    def __init__(self, server: str | None) -> None:
        self._server = server
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        """The client of the chosen daemon."""
        if self._client is None:
            from waterflowd.ctl import settings

            self._client = Client(settings.load(self._server))
        return self._client

    def close(self) -> None:
        """Closes what was opened."""
        if self._client is not None:
            self._client.close()


def main(arguments: Sequence[str] | None = None) -> Any:
    """Runs the command line; ends the process with an exit code of the table above."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            # In a C locale a name outside ASCII is shown escaped instead of ending the command.
            reconfigure(errors="backslashreplace")
    return cli.main(args=list(arguments) if arguments is not None else None, prog_name="waterflowctl")


if __name__ == "__main__":
    main()
