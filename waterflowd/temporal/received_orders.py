"""Reads the order of an activity, and checks that it is for the activity that received it."""

from __future__ import annotations

from typing import TypeVar

from temporalio import activity
from temporalio.exceptions import ApplicationError

from waterflowd.model.codec import UnreadableError
from waterflowd.model.ids import RunId, run_stream
from waterflowd.temporal import orders

AnyOrder = TypeVar("AnyOrder", bound=orders.Order)


def read(content: bytes, kind: type[AnyOrder]) -> AnyOrder:
    """The order. Fails in such a way that another daemon, perhaps of a newer release, tries."""
    try:
        order = orders.ORDERS.unpack(content)
    except UnreadableError as error:
        raise ApplicationError(str(error.stalled("the order of an activity")), type="WF401") from error
    if not isinstance(order, kind):
        raise _misdirected(f"it contains a {type(order).__name__}")
    return order


def check_sender(run: RunId) -> None:
    """Refuses an order of another run. A daemon writes no such orders."""
    if activity.info().workflow_id != run_stream(run):
        raise _misdirected(f"it is an order of {run_stream(run)}")


def check_activity(run: RunId, identifier: str, queue: str) -> None:
    """Refuses an order of another activity, also one of the same run. A daemon writes no such orders."""
    info = activity.info()
    if (info.workflow_id, info.activity_id, info.task_queue) != (run_stream(run), identifier, queue):
        raise _misdirected(f"it is the order of {identifier} of {run_stream(run)} on {queue}")


def _misdirected(text: str) -> ApplicationError:
    info = activity.info()
    return ApplicationError(
        f"activity {info.activity_id} of {info.workflow_id} on {info.task_queue} was refused: {text}",
        type="misdirected",
        non_retryable=True,
    )
