"""The turns of the stream of a repository: those of a shared stream, and an activity for its leader.

Rules of this file: the stream always has one activity `keep`, which never ends by itself. The daemon that carries it out leads
the repository. When this daemon has ended, Temporal gives the activity to another one.
"""

from __future__ import annotations

import msgspec

from waterflowd.temporal import orders
from waterflowd.temporal.repositories import ledger
from waterflowd.temporal.shared_streams.append_turns import AppendTurns
from waterflowd.temporal.workflow import messages

#: The prefix of the streams of repositories.
PREFIX = "repo/"
#: A leader that has not been heard of for this time has ended.
HEARTBEAT_MS = 15_000


class RepositoryTurns:
    """Implements `messages.Turn` for the streams of repositories."""

    def __init__(self) -> None:
        self._appends = AppendTurns(ledger.compact, takes_signals=True)

    async def __call__(self, request: messages.TurnRequest) -> messages.TurnResult:
        """See `messages.Turn`."""
        result = await self._appends(request)
        if result.is_cold or not _needs_leader(request):
            return result
        return msgspec.structs.replace(result, commands=[*result.commands, _keep(request.stream)])


def _needs_leader(request: messages.TurnRequest) -> bool:
    ends = (messages.ActivityCompleted, messages.ActivityFailed)
    return request.begins or any(isinstance(item, ends) and item.id == orders.KEEP for item in request.inputs)


def _keep(stream: str) -> messages.ScheduleActivity:
    name = stream.removeprefix(PREFIX)
    return messages.ScheduleActivity(
        id=orders.KEEP,
        name=orders.KEEP,
        queue=orders.REPOSITORIES_QUEUE,
        content=orders.ORDERS.pack(orders.KeepOrder(repository=name)),
        heartbeat_ms=HEARTBEAT_MS,
        summary=f"lead repository {name}" if name else "look after the runs of workflows that were sent to the API",
    )
