"""Recovery of a run: what the host does for a run that was folded from the log.

Rules of this file: the commands come from `outstanding`, so a restart and the live path do the same. Tasks on agents keep their
slots; what an agent is missing is sent when it connects. A command that needs an answer is deferred to a batch, which records
the answer.
"""

from __future__ import annotations

from waterflowd.engine import Run, commands, outstanding
from waterflowd.engine.outstanding import outstanding_of_block, outstanding_of_job_alone
from waterflowd.host import fleet_requests
from waterflowd.host.fleet_requests import attempt_id
from waterflowd.host.live_state import LiveState
from waterflowd.model.statuses import Status

#: A command that a later batch carries out if it is still outstanding then.
DeferredCommand = (
    commands.RequestSlot | commands.ListServers | commands.SendTask | commands.WatchChildRun | commands.CancelChildRun
)


def resume(state: LiveState, run: Run) -> list[DeferredCommand]:
    """Restores timers, slots, locks, child runs and started jobs of a run; returns the commands for the next batch."""
    deferred: list[DeferredCommand] = []
    for item in run.jobs:
        if item.agent is not None and item.status is not Status.COMPLETED and item.retry_at is None:
            state.started_jobs.start(item.agent, run.id, item.id)
    for command in outstanding(run):
        match command:
            case commands.ArmTimer(timer=timer):
                state.timers.arm(run.id, timer)
            case commands.SendTask(agent=agent):
                state.placement.hold(agent, attempt_id(run.id, command))
            case commands.AcquireLock(job=job):
                lock = run.lock if job is None else run.jobs_by_id[job].lock
                if lock is not None and lock.is_held:
                    state.locks.hold(fleet_requests.lock_request(run, command))
                else:
                    # Now and not in the batch: runs that arrive later must queue behind this one.
                    state.locks.wait(fleet_requests.lock_request(run, command))
            case commands.StartChildRun():
                state.child_runs.request(attempt_id(run.id, command))
            case commands.RequestSlot() | commands.ListServers() | commands.WatchChildRun() | commands.CancelChildRun():
                deferred.append(command)
            case _:
                pass
    return deferred


def outstanding_near(run: Run, command: DeferredCommand) -> tuple[commands.Command, ...]:
    """The outstanding commands of the job or block that a deferred command belongs to."""
    job = run.jobs_by_id.get(command.job)
    if job is None:
        # The batch that created the job was undone by a full disk.
        return ()
    if isinstance(command, commands.ListServers):
        return outstanding_of_job_alone(run, job)
    step = job.steps_by_id.get(command.step)
    if step is None or step.block.number not in job.blocks:
        return ()
    return outstanding_of_block(run, job, step.block)
