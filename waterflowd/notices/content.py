"""What notices say. Pure: the texts may contain what strangers wrote, and are escaped where they are sent."""

from __future__ import annotations

from collections.abc import Sequence

from waterflowd.model.records import RunSummary
from waterflowd.notices.events import Notice

#: Notices of one message whose text is shown; the others are only counted.
SHOWN_MAX = 20
REPEATED = "This may be a repetition: it is not known whether an earlier attempt to send it has succeeded."


def run_title(row: RunSummary) -> str:
    """The run as people name it, with its repository."""
    where = f"{row.repository}: " if row.repository is not None else ""
    return f"{where}{row.name} #{row.number}"


def failure_text(row: RunSummary) -> str:
    """Why the run failed."""
    lines = [row.reason.text]
    if row.first_failure is not None:
        server = f" on {row.first_failure.agent}" if row.first_failure.agent else ""
        lines.append(f"first failure: {row.first_failure.part}{server}: {row.first_failure.reason.text}")
    return "\n".join([*lines, *_origin(row)])


def recovery_text(row: RunSummary) -> str:
    """That the run succeeded after failures."""
    return "\n".join(["It succeeded again.", *_origin(row)])


def _origin(row: RunSummary) -> list[str]:
    """What started it."""
    trigger = row.trigger
    ref = f" of {trigger.ref}" if trigger.ref else ""
    at = f" at {row.revision[:10]}" if row.revision else ""
    author = f", {trigger.author}" if trigger.author else ""
    return [f"started by {trigger.kind.value}{ref}{at}{author}"]


def subject(notices: Sequence[Notice]) -> str:
    """One line for a whole message."""
    if len(notices) == 1:
        return notices[0].title
    return f"{notices[-1].title} and {len(notices) - 1} more"


def lines_of(notice: Notice) -> list[str]:
    """The notice as lines of plain text, the title first."""
    return [notice.title, *notice.text.splitlines(), *filter(None, (notice.link, notice.command))]


def plain_text(notices: Sequence[Notice], dropped: int, *, may_be_repeated: bool) -> str:
    """A message of plain text."""
    blocks = ["\n".join(lines_of(notice)) for notice in notices[-SHOWN_MAX:]]
    return "\n\n".join([*blocks, *notes(notices, dropped, may_be_repeated=may_be_repeated)])


def notes(notices: Sequence[Notice], dropped: int, *, may_be_repeated: bool) -> list[str]:
    """What else a message has to say."""
    found = []
    left_out = len(notices) - SHOWN_MAX
    if left_out > 0:
        found.append(f"{left_out} earlier notices are not shown: too many came at once (per-hour).")
    if dropped:
        found.append(f"{dropped} earlier notices were dropped: too many were waiting.")
    if may_be_repeated:
        found.append(REPEATED)
    return found
