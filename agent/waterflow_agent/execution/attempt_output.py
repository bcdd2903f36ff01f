"""The output and results of attempts, with their secrets masked.

Rules of this file: whatever an attempt printed or returned is masked before it is stored or sent. When the secrets of an
attempt are no longer known, its output is withheld, because it cannot be masked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import msgspec

from waterflow_agent.display import single_line
from waterflow_agent.execution.masking import Masking
from waterflow_agent.execution.output import OutputLog, OutputSender
from waterflow_agent.nodes.outcome import STDERR, NodeResult, masked, withheld
from waterflow_agent.state.job_masks import VALUES_MAX
from waterflow_agent.state.ledger import LedgerEntry
from waterflow_agent.state.secret_store import SecretStore
from waterflow_agent.wire.messages import JobName, OutputChunk, Task, TaskId


class AttemptOutput:
    """The output of all attempts of one agent, from the runner's spools to the daemon's acknowledgement."""

    def __init__(self, sender: OutputSender, secrets: SecretStore, spool_path: Callable[[TaskId], str]) -> None:
        self.sender = sender
        self._secrets = secrets
        self._spool_path = spool_path

    def restore(self, entries: Sequence[LedgerEntry]) -> None:
        """Continues with the attempts of an earlier process of the agent, and deletes the secrets of all others."""
        self._secrets.sweep(entry.key for entry in entries if entry.has_secrets)
        for entry in entries:
            if entry.result is None or not entry.result.output_bytes:
                continue
            is_complete = True
            if entry.has_spool:
                is_complete = self.open(entry)
            else:
                self.sender.open(entry.key, None)
            self.sender.finish(entry.key, entry.printed if is_complete else [], entry.result.output_bytes)

    def with_job_secrets(self, task: Task) -> Task:
        """Returns a task that masks what earlier steps of its job have masked."""
        return self._secrets.with_job(task)

    def release_job(self, job: JobName, *, kept_at: int | None) -> None:
        """Forgets what the steps of a job have masked; with `kept_at`, once a re-run cannot continue the job any longer."""
        self._secrets.release_job(job, kept_at=kept_at)

    def keep_secrets(self, key: TaskId, values: list[str]) -> None:
        """Stores the secrets of an attempt before it starts."""
        self._secrets.keep(key, values)

    def open(self, entry: LedgerEntry) -> bool:
        """Starts to send what the process prints. Returns False when the output is withheld."""
        masks = self._secrets.get(entry.key) if entry.has_secrets else None
        is_known = masks is not None or not entry.has_secrets
        self.sender.open(entry.key, self._spool_path(entry.key) if is_known else None, masks)
        return is_known

    def log_to_measure(self, entry: LedgerEntry) -> OutputLog:
        """Returns a log whose size can be measured. Masking is expensive, so it continues where sending is now."""
        self.open(entry)
        return self.sender.copy_log(entry.key)

    def mask(self, entry: LedgerEntry, end: NodeResult, log: OutputLog | None = None) -> NodeResult:
        """Returns the end of an attempt without secrets. `log` is its measured log, which knows what it masked itself."""
        masks: Masking | None = None
        if entry.has_secrets:
            masks = self._secrets.get(entry.key)
            if masks is None:
                return withheld(end)
        if log is None or log.masks is None or not log.added_masks:
            return end if masks is None else masked(end, masks)
        result = masked(end, log.masks)
        notes = _notes(self._secrets.keep_for_job(entry.key, log.added_masks), end, result)
        # The name of an output may contain a masked value, too.
        return msgspec.structs.replace(
            result, printed=[*result.printed, *((STDERR, log.masks.data(note)) for note in notes)]
        )

    def finish_process(self, entry: LedgerEntry, printed: Sequence[OutputChunk], total: int, *, is_clean: bool) -> bool:
        """Notes the size of a finished process's log, which ends with `printed`.

        `is_clean` says that the log was searched and contains no secret. Returns whether the daemon has all of it already.
        """
        if is_clean:
            self.sender.mark_clean(entry.key)
        return self.sender.finish(entry.key, printed, total)

    def finish_unstarted(self, key: TaskId, printed: Sequence[OutputChunk], total: int) -> None:
        """Sends what the agent itself printed for an attempt without a process."""
        self.sender.drop(key)
        self.sender.open(key, None)
        self.sender.finish(key, printed, total)

    def release(self, key: TaskId) -> None:
        """Forgets the attempt's output and its secrets."""
        self.sender.drop(key)
        self._secrets.drop(key)


def _notes(unmasked: int, before: NodeResult, after: NodeResult) -> Iterator[bytes]:
    """Yields what the author of a step with `::add-mask::` has to know."""
    names = sorted(
        [name for name, value in before.outputs.items() if after.outputs.get(name) != value]
        + [name for name, value in before.env.items() if after.env.get(name) != value]
    )
    if names:
        shown = single_line(", ".join(names), 200)
        text = f"these outputs and variables contain a masked value, so later steps get *** in its place: {shown}"
        yield f"waterflow: {text}; a file in $RUNNER_TEMP can pass it on within the job\n".encode()
    if unmasked:
        text = f"{unmasked} of the values that this step masked are not masked in later steps: a job may mask"
        yield f"waterflow: {text} {VALUES_MAX} values\n".encode()
