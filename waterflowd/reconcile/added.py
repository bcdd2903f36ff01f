"""Facts of the stream `repositories`: which repositories were added through the API, with which settings, and which removed.

Rules of this file: as for the events of runs (engine/events.py): past tense, readable forever, new fields have defaults. No
fact holds a secret: settings name files with credentials.
"""

from __future__ import annotations

import msgspec

from waterflowd.reconcile.settings import RepositorySettings


class AddedRepositoryFact(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    """Base of all facts of the stream. `by` is the principal; `at` is the log's clock in ms."""

    at: int
    by: str


class RepositoryAdded(AddedRepositoryFact, frozen=True, kw_only=True, tag="repository-added"):
    """The repository is watched from now on with these settings, which replace earlier ones."""

    settings: RepositorySettings
    #: Quotas that differ from the configuration's; None for its default.
    runs_per_hour: int | None = None
    output_bytes_per_hour: int | None = None

    def effective(self, *, allow_loopback: bool) -> RepositorySettings:
        """The settings, with what only the configuration may permit."""
        return msgspec.structs.replace(self.settings, allow_http=False, allow_loopback=allow_loopback)


class RepositoryRemoved(AddedRepositoryFact, frozen=True, kw_only=True, tag="repository-removed"):
    """The repository is no longer watched. Its runs, their numbers and its own stream stay."""

    name: str
    #: Runs that were open and were cancelled for it.
    cancelled_runs: int = 0


AddedFact = RepositoryAdded | RepositoryRemoved
