"""Whether other gateways take activities from a queue, too: Temporal knows who has polled it in the last minutes.

Rules of this file: an answer is only a hint, for a request that nothing here can take. So it may be old, and without an answer
there are no other gateways. A process is another gateway if it belongs to another daemon: identities are `DAEMON/PROCESS`.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client
from temporalio.service import RPCError

logger = logging.getLogger("waterflow.gateway")

#: Between two questions about one queue.
LOOK_S = 5.0
_TIMEOUT = timedelta(seconds=5)


class OtherGateways:
    """See the module's docstring."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._daemon = _daemon(client.identity)
        #: By queue: when it was asked, by the loop's clock, and the answer. There are as many as groups.
        self._answers: dict[str, tuple[float, bool]] = {}

    async def poll(self, queue: str) -> bool:
        """Whether another daemon has polled the queue lately."""
        now = asyncio.get_running_loop().time()
        asked_at, answer = self._answers.get(queue, (-LOOK_S, False))
        if now - asked_at >= LOOK_S:
            answer = await self._ask(queue)
            self._answers[queue] = (now, answer)
        return answer

    async def _ask(self, queue: str) -> bool:
        request = DescribeTaskQueueRequest(
            namespace=self._client.namespace,
            task_queue=TaskQueue(name=queue),
            task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY,
        )
        try:
            found = await self._client.workflow_service.describe_task_queue(request, timeout=_TIMEOUT)
        except RPCError as error:
            logger.debug("cannot ask who polls %s: %s", queue, error)
            return False
        return any(_daemon(poller.identity) != self._daemon for poller in found.pollers)


def _daemon(identity: str) -> str:
    return identity.rpartition("/")[0] or identity
