"""What the agent holds and what it owes the daemon. Pure: no file, socket, clock or process.

An attempt's way: accepted, started, finished, and gone once the daemon has its result and its output. `Ledger` decides what
each message, start, end and acknowledgement means and answers with a `LedgerAction` for the shell; `records` is what the
journal keeps so that a later start of the agent knows the same.

Rules:

- A key that was seen is never started again, whatever arrives.
- One attempt of a step at a time: a second one is refused while the first is alive.
- A result is final, and is kept until the daemon has acknowledged it.
- An outcome that nobody can know is `lost`, never a success; an attempt that surely never began is `refused`.
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
    "LedgerEntry",
    "LedgerAction",
    "ReleaseAttempt",
    "ReportResult",
    "RunnerView",
    "StartAttempt",
    "StopAttempt",
]
