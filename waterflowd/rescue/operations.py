"""Backup, restore and salvage of a data directory: the copies of the store, completed by what only the engine knows.

Rules of this file:

- The agents may know more than a copy: work that was decided after the copy was made may have run. So work that is open in the
  copy does not continue. Its runs are ended by force, attempts that agents held end as `lost`, and repositories are suspended,
  because a push that the copy does not know may have started its runs. People decide what runs again.
- The generation jumps to one that no daemon has had (store/opening.py), so that no earlier lease matches a later attempt:
  what agents still report of it is recorded, but changes nothing.
- People who know that nothing has run since the copy may say so; then everything continues.
- The rows, trigger keys and numbers of runs are an index: a salvage rebuilds them from the records.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import msgspec

from waterflow_agent.clock import utc_time
from waterflow_agent.errors import Stalled, WaterflowError
from waterflowd.app import bootstrap
from waterflowd.app.bootstrap import UNIONS
from waterflowd.app.config import Config
from waterflowd.engine import Run, events, fold, inputs, step
from waterflowd.host.run_summary import summary
from waterflowd.model import plan
from waterflowd.model.ids import AttemptId, RunId, StreamName, is_run_id, repository_stream, run_stream
from waterflowd.model.reasons import ReasonCode, reason
from waterflowd.model.records import Batch, RunSummary, StreamAppend
from waterflowd.model.statuses import Conclusion, Status
from waterflowd.reconcile import events as repository_events
from waterflowd.reconcile import state as repository_state
from waterflowd.rescue import archive, encryption
from waterflowd.secrets import age
from waterflowd.store import copying
from waterflowd.store import salvage as store_salvage
from waterflowd.store.check import Findings
from waterflowd.store.codec import Codec
from waterflowd.store.environment import Environment
from waterflowd.store.log import LmdbLog, read_stream
from waterflowd.store.opening import Store, open_store

#: Exit codes of `waterflowd fsck --salvage`.
EXIT_CODES = {"whole": 0, "partial": 3, "nothing": 4}
#: Rows of runs written in one transaction.
GROUP_RUNS = 500


class ClosedWork(msgspec.Struct, kw_only=True):
    """The open work of a copy, which does not continue by itself."""

    runs: list[str] = []
    #: Runs that cannot be folded; the daemon shows them as stalled.
    stalled: list[str] = []
    repositories: list[str] = []
    generation: int = 0


class RestoreResult(msgspec.Struct, kw_only=True):
    """The result of a restore; `backup` is None when the source was a copy of a data directory."""

    backup: copying.Manifest | None
    directory: str
    ended: ClosedWork


class SalvageResult(msgspec.Struct, kw_only=True):
    """The result of a salvage. `verdict` is `whole`, `partial` or `nothing`."""

    verdict: str
    directory: str
    kept: store_salvage.SalvageReport
    ended: ClosedWork


def examine(config: Config, identity_file: Path | None) -> Findings:
    """Checks the configured data directory, or the backup in its place. Raises what it finds, as `Stalled`."""
    path = Path(config.data_dir)
    if not path.is_file():
        return bootstrap.examine(config)
    return archive.examine(path, _identities(path, identity_file, path), named=str(identity_file))


def back_up(config: Config, target: Path, encrypt_to: Sequence[str] = ()) -> copying.Manifest:
    """Creates a backup, or an encrypted one for these age recipients; the daemon may be running.

    Raises what `copying.back_up`, `archive.back_up` and `encryption.parse_recipients` raise.
    """
    recipients = encryption.parse_recipients(encrypt_to)
    codec = Codec(UNIONS)

    def knows(environment: Environment, name: AttemptId) -> bool:
        return any(
            isinstance(record.event, events.AttemptDispatched)
            and (record.event.job, record.event.step, record.event.attempt) == (name.job, name.step, name.number)
            for record in read_stream(environment, codec, run_stream(name.run))
        )

    if recipients:
        return archive.back_up(Path(config.data_dir), target, recipients, knows)
    return copying.back_up(Path(config.data_dir), target, knows)


def restore(
    config: Config, source: Path, *, is_continued: bool = False, identity_file: Path | None = None
) -> RestoreResult:
    """Restores the configured data directory, which must be empty, from a backup.

    An encrypted backup needs the identity file of one of its recipients. Raises what `copying.restore_backup` and
    `archive.extract` raise.

    With `is_continued`, open work continues: only safe when no daemon has run since the backup.
    """
    target = Path(config.data_dir)
    ended = ClosedWork()
    with _copied(source, target, identity_file) as manifest, open_store(target, UNIONS, is_rescue=True) as store:
        ended.generation = store.log.generation
        if not is_continued:
            when = f" of {utc_time(manifest.made_at)}" if manifest is not None else ""
            closer = WorkCloser(store.log, f"waterflowd restore (backup{when})", ended)
            closer.end_runs(list(store.log.open_runs()))
            closer.suspend([*_repositories(store.log), *(each.name for each in config.repositories)])
    return RestoreResult(backup=manifest, directory=str(target), ended=ended)


def _copied(source: Path, target: Path, identity_file: Path | None) -> AbstractContextManager[copying.Manifest | None]:
    if not source.is_file():
        return copying.restore_backup(source, target)
    identities = _identities(source, identity_file, target)
    return copying.restored(
        source, target, lambda made: archive.extract(source, identities, made, named=str(identity_file))
    )


def _identities(source: Path, identity_file: Path | None, data_dir: Path) -> list[Any]:
    """Raises `Stalled` WF318 without a file, and `Rejected` WF622 for one that cannot be used."""
    if identity_file is None:
        if not encryption.is_encrypted(source):
            raise Stalled("WF311", f"{source} is neither a data directory nor a backup")
        raise Stalled("WF318", f"{source} is an encrypted backup; name the file that decrypts it with --identity FILE")
    return age.read_identities(identity_file, "--identity", data_dir)


def salvage(config: Config, target: Path) -> SalvageResult:
    """Saves what verifies into the new directory `target`. Raises what `store.salvage.salvage_directory` raises.

    Runs and repositories that are proven complete continue; everything else is ended as after a restore.
    """
    try:
        with store_salvage.salvage_directory(Path(config.data_dir), target) as kept:
            if not kept.records:
                raise _NothingLeft(kept)
            with open_store(target, UNIONS, is_rescue=True) as store:
                ended = _complete(store, kept, [each.name for each in config.repositories])
    except _NothingLeft as nothing:
        return SalvageResult(verdict="nothing", directory="", kept=nothing.kept, ended=ClosedWork())
    is_whole = kept.is_whole and not ended.stalled
    return SalvageResult(verdict="whole" if is_whole else "partial", directory=str(target), kept=kept, ended=ended)


class _NothingLeft(Exception):
    def __init__(self, kept: store_salvage.SalvageReport) -> None:
        super().__init__("no record is readable")
        self.kept = kept


def _complete(store: Store, kept: store_salvage.SalvageReport, configured: Sequence[str]) -> ClosedWork:
    """Rebuilds the index, and ends what is not proven complete."""
    ended = ClosedWork(generation=store.log.generation)
    _index(store.log, ended)
    cut = {StreamName(each.stream) for each in kept.cuts}
    closer = WorkCloser(store.log, "waterflowd fsck --salvage", ended)
    closer.end_runs([run for run in store.log.open_runs() if run_stream(run) in cut])
    known = _repositories(store.log)
    lost = [] if kept.records_lost == 0 and not cut else [name for name in configured if name not in known]
    closer.suspend([*(name for name in known if repository_stream(name) in cut), *lost])
    return ended


# Ending ---------------------------------------------------------------------------------------------------------------


class WorkCloser:
    """Ends the open work of the copy, as events in its log."""

    def __init__(self, log: LmdbLog, by: str, ended: ClosedWork) -> None:
        self._log = log
        self._by = by
        self._ended = ended
        self._now = max(log.last_at, time.time_ns() // 1_000_000)

    def end_runs(self, runs: Iterable[RunId]) -> None:
        """Ends these runs by force: nothing of them starts again, and the outcome of active attempts is unknown."""
        for run_id in runs:
            try:
                run = _fold(self._log, run_id)
                before = run.seq
                ending = self._end(run)
            except (WaterflowError, AssertionError, LookupError) as error:
                # The daemon shows the run as stalled, with this text.
                self._ended.stalled.append(f"{run_id}: {error}")
                continue
            append = StreamAppend(stream=run_stream(run_id), expected=before, at=self._now, events=ending)
            self._log.append_blocking(Batch(appends=[append], summaries=[summary(run)]))
            self._ended.runs.append(run_id)

    def _end(self, run: Run) -> list[events.RunEvent]:
        """First a cancel, so that attempts on agents end as lost, not cancelled; then by force, so that no cleanup runs."""
        ending = list(step(run, inputs.CancelRun(by=self._by), self._now).events)
        unknown = reason(ReasonCode.OUTCOME_UNKNOWN, f"{self._by}: the outcome is not in the log")
        for job, each in [(owner, each) for owner in run.jobs for each in owner.active_steps()]:
            attempt = each.last
            if attempt is not None and attempt.is_open and attempt.agent is not None:
                report = inputs.TaskLost(
                    job=job.id,
                    step=each.id,
                    attempt=attempt.number,
                    epoch=attempt.epoch,
                    agent=attempt.agent,
                    reason=unknown,
                )
                ending += step(run, report, self._now).events
        ending += step(run, inputs.CancelRun(by=self._by, is_forced=True), self._now).events
        # A step may wait for its child run even then; that run is ended as well.
        for job, each in [(owner, each) for owner in run.jobs for each in owner.active_steps()]:
            attempt = each.last
            if attempt is not None and attempt.child_run is not None:
                end = inputs.ChildRunEnded(
                    job=job.id,
                    step=each.id,
                    attempt=attempt.number,
                    run=attempt.child_run,
                    conclusion=Conclusion.CANCELLED,
                    reason=self._by,
                )
                ending += step(run, end, self._now).events
        assert run.is_completed, "a run without active attempts is completed by a forced cancel"
        return ending

    def suspend(self, names: Sequence[str]) -> None:
        """Suspends these repositories until they are resumed."""
        for name in dict.fromkeys(names):
            stream = repository_stream(name)
            facts = [record.event for record in self._log.read(stream)]
            if not repository_state.fold(name, facts).is_suspended:
                fact = repository_events.RepositorySuspended(at=self._now, by=self._by)
                append = StreamAppend(stream=stream, expected=len(facts), at=self._now, events=[fact])
                self._log.append_blocking(Batch(appends=[append]))
            self._ended.repositories.append(name)


def _repositories(log: LmdbLog) -> list[str]:
    return [stream.partition("/")[2] for stream in log.streams() if stream.startswith("repo/")]


# The index ------------------------------------------------------------------------------------------------------------


def _index(log: LmdbLog, ended: ClosedWork) -> None:
    """Rebuilds the rows, trigger keys and numbers of all runs."""
    batch = Batch()
    numbers: dict[str, int] = {}
    for run_id in _runs(log):
        try:
            row, counter, plan_hash = _row(log, run_id)
        except (WaterflowError, AssertionError, LookupError) as error:
            ended.stalled.append(f"{run_id}: {error}")
            continue
        batch.summaries.append(row)
        batch.plan_uses.append(plan_hash)
        if row.trigger.key is not None and log.run_for_key(row.trigger.key) is None:
            batch.keys.setdefault(row.trigger.key, run_id)
        if counter:
            numbers[counter] = max(numbers.get(counter, 0), row.number)
        if len(batch.summaries) >= GROUP_RUNS:
            log.append_blocking(batch)
            batch = Batch()
    batch.counters = numbers
    if not batch.is_empty:
        log.append_blocking(batch)


def _runs(log: LmdbLog) -> Iterator[RunId]:
    for stream in log.streams():
        kind, _, name = stream.partition("/")
        if kind == "run" and is_run_id(name):
            yield RunId(name)


def _row(log: LmdbLog, run_id: RunId) -> tuple[RunSummary, str, str]:
    """The row of a run, the name of its counter, and the hash of its plan.

    Without its plan, the row holds what its events say.
    """
    history = [record.event for record in log.read(run_stream(run_id))]
    created = history[0]
    assert isinstance(created, events.RunCreated), "the first event of a run is its creation"
    compiled = log.plan(created.plan_hash)
    if compiled is not None:
        run = fold(run_id, plan.decode(compiled), history)
        return summary(run), f"{run.repository or ''}:{run.plan.path}", created.plan_hash
    completed = next((event for event in history if isinstance(event, events.RunCompleted)), None)
    row = RunSummary(
        id=run_id,
        number=created.number,
        name="(its plan is lost)",
        path="",
        repository=created.repository,
        revision=created.revision,
        trigger=created.trigger,
        status=Status.COMPLETED if completed is not None else Status.RUNNING,
        conclusion=completed.conclusion if completed is not None else None,
        reason=completed.reason if completed is not None else created.reason,
        created_at=created.at,
        completed_at=completed.at if completed is not None else None,
        seq=len(history),
        rerun_of=created.rerun_of,
    )
    return row, "", created.plan_hash


def _fold(log: LmdbLog, run_id: RunId) -> Run:
    history: list[Any] = [record.event for record in log.read(run_stream(run_id))]
    compiled = log.plan(history[0].plan_hash)
    if compiled is None:
        raise LookupError("its plan is lost")
    return fold(run_id, plan.decode(compiled), history)
