"""The daemon's worker for streams: it takes their turns, and replays their workflow code."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from temporalio.client import Client
from temporalio.worker import Worker

from waterflow_agent.errors import Stalled
from waterflowd.temporal import orders, workers
from waterflowd.temporal.gateway.abandoned import InProgress
from waterflowd.temporal.workflow import messages, shell
from waterflowd.temporal.workflow.turns import StreamActivities

#: Streams that stay in memory between their tasks. One that is not there is replayed from its event history.
STREAMS_CACHED = 1_000
#: Temporal keeps a task this long for the daemon that has the stream in memory, and then gives it to any other; so this is how
#: long runs stand still after a daemon was killed. The client's default is 10 s.
STICKY = timedelta(seconds=2)


class StreamTurns:
    """Passes each turn to the engine of its stream. Implements `messages.Turn`."""

    def __init__(self, engines: Mapping[str, messages.Turn]) -> None:
        """`engines` by the prefix of the streams that they decide for."""
        self._engines = engines

    async def __call__(self, request: messages.TurnRequest) -> messages.TurnResult:
        """See `messages.Turn`."""
        for prefix, engine in self._engines.items():
            if request.stream.startswith(prefix):
                return await engine(request)
        raise Stalled("WF401", f"this release has no engine for the stream {request.stream}; next: upgrade Waterflow")


async def take_turns(
    client: Client,
    turns: messages.Turn,
    activities: Sequence[Callable[..., Awaitable[Any]]] = (),
    in_progress: InProgress | None = None,
) -> None:
    """Takes the turns of all streams until it is cancelled. A turn that has begun is repeated by the next daemon.

    `activities` are those of streams that any daemon can carry out; `in_progress` gets to know them.
    """
    worker = Worker(
        client,
        task_queue=orders.STREAMS_QUEUE,
        workflows=[shell.Stream],
        activities=[*StreamActivities(turns, client.data_converter).all, *activities],
        max_cached_workflows=STREAMS_CACHED,
        sticky_queue_schedule_to_start_timeout=STICKY,
        graceful_shutdown_timeout=timedelta(0),
        interceptors=[in_progress] if in_progress is not None else [],
    )
    await workers.run(worker)
