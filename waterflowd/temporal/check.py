"""What a cluster lacks before this engine can run on it, each as a sentence with the next step.

The check changes nothing in the cluster. To find out whether this daemon may write, it sends a signal to a workflow that does
not exist.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest, GetSystemInfoRequest
from temporalio.client import Client
from temporalio.converter import DataConverter
from temporalio.service import RPCError, RPCStatusCode

from waterflow_agent.errors import WaterflowError
from waterflowd.temporal import cluster
from waterflowd.temporal.cluster import ClusterSettings
from waterflowd.temporal.workflow import messages

#: Temporal deletes a run's event history this long after its end, and its id can be used again. A start that a daemon repeats,
#: and a report from an agent that was away, must arrive earlier.
RETENTION_DAYS_MIN = 7
_CALL_TIMEOUT = timedelta(seconds=cluster.CONNECT_S_MAX)
_DAY_S = 24 * 3600
#: An id that no stream has.
_NO_WORKFLOW = "waterflow-check"


class Finding(NamedTuple):
    """Something that is missing."""

    code: str
    text: str


class Report(NamedTuple):
    """The result of a check; without findings the cluster is ready."""

    #: Empty when the cluster did not answer.
    server_version: str
    findings: Sequence[Finding]
    #: The id of the namespace, which never changes; empty when it is not known.
    namespace_id: str = ""


async def check(settings: ClusterSettings, data_converter: DataConverter, identity: str) -> Report:
    """Connects, and reports everything that is missing."""
    try:
        client = await cluster.connect(settings, data_converter, identity)
        version = await _version(client)
    except WaterflowError as error:
        refused = _refused_in(error)
        return Report("", [_call_failed(settings, "connect", refused) if refused else Finding(error.code, error.text)])
    except RPCError as error:
        return Report("", [_call_failed(settings, "connect", error)])
    namespace_id, namespace = await _namespace(settings, client)
    if any(finding.code in ("WF804", "WF805") for finding in namespace):
        return Report(version, namespace)
    return Report(
        version,
        [*namespace, *await _search_attributes(settings, client), *await _permission(settings, client)],
        namespace_id,
    )


async def _version(client: Client) -> str:
    answer = await client.workflow_service.get_system_info(GetSystemInfoRequest(), timeout=_CALL_TIMEOUT)
    return str(answer.server_version)


async def _namespace(settings: ClusterSettings, client: Client) -> tuple[str, list[Finding]]:
    """The id of the namespace, and what it lacks."""
    try:
        answer = await client.workflow_service.describe_namespace(
            DescribeNamespaceRequest(namespace=settings.namespace), timeout=_CALL_TIMEOUT
        )
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            return "", [_call_failed(settings, "describe the namespace", error)]
        command = f"temporal operator namespace create --namespace {settings.namespace} --retention 30d"
        text = f"the namespace {settings.namespace} does not exist at {settings.address}; next: {command}"
        return "", [Finding("WF805", text)]
    found = str(answer.namespace_info.id)
    seconds = answer.config.workflow_execution_retention_ttl.seconds
    if seconds >= RETENTION_DAYS_MIN * _DAY_S:
        return found, []
    command = f"temporal operator namespace update --namespace {settings.namespace} --retention 30d"
    text = (
        f"the namespace {settings.namespace} deletes workflows {_days(seconds)} after their end, and runs must be kept"
    )
    return found, [Finding("WF807", f"{text} for {RETENTION_DAYS_MIN} days; next: {command}")]


async def _search_attributes(settings: ClusterSettings, client: Client) -> list[Finding]:
    try:
        answer = await client.operator_service.list_search_attributes(
            ListSearchAttributesRequest(namespace=settings.namespace), timeout=_CALL_TIMEOUT
        )
    except RPCError as error:
        return [_call_failed(settings, "list the search attributes", error)]
    types = {name: _type_name(value) for name, value in answer.custom_attributes.items()}
    findings = [
        Finding(
            "WF806",
            f"the search attribute {name} of the namespace {settings.namespace} has the type {types[name]} instead of"
            f" {kind}; next: temporal operator search-attribute remove --namespace {settings.namespace} --name {name},"
            " then check again",
        )
        for name, kind in messages.SEARCH_ATTRIBUTES.items()
        if name in types and types[name] != kind
    ]
    missing = {name: kind for name, kind in messages.SEARCH_ATTRIBUTES.items() if name not in types}
    if missing:
        options = " ".join(f"--name {name} --type {kind}" for name, kind in missing.items())
        command = f"temporal operator search-attribute create --namespace {settings.namespace} {options}"
        text = f"the namespace {settings.namespace} lacks {len(missing)} search attributes ({', '.join(missing)})"
        findings.append(Finding("WF806", f"{text}; next: {command}"))
    return findings


async def _permission(settings: ClusterSettings, client: Client) -> list[Finding]:
    """Whether this daemon may write: a signal to a workflow that does not exist must be refused as that."""
    try:
        await client.get_workflow_handle(_NO_WORKFLOW).signal(messages.RETRY_SIGNAL, rpc_timeout=_CALL_TIMEOUT)
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            return [_call_failed(settings, "send a signal", error)]
    return []


def _call_failed(settings: ClusterSettings, what: str, error: RPCError) -> Finding:
    """The sentence for a call that the cluster refused."""
    credentials = "the API key" if settings.api_key else "the certificate" if settings.cert else "this daemon"
    match error.status:
        case RPCStatusCode.UNAUTHENTICATED:
            setting = (
                "temporal.api-key-file"
                if settings.api_key
                else "temporal.cert and temporal.key, or temporal.api-key-file"
            )
            return Finding(
                "WF804",
                f"{settings.address} does not accept {credentials} ({error.message}); next: correct {setting}",
            )
        case RPCStatusCode.PERMISSION_DENIED:
            return Finding(
                "WF804",
                f"{credentials} may not {what} at {settings.address}, namespace {settings.namespace} ({error.message});"
                " next: grant it read and write access to this namespace",
            )
    return Finding(
        "WF802",
        f"the attempt to {what} at {settings.address} failed: {error.message} ({error.status.name});"
        " next: check the cluster's own log, then repeat the check",
    )


def _refused_in(error: WaterflowError) -> RPCError | None:
    """A refusal while connecting, which Temporal's client reports only as text."""
    text = str(error.__cause__ or "")
    for status in (RPCStatusCode.UNAUTHENTICATED, RPCStatusCode.PERMISSION_DENIED):
        words = "".join(word.capitalize() for word in status.name.split("_"))
        if f"code: {words}" in text or f"code: '{words}'" in text:
            return RPCError(_message_in(text), status, b"")
    return None


def _message_in(text: str) -> str:
    return text.partition('message: "')[2].partition('"')[0] or "no reason was given"


def _type_name(value: IndexedValueType.ValueType) -> str:
    return IndexedValueType.Name(value).removeprefix("INDEXED_VALUE_TYPE_").title().replace("_", "")


def _days(seconds: int) -> str:
    return f"{seconds / _DAY_S:.3g} days" if seconds != _DAY_S else "1 day"
