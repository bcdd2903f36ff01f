"""What the agent holds and what it still has to deliver to the daemon. Pure: no file, socket, clock or process.

An attempt is accepted, started, finished, and removed once the daemon has its result and its output. `Ledger` decides what each
message, start, exit and acknowledgement means and returns a `LedgerAction` for the executor. `records` is what the journal
stores, so that the agent knows the same after a restart.

Rules:

- An attempt that was seen once is never started again, whatever arrives.
- One attempt of a step runs at a time: a second one is refused while the first is alive.
- A result is final and is kept until the daemon has acknowledged it.
- An unknown outcome is `lost`, never a success. An attempt that certainly never started is `refused`.
"""

from waterflow_agent.state.ledger.ledger import (
    Ledger,
    LedgerAction,
    LedgerEntry,
    ReleaseAttempt,
    ReportResult,
    RunnerView,
    StartAttempt,
    StopAttempt,
)

__all__ = [
    "Ledger",
    "LedgerAction",
    "LedgerEntry",
    "ReleaseAttempt",
    "ReportResult",
    "RunnerView",
    "StartAttempt",
    "StopAttempt",
]
