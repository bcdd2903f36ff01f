"""The entry point of `waterflowctl`: the table of commands, whose modules are imported when they are called."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any

import click
from click.core import ParameterSource

from waterflowd import __version__
from waterflowd.ctl import settings
from waterflowd.ctl.client import Client
from waterflowd.ctl.live_values import completing

#: Sections of `--help`, in order. Command: module below `commands`, attribute, help text that fits a line of 80 columns.
SECTIONS: dict[str, dict[str, tuple[str, str, str]]] = {
    "Runs": {
        "status": ("status", "status", "Show problems, open runs and recent failures on one screen."),
        "run": ("run", "run", "Start a workflow by name or file, and wait for the result."),
        "runs": ("runs", "runs", "List runs, newest first."),
        "show": ("show", "show", "Show a run with its jobs and steps."),
        "watch": ("watch", "watch", "Watch a run until it ends; Ctrl-C does not cancel it."),
        "logs": ("logs", "logs", "Print the output of a run's steps; -f follows it."),
        "artifacts": ("artifacts", "artifacts", "List the artifacts of a run, or download one."),
        "report": ("report", "report", "Show the tables that the jobs of a run have made."),
        "events": ("logs", "events", "Print the event history of a run; -f follows it."),
        "why": ("show", "why", "Explain why a run is waiting, or why it failed."),
        "diff": ("diff", "diff", "Show what differs from the last good run, or another one."),
        "cancel": ("runs", "cancel", "Cancel a run, or several."),
        "rerun": ("rerun", "rerun", "Re-run all of a run, only what failed, or from a step on."),
        "approve": ("approve", "approve", "Approve a job or step that is waiting for approval."),
        "reject": ("approve", "reject", "Reject a job or step that is waiting for approval."),
    },
    "Workflows and repositories": {
        "workflows": ("workflows", "workflows", "List the workflows of the repositories."),
        "schedules": ("schedules", "schedules", "List schedules with their next times."),
        "nodes": ("nodes", "nodes", "List the nodes that steps can use."),
        "repositories": ("repositories", "repositories", "List, add, change and remove watched repositories."),
        "caches": ("caches", "caches", "List and delete what steps keep in caches."),
        "sync": ("sync", "sync", "Fetch repositories now."),
        "suspend": ("sync", "suspend", "Suspend a repository: pushes are ignored until `resume`."),
        "resume": ("sync", "resume", "Resume a suspended repository."),
    },
    "Administration": {
        "agents": ("administration.agents", "agents", "List, enroll, drain, revoke and remove agents."),
        "groups": ("administration.groups", "groups", "List the groups of servers, or set those of a server."),
        "tokens": ("administration.tokens", "tokens", "List, create and revoke API tokens."),
        "web": ("web", "web", "Print an address that signs a browser in, once."),
        "audit": ("administration.audit", "audit", "Show who did what, and what was refused."),
        "notify": ("administration.notify", "notify", "List where notices about failures go; send a test."),
        "prune": ("administration.prune", "prune", "Remove old runs and output by the rules of retention."),
        "reload": ("administration.reload", "reload", "Read the daemon's configuration again."),
    },
    "Without a daemon": {
        "validate": ("offline.validate", "validate", "Check workflow files."),
        "import": ("offline.import_", "import_", "Turn files of GitHub, GitLab, cron, ... into workflow files."),
        "schema": ("offline.schema", "schema", "Print the JSON Schema of workflow files, for editors."),
        "cron": ("schedules", "cron", "Show the next times of a cron expression."),
        "demo": ("offline.demo", "demo", "Try Waterflow on this machine, in a temporary directory."),
        "context": ("offline.contexts", "context", "List, add and choose the daemons that you work with."),
        "completion": ("offline.completion", "completion", "Print the script that completes commands in your shell."),
        "version": ("offline.version", "version", "Print the version."),
    },
}
COMMANDS = {name: entry for section in SECTIONS.values() for name, entry in section.items()}

_GLOBAL = ("--server", "--context")
#: In any position only with a value after `=`, because commands have a flag of this name.
_WAIT = "--wait="


class Commands(click.Group):
    """A group that imports its commands when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the sections."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module, attribute, _ = entry
        command: click.Command = getattr(importlib.import_module(f"waterflowd.ctl.commands.{module}"), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, with a suggestion for a misspelled one."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            found = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f'; did you mean "{found[0]}"?' if found else ""
            raise click.UsageError(f'unknown command "{args[0]}"{hint} (see waterflowctl --help)', ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        names = max(map(len, COMMANDS))
        for title, section in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(names), text) for name, (_, _, text) in section.items()])

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Accept `--server`, `--context` and `--wait=SECONDS` in any position before `--`."""
        return super().parse_args(ctx, _global_first(args))


def _global_first(args: Sequence[str]) -> list[str]:
    first: list[str] = []
    rest: list[str] = []
    waiting = iter(args)
    for word in waiting:
        if word == "--":
            rest += [word, *waiting]
        elif word in _GLOBAL:
            first += [word, *[value for value in [next(waiting, None)] if value is not None]]
        elif word.startswith((*(f"{name}=" for name in _GLOBAL), _WAIT)):
            first.append(word)
        else:
            rest.append(word)
    return first + rest


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--server", envvar="WATERFLOW_SERVER", metavar="URL", help="Daemon's address: http://HOST:PORT or unix:/PATH."
)
@click.option(
    "--context",
    "name",
    envvar="WATERFLOW_CONTEXT",
    metavar="NAME",
    shell_complete=completing("contexts"),
    help="The daemon of this context; see `waterflowctl context`.",
)
@click.option(
    "--wait",
    type=click.FloatRange(0, 3_600),
    default=5.0,
    show_default=True,
    envvar="WATERFLOW_WAIT",
    metavar="SECONDS",
    help="How long to wait for a daemon that is just starting; after a command as --wait=SECONDS.",
)
@click.version_option(__version__, prog_name="waterflowctl", message="%(prog)s %(version)s")
@click.pass_context
def cli(context: click.Context, server: str | None, name: str | None, wait: float) -> None:
    """Start, watch and understand the runs of Waterflow.

    Exit codes: 0 ok, 1 the run failed, 2 usage, 3 cancelled, 4 daemon unreachable, 5 request refused.
    """
    if all(context.get_parameter_source(option) is ParameterSource.COMMANDLINE for option in ("server", "name")):
        raise click.UsageError("--server and --context both name a daemon; use one of them")
    context.obj = LazyClient(*settings.chosen(context), wait)
    context.call_on_close(context.obj.close)


class LazyClient:
    """Creates the client when a command first uses it; offline commands never do."""

    def __init__(self, server: str | None, context: str | None, wait_s: float) -> None:
        self._server = server
        self._context = context
        self._wait_s = wait_s
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        """The client for the chosen daemon."""
        if self._client is None:
            self._client = Client(settings.load(self._server, self._wait_s, self._context))
        return self._client

    def close(self) -> None:
        """Close the client, if one was created."""
        if self._client is not None:
            self._client.close()


def main(arguments: Sequence[str] | None = None) -> Any:
    """Run the command line; ends the process with one of the exit codes above."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            # In a C locale, names outside ASCII are escaped instead of ending the command.
            reconfigure(errors="backslashreplace")
    return cli.main(args=list(arguments) if arguments is not None else None, prog_name="waterflowctl")


if __name__ == "__main__":
    main()
