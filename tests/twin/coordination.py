"""What a daemon does besides turns: the activities of locks and child runs, on the in-memory Temporal.

The real ones (`waterflowd/temporal/coordination`) need Temporal's client, which the real server tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from temporalio.api.common.v1 import Payload

from tests.twin.cluster import Cluster
from waterflow_agent.errors import Rejected
from waterflowd.dsl import compile_workflow
from waterflowd.engine import Run, inputs
from waterflowd.host import child_runs
from waterflowd.model.ids import RunId, run_stream
from waterflowd.model.records import StartRequest
from waterflowd.temporal import orders
from waterflowd.temporal.workflow import messages


class Coordination:
    """Carries out orders that concern other streams. `find` reads a run, `start` starts one under this id."""

    def __init__(
        self,
        cluster: Cluster,
        payload: Callable[[object], Payload],
        *,
        find: Callable[[RunId], Run],
        start: Callable[[RunId, StartRequest], None],
        files: Mapping[str, str],
    ) -> None:
        self._cluster = cluster
        self._payload = payload
        self._find = find
        self._start = start
        self._files = files

    def carry_out(self, order: orders.AnyOrder) -> bytes | None:
        """The result of the activity; None for an order that is a gateway's."""
        match order:
            case orders.LockOrder(request=request):
                stream = orders.lock_stream(request.repository, request.group)
                if self._cluster.running(stream) is None:
                    self._cluster.start(stream, self._payload(messages.Begin()))
                self._send(stream, order)
                return b""
            case orders.UnlockOrder():
                self._send(orders.lock_stream(order.repository, order.group), order)
                return b""
            case orders.LookOrder(runs=runs):
                ended = tuple(run for run in runs if self._cluster.running(run_stream(run)) is None)
                return orders.ORDERS.pack(orders.EndedRuns(runs=ended))
            case orders.ChildRunOrder():
                return orders.INPUTS.pack(self._start_child(order))
            case orders.ChildLookOrder(child=child, attempt=attempt):
                if self._cluster.running(run_stream(child)) is not None:
                    return b""
                return orders.INPUTS.pack(child_runs.ended(attempt, self._find(child)))
        return None

    def _send(self, stream: str, order: orders.AnyOrder) -> None:
        self._cluster.signal(stream, messages.INPUT_SIGNAL, self._payload(orders.ORDERS.pack(order)))

    def _start_child(self, order: orders.ChildRunOrder) -> inputs.Input:
        if order.path not in self._files:
            cause = child_runs.refusal(Rejected("WF135", f'there is no workflow file "{order.path}"'))
            return child_runs.not_started(order.attempt, cause, is_refused=True)
        others = {path: content.encode() for path, content in self._files.items()}
        compiled = compile_workflow(order.path, others[order.path], others)
        assert compiled.plan is not None, compiled.diagnostics
        if run_stream(order.child) not in self._cluster.streams:
            self._start(order.child, child_runs.with_plan(order.request, compiled.plan, order.arguments))
        return inputs.ChildRunCreated(
            job=order.attempt.job,
            step=order.attempt.step,
            attempt=order.attempt.number,
            run=order.child,
            name=order.path,
            number=1,
        )
