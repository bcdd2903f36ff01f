"""Whether a namespace has open runs, for a daemon that must not leave them behind.

Nothing is opened: ids of runs are readable, so no payload keys are needed.
"""

from __future__ import annotations

from datetime import timedelta

from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.converter import DataConverter
from temporalio.service import RPCError

from waterflow_agent.errors import Retryable
from waterflowd.temporal import cluster, run_turns
from waterflowd.temporal.cluster import ClusterSettings
from waterflowd.temporal.reading.stream_reader import RUNS

_QUERY = f"{RUNS} AND ExecutionStatus = 'Running'"
_CALL_TIMEOUT = timedelta(seconds=cluster.CONNECT_S_MAX)


async def namespace_id(client: Client) -> str:
    """The id of the client's namespace, which never changes and is never used again. Raises `RPCError`."""
    request = DescribeNamespaceRequest(namespace=client.namespace)
    answer = await client.workflow_service.describe_namespace(request, timeout=_CALL_TIMEOUT)
    return str(answer.namespace_info.id)


async def find(settings: ClusterSettings, expected_id: str, limit: int) -> tuple[list[str], int]:
    """Some ids of open runs, and how many there are.

    Raises `WaterflowError` when the cluster cannot be reached or does not answer, and WF802 if it has no namespace of that id.
    """
    try:
        client = await cluster.connect(settings, DataConverter.default, "waterflowd")
        found_id = await namespace_id(client)
        if found_id != expected_id:
            text = f"{settings.address} has another namespace {settings.namespace} now, with id {found_id}"
            raise Retryable("WF802", text, after_s=5.0)
        count = (await client.count_workflows(_QUERY, rpc_timeout=_CALL_TIMEOUT)).count
        found = client.list_workflows(_QUERY, limit=limit, rpc_timeout=_CALL_TIMEOUT)
        runs = [execution.id.removeprefix(run_turns.PREFIX) async for execution in found]
    except RPCError as error:
        text = f"{settings.address} did not answer: {error.message} ({error.status.name})"
        raise Retryable("WF802", text, after_s=5.0) from error
    return runs, max(count, len(runs))
