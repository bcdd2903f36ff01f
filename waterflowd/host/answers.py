"""What the log engine knows at once: it owns the slots, locks and child runs of all runs, so it answers for them within a turn.

Rules of this file: slots and locks are taken and freed in the order of the commands, because the next step of a job may get the
slot that the last one has just freed. An answer for another run is not part of this turn: it goes to `others`. Timers, and what
leaves the daemon, are left to the batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from waterflowd.engine import Run, commands, inputs
from waterflowd.fleet.locks import Holder
from waterflowd.fleet.placement import ServerListRequest
from waterflowd.host import child_runs, fleet_requests
from waterflowd.host.fleet_requests import attempt_id
from waterflowd.host.live_state import LiveState
from waterflowd.model.ids import RunId


class LiveAnswers:
    """Implements `turn.Answers` over the live state."""

    def __init__(self, state: LiveState, others: deque[tuple[RunId, inputs.Input]]) -> None:
        """`others` receives the inputs that one run causes for other runs."""
        self._state = state
        self._others = others

    def answer(self, run: Run, command: commands.Command) -> Sequence[inputs.Input] | None:
        """See `turn.Answers`."""
        state = self._state
        # The most frequent ones first.
        match command:
            case commands.RequestSlot():
                return (fleet_requests.request_slot(state, run, command),)
            case commands.FreeSlot(agent=agent):
                state.placement.free(agent, attempt_id(run.id, command))
            case commands.SendTask() | commands.ArmTimer() | commands.DropTimer() | commands.ReleaseJob():
                return None
            case commands.ListServers():
                return (fleet_requests.list_servers(state.placement, state.access, run, command),)
            case commands.DropServerList(job=job):
                state.placement.drop_list_request(ServerListRequest(run.id, job))
            case commands.AcquireLock():
                return self._lock(run, command)
            case commands.ReleaseLock(job=job):
                state.locks.release(Holder(run.id, job))
            case commands.StartChildRun():
                state.child_runs.request(attempt_id(run.id, command))
            case commands.WatchChildRun():
                return self._watch(run, command)
            case commands.DropChildRun():
                state.child_runs.drop(attempt_id(run.id, command))
            case commands.CancelSlotRequest():
                state.placement.cancel(attempt_id(run.id, command))
            case _:
                return None
        return ()

    def _watch(self, run: Run, command: commands.WatchChildRun) -> Sequence[inputs.Input]:
        """Waits for the end of a child run; returns its result if it has ended."""
        attempt, state = attempt_id(run.id, command), self._state
        child = state.runs.get(command.run)
        if child is None and command.run not in state.stalled:
            child = state.child_runs.look_up(command.run)
            if child is None:
                return (child_runs.missing(attempt, command.run),)
        if child is not None and child.is_completed:
            return (child_runs.ended(attempt, child),)
        state.child_runs.watch(attempt, command.run)
        return ()

    def _lock(self, run: Run, command: commands.AcquireLock) -> Sequence[inputs.Input]:
        locks = self._state.locks
        request = fleet_requests.lock_request(run, command)
        own: list[inputs.Input] = []
        is_waiting = False
        for answer in locks.request(request):
            if answer.holder.run == run.id:
                own.append(fleet_requests.lock_answer(answer))
            else:
                self._others.append((answer.holder.run, fleet_requests.lock_answer(answer)))
            is_waiting |= answer.holder == request.holder and not answer.is_granted and not answer.is_refused
        if is_waiting and command.cancel_in_progress:
            holders = locks.holders(request.repository, request.group)
            self._others.extend(fleet_requests.lock_cancellations(holders, request))
        return own
