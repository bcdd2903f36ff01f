"""What differs between two runs."""

from __future__ import annotations

import msgspec

from waterflowd.admin.ports import CommitRow
from waterflowd.api.runs.artifact_comparison import ChangedArtifact
from waterflowd.api.runs.comparison import ChangedLine, ChangedNames, ChangedStep, ChangedValue
from waterflowd.api.runs.report_comparison import ChangedReport
from waterflowd.api.schemas.runs import RunSummarySchema


class DifferencesSchema(msgspec.Struct, frozen=True, kw_only=True):
    """What differs from the run `against` to this one. A part that cannot be had is null, and `unknown` says why.

    `file` is a unified diff of the workflow file; `more_commits` says that `commits` are only the newest ones.
    """

    against: RunSummarySchema
    commits: list[CommitRow] | None
    more_commits: bool
    file: str | None
    inputs: list[ChangedValue]
    vars: list[ChangedValue]
    servers: ChangedNames
    steps: list[ChangedStep]
    reports: list[ChangedReport]
    artifacts: list[ChangedArtifact] | None
    log: ChangedLine | None
    #: By the name of the part.
    unknown: dict[str, str]
