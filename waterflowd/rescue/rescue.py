"""Backup, restore and salvage of a data directory: the store's copies, completed by what only the engine knows.

Rules of this file:

- A copy knows less than the agents do: what was decided after it was taken may have run, whatever the copy says. So what the
  copy holds open is not gone on with. Its runs are ended by force, attempts that agents held end `lost`, and repositories
  are suspended, for a movement that the copy does not know may have started its runs. A person says what begins again.
- The generation jumps to one that no daemon has had (store/opening.py), so that no lease of before fits an attempt of after:
  what agents still report of it is evidence and nothing else.
- Whoever knows that nothing has run since the copy may say so, and then everything goes on.
- Rows, trigger keys and numbers of runs are an index: after a salvage they are made from the records again.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from waterflow_agent.errors import WaterflowError
from waterflowd.app.bootstrap import UNIONS
from waterflowd.app.config import Config
from waterflowd.engine import Run, events, fold, inputs, step
from waterflowd.host.batch import summary
from waterflowd.model import plan
from waterflowd.model.ids import AttemptId, RunId, StreamName, is_run_id, repository_stream, run_stream
from waterflowd.model.reasons import ReasonCode, reason
from waterflowd.model.records import Batch, RunSummary, StreamAppend
from waterflowd.model.statuses import Status
from waterflowd.reconcile import events as repository_events
from waterflowd.reconcile import state as repository_state
from waterflowd.store import copying, salvage
from waterflowd.store.codec import Codec
from waterflowd.store.environment import Environment
from waterflowd.store.log import LmdbLog, read_stream
from waterflowd.store.opening import Store, open_store

#: What `waterflowd fsck --salvage` ends with.
EXIT_CODES = {"whole": 0, "partial": 3, "nothing": 4}
#: Runs whose rows are written in one transaction.
GROUP_RUNS = 500


class Ended(msgspec.Struct, kw_only=True):
    """What does not go on by itself in a copy."""

    runs: list[str] = []
    #: Runs that cannot be understood; they stand still, and are shown as stalled.
    stalled: list[str] = []
    repositories: list[str] = []
    generation: int = 0


class Restored(msgspec.Struct, kw_only=True):
    """What a restore has made; `backup` is None when it was a copy of a data directory."""

    backup: copying.Manifest | None
    directory: str
    ended: Ended


class Rescued(msgspec.Struct, kw_only=True):
    """What a salvage has made. `verdict` is `whole`, `partial` or `nothing`."""

    verdict: str
    directory: str
    kept: salvage.SalvageReport
    ended: Ended


def back_up(config: Config, target: Path) -> copying.Manifest:
    """Makes a backup, whether a daemon runs or not; see `copying.back_up` for what it raises."""
    codec = Codec(UNIONS)

    def knows(environment: Environment, name: AttemptId) -> bool:
        return any(
            isinstance(record.event, events.AttemptDispatched)
            and (record.event.job, record.event.step, record.event.attempt) == (name.job, name.step, name.number)
            for record in read_stream(environment, codec, run_stream(name.run))
        )

    return copying.back_up(Path(config.data_dir), target, knows)


def restore(config: Config, source: Path, *, goes_on: bool = False) -> Restored:
    """Makes the configured data directory, which must be empty, of a backup; see `copying.restore_backup` for what it raises.

    With `goes_on` nothing is ended: right only when no daemon has run since the backup was taken.
    """
    target = Path(config.data_dir)
    ended = Ended()
    with copying.restore_backup(source, target) as manifest, open_store(target, UNIONS, is_rescue=True) as store:
        ended.generation = store.log.generation
        if not goes_on:
            when = f" of {_day(manifest.made_at)}" if manifest is not None else ""
            closing = _Closing(store.log, f"waterflowd restore (backup{when})", ended)
            closing.end_runs(list(store.log.open_runs()))
            closing.suspend([*_repositories(store.log), *(each.name for each in config.repositories)])
    return Restored(backup=manifest, directory=str(target), ended=ended)


def rescue(config: Config, target: Path) -> Rescued:
    """Salvages the configured data directory into the new directory `target`. Raises as `salvage.salvage_directory` does.

    What is proven whole goes on, everything else is ended as after a restore.
    """
    try:
        with salvage.salvage_directory(Path(config.data_dir), target) as kept:
            if not kept.records:
                raise _NothingLeft(kept)
            with open_store(target, UNIONS, is_rescue=True) as store:
                ended = _complete(store, kept, [each.name for each in config.repositories])
    except _NothingLeft as nothing:
        return Rescued(verdict="nothing", directory="", kept=nothing.kept, ended=Ended())
    is_whole = kept.is_whole and not ended.stalled
    return Rescued(verdict="whole" if is_whole else "partial", directory=str(target), kept=kept, ended=ended)


class _NothingLeft(Exception):
    def __init__(self, kept: salvage.SalvageReport) -> None:
        super().__init__("nothing is left")
        self.kept = kept


def _complete(store: Store, kept: salvage.SalvageReport, configured: Sequence[str]) -> Ended:
    """Makes the indexes, and ends what is not proven whole."""
    ended = Ended(generation=store.log.generation)
    _index(store.log, ended)
    cut = {StreamName(each.stream) for each in kept.cuts}
    closing = _Closing(store.log, "waterflowd fsck --salvage", ended)
    closing.end_runs([run for run in store.log.open_runs() if run_stream(run) in cut])
    known = _repositories(store.log)
    lost = [] if kept.records_lost == 0 and not cut else [name for name in configured if name not in known]
    closing.suspend([*(name for name in known if repository_stream(name) in cut), *lost])
    return ended


# Ending ---------------------------------------------------------------------------------------------------------------


class _Closing:
    """Ends what must not go on by itself, as events of the copy."""

    def __init__(self, log: LmdbLog, by: str, ended: Ended) -> None:
        self._log = log
        self._by = by
        self._ended = ended
        self._now = max(log.last_at, time.time_ns() // 1_000_000)

    def end_runs(self, runs: Iterable[RunId]) -> None:
        """Ends these runs by force: nothing of them begins any more, and nobody can know how what was under way ends."""
        for run_id in runs:
            try:
                run = _fold(self._log, run_id)
                before = run.seq
                happened = self._end(run)
            except (WaterflowError, AssertionError, LookupError) as error:
                # It is shown as stalled, with this text, by the daemon.
                self._ended.stalled.append(f"{run_id}: {error}")
                continue
            append = StreamAppend(stream=run_stream(run_id), expected=before, at=self._now, events=happened)
            self._log.append_blocking(Batch(appends=[append], summaries=[summary(run)]))
            self._ended.runs.append(run_id)

    def _end(self, run: Run) -> list[events.RunEvent]:
        """Asked first, so that what agents have ends as lost and not as cancelled; then by force, so that nothing cleans up."""
        happened = list(step(run, inputs.CancelRun(by=self._by), self._now).events)
        why = reason(ReasonCode.OUTCOME_UNKNOWN, f"{self._by}: what came of it is not in the log")
        for job, each in [(owner, each) for owner in run.jobs for each in owner.steps]:
            attempt = each.last
            if attempt is not None and attempt.is_open and attempt.agent is not None:
                given = inputs.TaskLost(
                    job=job.id,
                    step=each.id,
                    attempt=attempt.number,
                    epoch=attempt.epoch,
                    agent=attempt.agent,
                    reason=why,
                )
                happened += step(run, given, self._now).events
        happened += step(run, inputs.CancelRun(by=self._by, is_forced=True), self._now).events
        assert run.is_completed, "a run that is cancelled by force and has no attempt under way is over"
        return happened

    def suspend(self, names: Sequence[str]) -> None:
        """Suspends these repositories until somebody resumes them."""
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


def _index(log: LmdbLog, ended: Ended) -> None:
    """Makes rows, trigger keys and numbers of all runs again."""
    batch = Batch(appends=[], summaries=[], keys={}, counters={})
    numbers: dict[str, int] = {}
    for run_id in _runs(log):
        try:
            row, counter = _row(log, run_id)
        except (WaterflowError, AssertionError, LookupError) as error:
            ended.stalled.append(f"{run_id}: {error}")
            continue
        batch.summaries.append(row)
        if row.trigger.key is not None and log.run_for_key(row.trigger.key) is None:
            batch.keys.setdefault(row.trigger.key, run_id)
        if counter:
            numbers[counter] = max(numbers.get(counter, 0), row.number)
        if len(batch.summaries) >= GROUP_RUNS:
            log.append_blocking(batch)
            batch = Batch(appends=[], summaries=[], keys={}, counters={})
    batch.counters = numbers
    if not batch.is_empty:
        log.append_blocking(batch)


def _runs(log: LmdbLog) -> Iterator[RunId]:
    for stream in log.streams():
        kind, _, name = stream.partition("/")
        if kind == "run" and is_run_id(name):
            yield RunId(name)


def _row(log: LmdbLog, run_id: RunId) -> tuple[RunSummary, str]:
    """The row of a run and the name of its counter; of a run whose plan is lost what its events say by themselves."""
    history = [record.event for record in log.read(run_stream(run_id))]
    created = history[0]
    assert isinstance(created, events.RunCreated), "a run begins with its creation"
    compiled = log.plan(created.plan_hash)
    if compiled is not None:
        run = fold(run_id, plan.decode(compiled), history)
        return summary(run), f"{run.repository or ''}:{run.plan.path}"
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
    return row, ""


def _fold(log: LmdbLog, run_id: RunId) -> Run:
    history: list[Any] = [record.event for record in log.read(run_stream(run_id))]
    compiled = log.plan(history[0].plan_hash)
    if compiled is None:
        raise LookupError("its plan is lost")
    return fold(run_id, plan.decode(compiled), history)


def _day(at: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(at / 1000))
