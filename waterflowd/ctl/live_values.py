"""What a shell offers while a command is typed: the runs, workflows, agents and so on of the daemon.

Rules of this file: a shell that completes must not wait long or show errors, so a daemon that does not answer within
`_TIMEOUT_S` has no values. What asks it is imported only then.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import click
from click.shell_completion import CompletionItem

from waterflowd.ctl.failures import Failure

_TIMEOUT_S = 2.0
#: The statuses of runs, then their conclusions.
STATUSES = (
    *("queued", "waiting", "running", "completed"),
    *("success", "failure", "cancelled", "timed-out", "skipped", "lost"),
)
#: Newest runs that are offered.
_RUNS_MAX = 100
_ROWS_MAX = 1_000


def completing(kind: str) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    """Return what completes a parameter with the values of a kind, one of `KINDS`."""
    return lambda context, _parameter, incomplete: starting_with(context.find_root(), kind, incomplete)


def starting_with(root: click.Context, kind: str, incomplete: str) -> list[CompletionItem]:
    """Return the values of a kind that begin with what has been typed, sorted, without duplicates.

    Where a workflow is wanted and none has such a name, the shell offers files.
    """
    try:
        values = set(KINDS[kind](root))
    except Failure:
        values = set()
    found = sorted(value for value in values if value.startswith(incomplete) and value.isprintable())
    if not found and kind == "workflows":
        return [CompletionItem(incomplete, type="file")]
    return [CompletionItem(value) for value in found]


def _rows(root: click.Context, path: str, key: str, limit: int = _ROWS_MAX) -> list[dict[str, Any]]:
    from waterflowd.ctl import settings
    from waterflowd.ctl.client import Client

    server, context = settings.chosen(root)
    client = Client(dataclasses.replace(settings.load(server, 0.0, context), answer_s=_TIMEOUT_S))
    try:
        return list(client.pages(path, key, limit))
    finally:
        client.close()


def _caches(root: click.Context) -> Iterator[str]:
    return (row["key"] for row in _rows(root, "/v1/caches", "caches"))


def _contexts(_root: click.Context) -> Iterator[str]:
    from waterflowd.ctl.contexts import Contexts, default_path

    yield from Contexts(default_path()).by_name


def _runs(root: click.Context) -> Iterator[str]:
    for row in _rows(root, "/v1/runs", "runs", _RUNS_MAX):
        yield row["id"]
        if row.get("name"):
            yield row["name"]
            yield f"{row['name']}#{row['number']}"


def _statuses(_root: click.Context) -> Iterator[str]:
    yield from STATUSES


def _named(path: str, key: str) -> Callable[[click.Context], Iterator[str]]:
    def names(root: click.Context) -> Iterator[str]:
        for row in _rows(root, path, key):
            if row.get("name"):
                yield row["name"]

    return names


#: The kinds of values, and how they are found.
KINDS: dict[str, Callable[[click.Context], Iterator[str]]] = {
    "caches": _caches,
    "contexts": _contexts,
    "runs": _runs,
    "statuses": _statuses,
    "workflows": _named("/v1/definitions", "definitions"),
    "agents": _named("/v1/agents", "agents"),
    "repositories": _named("/v1/repositories", "repositories"),
    "tokens": _named("/v1/tokens", "tokens"),
    "schedules": _named("/v1/schedules", "schedules"),
}
