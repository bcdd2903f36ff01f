"""Leases: which attempts must have ended before something else starts, and when that is certain.

Rules of this file: pure arithmetic on the plan and the state.

An attempt is exclusive when its end lets the engine start work elsewhere that must not run beside it: the next try of its
job, on another server, or the next holder of a concurrency group that its job or run holds. An exclusive attempt gets a
lease: its server stops it by itself when the daemon has not confirmed the agent's session for `lease_ms`, counted from the
moment at which the agent sent the message that was confirmed. The log ends the attempt only when its server says so, or when
`over_after_ms` has passed since the daemon's last news of the server; then its processes have ended, whatever has happened
to the server, the agent and the network. So nothing that waits for its end overlaps with it.

A child run that a step waits for is part of that step. So all its attempts are exclusive if the end of the step may start
something elsewhere, and a forced cancel of the step waits for the child run.

All other attempts continue without the daemon, as long as it takes: repeating them is not allowed, or only on the same
server, which runs one attempt of a step at a time. A step with `on-lost: hold` continues as well: its end starts nothing.
"""

from __future__ import annotations

from waterflowd.engine.state.blocks import Step
from waterflowd.engine.state.runs import Job, Run
from waterflowd.model.plan import OnLost

#: A lease is shorter than `lost-after`, so that an attempt is usually reported, and not given up.
LEASE_PERCENT = 80
#: The shortest lease: a session that is lost and opened again must not end one.
LEASE_MS_MIN = 10_000
#: From the end of the grace period until no process is left: for the runner to be scheduled, and for the kernel.
KILL_MS = 5_000
#: The clocks of daemon and server may differ from real time by 1 % each: what takes 100 s by a slow clock takes 101 s, and
#: 102.02 s by a fast one. Rounded up.
DRIFT_PERCENT = 3


def lease_ms(lost_after_ms: int) -> int:
    """The lease of an exclusive attempt, for the configured `lost-after`."""
    return max(LEASE_MS_MIN, lost_after_ms * LEASE_PERCENT // 100)


def over_after_ms(lease_ms: int, grace_ms: int) -> int:
    """How long after the last news of its server a leased attempt has certainly ended, by the daemon's clock."""
    return (lease_ms + grace_ms + KILL_MS) * (100 + DRIFT_PERCENT) // 100


def is_exclusive(run: Run, job: Job, step: Step) -> bool:
    """Whether the end of an attempt of this step, if its outcome is unknown, may start something elsewhere."""
    if step.plan.on_lost is OnLost.HOLD:
        return False
    return may_start_something(run, job)


def may_start_something(run: Run, job: Job) -> bool:
    """Whether the end of a step of this job may start something elsewhere."""
    return run.trigger.is_exclusive or run.lock is not None or _may_move(job) or _has_lock(job)


def _may_move(job: Job) -> bool:
    """Whether the job may be tried again on another server. Its conclusion may hide that an attempt was lost."""
    retry = job.plan.retry
    return retry is not None and job.number < retry.max_attempts and job.pinned is None


def _has_lock(job: Job) -> bool:
    above: Job | None = job
    while above is not None:
        if above.lock is not None:
            return True
        above = above.parent
    return False
