"""What the steps of each job have masked with `::add-mask::`, for the later steps of the job.

A step's values are added when it has ended, and every step that is offered afterwards masks them like its own secrets. They are
kept like these: in memory, and in files on an in-memory file system for the agent's next process, never on a disk. So a reboot
deletes them.

Rules of this file: a job has limits, because preparing the search for a value takes time at each step. The values of a job that
has ended are kept as long as its directory may be, because a re-run may continue it there.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Collection
from pathlib import Path

import msgspec

from waterflow_agent.wire.messages import KEPT_MS, JobName

logger = logging.getLogger(__name__)

#: Values of one job.
VALUES_MAX = 200
#: Jobs whose values are kept; the oldest are forgotten first. More than run on a server at a time.
JOBS_MAX = 1_000
#: How the names of these files begin; no attempt's name does.
PREFIX = "job."
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW


class _Job(msgspec.Struct, array_like=True):
    """The file of one job."""

    run: str
    job: str
    values: list[str]
    #: When the job ended and its directory was kept (ms, wall clock); 0 before.
    ended_at: int = 0


class JobMasks:
    """The masked values of all jobs of one agent. `directory` is that of the secrets; it must exist when a value is added."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        #: The one that was changed last is the last.
        self._jobs: dict[JobName, _Job] = {}

    def load(self) -> None:
        """Reads what an earlier process of the agent has stored."""
        for path in self._directory.glob(f"{PREFIX}*") if self._directory is not None else ():
            try:
                found = msgspec.msgpack.decode(path.read_bytes(), type=_Job)
            except (OSError, msgspec.MsgspecError) as error:
                logger.warning("cannot read the masks of a job in %s: %s", path, error)
            else:
                self._jobs[JobName(found.run, found.job)] = found

    def of(self, job: JobName) -> list[str]:
        """Returns the values that the steps of a job have masked."""
        found = self._jobs.get(job)
        return [] if found is None else found.values

    def add(self, job: JobName, values: Collection[str]) -> int:
        """Adds values of a step that has ended. Returns how many exceed the limit of the job, which later steps do not mask."""
        known = self.of(job)
        fresh = [value for value in values if value not in known]
        room = VALUES_MAX - len(known)
        if fresh[:room]:
            self._jobs.pop(job, None)
            self._jobs[job] = _Job(job.run, job.job, known + fresh[:room])
            self._store(job)
            while len(self._jobs) > JOBS_MAX:
                self.drop(next(iter(self._jobs)))
        return max(0, len(fresh) - room)

    def keep(self, job: JobName, now: int) -> None:
        """Notes that a job has ended whose directory is kept, and deletes the values of those that were kept long enough."""
        found = self._jobs.get(job)
        if found is not None:
            found.ended_at = now
            self._store(job)
        for name in [name for name, kept in self._jobs.items() if kept.ended_at and kept.ended_at + KEPT_MS < now]:
            self.drop(name)

    def drop(self, job: JobName) -> None:
        """Deletes the values of a job."""
        if self._jobs.pop(job, None) is not None and self._directory is not None:
            self._path(job).unlink(missing_ok=True)

    def _store(self, job: JobName) -> None:
        if self._directory is None:
            return
        try:
            with open(os.open(self._path(job), _FLAGS, 0o600), "wb") as file:
                file.write(msgspec.msgpack.encode(self._jobs[job]))
        except OSError as error:
            logger.warning(
                "cannot store what job %s of run %s has masked in %s (%s): if this agent restarts, later steps do not mask it",
                job.job,
                job.run,
                self._directory,
                error.strerror,
            )

    def _path(self, job: JobName) -> Path:
        assert self._directory is not None
        digest = hashlib.sha256(msgspec.msgpack.encode([job.run, job.job])).hexdigest()[:40]
        return self._directory / f"{PREFIX}{digest}"
