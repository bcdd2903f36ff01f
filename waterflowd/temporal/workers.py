"""Runs the workers of Temporal's client, and stops them within a time limit.

Temporal's client waits for the polls of a worker that stops, for its activities, and for the cluster to hear of it. A cluster
that ends these polls itself (`frontend.enableCancelWorkerPollsOnShutdown`) is waited for as long as it does not answer. So a
daemon could not stop, and an agent could not begin its next session, while the cluster is away.

Rules of this file: what a stopped worker may still get from its last poll is returned to its queue by the next search for
abandoned activities (`gateway.abandoned`), or when its timeout has ended.
"""

from __future__ import annotations

import asyncio
import logging

from temporalio.worker import Worker

logger = logging.getLogger("waterflow.temporal")

#: How long a worker may take to stop. Normally it is milliseconds.
STOP_S_MAX = 10.0


async def run(worker: Worker) -> None:
    """Works until it is cancelled. Raises what the worker raises."""
    working = asyncio.create_task(worker.run(), name=f"worker of {worker.task_queue}")
    try:
        await asyncio.wait([working])
    except asyncio.CancelledError:
        working.cancel()
        await asyncio.wait([working], timeout=STOP_S_MAX)
        if not working.done():
            logger.warning("the worker of %s did not stop within %g s; leaving it", worker.task_queue, STOP_S_MAX)
            # The first one only told it to stop.
            working.cancel()
        elif not working.cancelled() and (error := working.exception()) is not None:
            logger.debug("the worker of %s failed while it stopped: %s", worker.task_queue, error)
        raise
    await working
