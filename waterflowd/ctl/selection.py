"""Which runs a command is about: the options that `runs` and the actions on several runs have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from waterflowd.ctl.live_values import completing
from waterflowd.ctl.times import EXAMPLES, Time

_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])

#: Statuses of runs that have not ended, and conclusions of those that failed, as the API takes them.
OPEN = "queued,waiting,running"
FAILED = "failure,timed-out,lost"

_OPTIONS = (
    click.option("--name", shell_complete=completing("workflows"), help="Only runs of this workflow (name or path)."),
    click.option("--branch", help="Only runs on this branch, or on a ref such as refs/tags/v1."),
    click.option("--trigger", help="push, schedule, webhook, workflow_run, parent_run, api, cli, manual or rerun."),
    click.option("--revision", help="Only runs of this commit."),
    click.option("--group", help="Only runs that used this group of servers."),
    click.option(
        "--agent", "server", shell_complete=completing("agents"), help="Only runs with a step on this server."
    ),
    click.option("--since", type=Time(), metavar="TIME", help=f"Only runs since this time: {EXAMPLES}."),
    click.option("--until", type=Time(), metavar="TIME", help="Only runs before this time."),
)
#: The names of the parameters.
NAMES = ("name", "branch", "trigger", "revision", "group", "server", "since", "until")


def selection_options(command: _Decorated) -> _Decorated:
    """Add the options that select runs."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def used(filters: dict[str, str | None]) -> list[str]:
    """Return the options that were used, as they are typed."""
    return [f"--{'agent' if name == 'server' else name}" for name in NAMES if filters[name] is not None]
