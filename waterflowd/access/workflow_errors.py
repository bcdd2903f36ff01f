"""What the configuration does not let a workflow file use, as errors of the file.

Rules of this file: pure. The errors are not recorded, because the configuration may change while the file does not.
"""

from __future__ import annotations

from collections.abc import Iterator

from waterflow_agent.display import escape_for_display
from waterflowd.access.policy import AccessPolicy
from waterflowd.dsl.reporting.diagnostics import Diagnostic
from waterflowd.reconcile import codes
from waterflowd.reconcile.events import ERRORS_MAX, FileApplied
from waterflowd.reconcile.settings import RepositorySettings


def access_errors(
    file: FileApplied, settings: RepositorySettings | None, access: AccessPolicy
) -> tuple[Diagnostic, ...]:
    """The errors of a compiled file; the others are left out while it names a group that its repository may not use.

    `settings` None: the workflow was sent to the API.
    """
    groups = group_errors(file, settings) if settings is not None else ()
    return groups or tuple(_refused(file, settings, access))


def group_errors(file: FileApplied, settings: RepositorySettings) -> tuple[Diagnostic, ...]:
    """An error for each group of the file that its repository may not use."""
    return tuple(
        Diagnostic(
            code=codes.GROUP_NOT_ALLOWED,
            path=file.path,
            line=1,
            column=1,
            message=f'repository "{settings.name}" may not use group "{escape_for_display(group)}"',
            suggestion=f"use one of its groups ({', '.join(settings.groups)}), or allow this one in the configuration",
        )
        for group in sorted({access.group for access in file.accesses})
        if not settings.may_name(group)
    )


def _refused(file: FileApplied, settings: RepositorySettings | None, access: AccessPolicy) -> Iterator[Diagnostic]:
    name = settings.name if settings is not None else None
    found = [
        (item.line, f'job "{escape_for_display(item.job)}": {refusal.text}', refusal)
        for item, refusal in access.plan_refusals(name, file.accesses)
    ]
    webhook = file.triggers.webhook if file.triggers is not None else None
    refused = access.webhook_refusal(name, webhook.secret) if webhook is not None and name is not None else None
    if refused is not None:
        found.append((1, refused.text, refused))
    for line, message, refusal in found[:ERRORS_MAX]:
        yield Diagnostic(
            code=refusal.code,
            path=file.path,
            line=max(1, line),
            column=1,
            message=message,
            suggestion=refusal.suggestion,
        )
