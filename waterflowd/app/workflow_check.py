"""What the workflows of the configured repositories may not use, and the lines that would permit it, for `check-config`.

Rules of this file: nothing is recorded, and nothing in the data directory is read or changed: the daemon may be running, as
another user. The caller decides where the mirrors of remotes are. A repository that cannot be read does not hide the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from waterflow_agent.errors import WaterflowError
from waterflowd.access import workflow_errors
from waterflowd.access.policy import AccessPolicy, grants_for
from waterflowd.ports import Compiler
from waterflowd.reconcile import codes, refs
from waterflowd.reconcile.events import FileApplied
from waterflowd.reconcile.loop.workflow_files import WorkflowFiles
from waterflowd.reconcile.settings import RepositorySettings
from waterflowd.reconcile.source import Source
from waterflowd.reconcile.state import RepositoryState


class RepositoryReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was found in one repository."""

    name: str
    files: int = 0
    #: Why it cannot be read now; empty if it was read.
    failure: str = ""
    #: One sentence each: what a workflow may not use, or its first error.
    problems: tuple[str, ...] = ()
    #: Lines to add to the configuration.
    lines: tuple[str, ...] = ()


class _NoPlans:
    """Keeps no plans, because nothing is started."""

    def put(self, plan_hash: str, plan: bytes) -> None:
        """Forgets the plan."""


async def check_repository(
    settings: RepositorySettings,
    open_source: Callable[[RepositorySettings], Source],
    compiler: Compiler,
    access: AccessPolicy,
) -> RepositoryReport:
    """Compiles the workflows at all watched refs, and compares what they use with the configuration."""
    try:
        source = open_source(settings)
    except WaterflowError as error:
        return RepositoryReport(name=settings.name, failure=str(error))
    try:
        files = await _files(settings, source, compiler)
    except WaterflowError as error:
        return RepositoryReport(name=settings.name, failure=str(error))
    finally:
        await source.close()
    return _report(settings, files, access)


async def _files(settings: RepositorySettings, source: Source, compiler: Compiler) -> list[FileApplied]:
    """The compiled files at all watched refs, equal ones once."""
    found = await source.refs()
    workflow_files = WorkflowFiles(settings.name, source, compiler, _NoPlans())
    state = RepositoryState(name=settings.name, refs={})
    files: dict[tuple[str, str], FileApplied] = {}
    for ref in refs.watched(found, settings.refs):
        revision = await source.revision(found.object_ids[ref], None, settings.paths)
        applied = await workflow_files.apply(revision.commit.tree, revision.files, state, lambda file: False)
        files.update(
            ((file.path, msgspec.json.encode(file.accesses).decode() + file.blob), file) for file in applied.values()
        )
    return list(files.values())


def _report(settings: RepositorySettings, files: Sequence[FileApplied], access: AccessPolicy) -> RepositoryReport:
    problems: dict[str, None] = {}
    refused, webhooks, groups = [], [], []
    for file in files:
        if file.errors:
            problems[f"{file.path}: {file.errors[0].message} [{file.errors[0].code}]"] = None
        for error in workflow_errors.group_errors(file, settings):
            problems[f"{file.path}: {error.message} [{error.code}]"] = None
        groups += [item.group for item in file.accesses if not settings.may_name(item.group)]
        for item, refusal in access.plan_refusals(settings.name, file.accesses):
            refused.append((item, refusal))
            advice = f"; {refusal.advice}: {refusal.lines[0]}" if refusal.code == codes.ENVIRONMENT_REQUIRED else ""
            problems[f'{file.path}, job "{item.job}": {refusal.text}{advice} [{refusal.code}]'] = None
        webhook = file.triggers.webhook if file.triggers is not None else None
        denied = access.webhook_refusal(settings.name, webhook.secret) if webhook is not None else None
        if webhook is not None and denied is not None:
            webhooks.append(webhook.secret)
            problems[f"{file.path}: {denied.text} [{denied.code}]"] = None
    return RepositoryReport(
        name=settings.name,
        files=len({file.path for file in files}),
        problems=tuple(problems),
        lines=(*_repository_lines(settings, groups, webhooks), *grants_for(settings.name, refused, settings.refs)),
    )


def _repository_lines(settings: RepositorySettings, groups: Sequence[str], webhooks: Sequence[str]) -> list[str]:
    """The changed lines in the table of the repository."""
    lines = []
    if groups:
        lines.append(f"groups = {_list((*settings.groups, *groups))}")
    if webhooks:
        lines.append(f"webhook-keys = {_list((*settings.webhook_keys, *webhooks))}")
    return [f'# in the [[repositories]] table of "{settings.name}":', *lines] if lines else []


def _list(names: Sequence[str]) -> str:
    return msgspec.json.encode(list(dict.fromkeys(names))).decode()


def text_of(report: RepositoryReport) -> list[str]:
    """The report as lines of text, without an end at the last one."""
    if report.failure:
        return [f'repository "{report.name}" cannot be read now: {report.failure}']
    count = {0: "no workflows", 1: "1 workflow"}.get(report.files, f"{report.files} workflows")
    lines = [f'repository "{report.name}": {count}' + (":" if report.problems else "")]
    lines += [f"  {problem}" for problem in report.problems]
    if report.lines:
        lines += ["lines to add to the configuration, if they may use that:", "", *report.lines, ""]
    return lines
