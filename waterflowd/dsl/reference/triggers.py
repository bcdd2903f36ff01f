"""Texts: what starts a workflow."""

from __future__ import annotations

from waterflowd.dsl.reference.entries import JOBS, Key, Section

_PATTERNS = (
    "As on GitHub, `*` stops at `/` and `**` does not; `!` in front takes away what earlier patterns gave, and the last one"
    " that matches decides."
)

SECTIONS: dict[str, Section] = {
    "Triggers": Section(
        "on",
        "`on`",
        "The events that start the workflow. `on: push` and `on: [push, manual]` name events without filters.",
        "on:\n  {}\n" + JOBS,
        {
            "push": Key(
                "A watched branch or tag has moved, or was made.",
                "push: {branches: [main]}",
                pitfalls=(
                    "Which refs are watched is the configuration's business; without `refs` there it is the default branch"
                    " alone.",
                ),
            ),
            "schedule": Key(
                "At the instants of cron expressions: one entry or a list of at most 50. A text is short for `cron`.",
                "schedule: '30 2 * * *'",
                pitfalls=("Put the expression in quotes, since `*` begins an alias in YAML.",),
            ),
            "workflow_dispatch": Key(
                "Starts by hand: `waterflowctl run`, or the API.", "workflow_dispatch: {inputs: {reason: {}}}"
            ),
            "manual": Key("Another name of `workflow_dispatch`.", "manual: {}", pitfalls=("Write one of the two.",)),
            "webhook": Key("A signed request to `/v1/hooks/NAME`.", "webhook: {name: forge, secret: FORGE_HOOK}"),
            "workflow_run": Key(
                "Another workflow of the repository has ended.",
                "workflow_run: {workflows: [build], conclusions: [failure]}",
                pitfalls=("A workflow cannot start after itself.",),
            ),
            "workflow_call": Key(
                "A job of another workflow may be this one.", "workflow_call: {inputs: {target: {required: true}}}"
            ),
        },
    ),
    "Push": Section(
        "on-push",
        "`on.push`",
        "Which movements of branches and tags start the workflow. Without filters every one of a watched ref does.",
        "on:\n  push:\n    {}\n" + JOBS,
        {
            "branches": Key(
                f"Patterns of branches. {_PATTERNS}",
                "branches: [main, 'release/**', '!release/old/**']",
                default="all",
                pitfalls=("Filters for branches alone mean that tags start nothing.",),
            ),
            "branches-ignore": Key(
                "Patterns of branches that start nothing.",
                "branches-ignore: ['wip/**']",
                pitfalls=("It excludes `branches`; write `!` there.",),
            ),
            "tags": Key(
                "Patterns of tags.",
                "tags: ['v*']",
                default="all, unless there are filters for branches",
                pitfalls=("Tags must be watched: `refs` in the configuration.",),
            ),
            "tags-ignore": Key("Patterns of tags that start nothing.", "tags-ignore: ['*-rc*']"),
            "paths": Key(
                "Patterns of paths: at least one changed path must match.",
                "paths: ['app/**']",
                default="all",
                pitfalls=("Filters for paths are not asked about tags.",),
            ),
            "paths-ignore": Key(
                "At least one changed path must match none of these.",
                "paths-ignore: ['docs/**']",
                pitfalls=("It excludes `paths`.",),
            ),
        },
    ),
    "Schedule": Section(
        "on-schedule",
        "`on.schedule`",
        "Runs at the instants of a cron expression. What happens when the clocks change or the daemon was away is told in"
        " [schedules](../schedules.md).",
        "on:\n  schedule:\n    - {}\n" + JOBS,
        {
            "cron": Key(
                "Five fields, or `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`.",
                "cron: '0 3 * * 1-5'",
                pitfalls=("Put it in quotes.",),
            ),
            "timezone": Key("An IANA zone.", "cron: '30 2 * * *'\ntimezone: Europe/Berlin"),
            "overlap": Key(
                "What happens at an instant while a run of the same schedule is open: `skip` it, `queue` a run behind it, or"
                " `cancel` the open one.",
                "cron: '@hourly'\noverlap: queue",
                default="`skip`; `queue` with `catch-up: all`",
            ),
            "catch-up": Key(
                "What happens with instants that were missed: `none`, one run for the `last`, or one for `all` of them.",
                "cron: '@daily'\ncatch-up: all",
            ),
            "vars": Key(
                "Laid over the `vars` of the file.",
                "cron: '@weekly'\nvars: {level: full}",
                pitfalls=("Values only; and where the file has `vars`, only names that it declares.",),
            ),
        },
    ),
    "WorkflowDispatch": Section(
        "on-workflow-dispatch",
        "`on.workflow_dispatch`, `on.manual`",
        "Starts by hand.",
        "on:\n  workflow_dispatch:\n    {}\n" + JOBS,
        {"inputs": Key("What the one who starts it is asked for.", "inputs:\n  reason: {description: why}")},
    ),
    "Webhook": Section(
        "on-webhook",
        "`on.webhook`",
        "Starts by a signed request to `/v1/hooks/NAME`; the request's content is in `event`.",
        "on:\n  webhook:\n    {}\n" + JOBS,
        {
            "name": Key(
                "The last part of the address: letters, digits, `_`, `-` and `.`.",
                "name: forge\nsecret: FORGE_HOOK",
                default="the file's name without its ending",
            ),
            "secret": Key(
                "The name of the secret that signs the request (HMAC).",
                "secret: FORGE_HOOK",
                pitfalls=("Its name, never its value.",),
            ),
        },
    ),
    "WorkflowRun": Section(
        "on-workflow-run",
        "`on.workflow_run`",
        "Starts after the end of a run of another workflow of the repository.",
        "on:\n  workflow_run:\n    {}\n" + JOBS,
        {
            "workflows": Key("Names or paths of workflows, not its own.", "workflows: [build, workflows/test.yml]"),
            "types": Key(
                "GitHub's key; nothing else than `completed` can stand there.",
                "workflows: [build]\ntypes: [completed]",
                default="`completed`",
            ),
            "conclusions": Key(
                "How the other run must have ended.", "workflows: [build]\nconclusions: [failure, lost]", default="all"
            ),
            "branches": Key(
                "Patterns of the branch of the other run.", "workflows: [build]\nbranches: [main]", default="all"
            ),
            "branches-ignore": Key(
                "Patterns of branches whose runs start nothing.",
                "workflows: [build]\nbranches-ignore: ['wip/**']",
                pitfalls=("It excludes `branches`.",),
            ),
        },
    ),
    "WorkflowCall": Section(
        "on-workflow-call",
        "`on.workflow_call`",
        "Makes the file a reusable workflow: a job of another one calls it by `uses: ./path`.",
        "on:\n  workflow_call:\n    {}\n" + JOBS,
        {
            "inputs": Key(
                "What the caller gives by `with`.",
                "inputs:\n  target: {required: true}",
                default="the `inputs` at the top of the file",
            ),
            "outputs": Key(
                "What the caller finds in `needs.<id>.outputs`: names to values. A text is short for `value`.",
                "outputs:\n  result: ${{ jobs.build.result }}",
                place="call-outputs",
            ),
            "secrets": Key("The secrets that the caller gives.", "secrets:\n  TOKEN: {required: true}"),
        },
    ),
    "CallOutput": Section(
        "outputs",
        "`on.workflow_call.outputs.<name>`, `outputs.<name>` of a composite step",
        "One output of a reusable workflow or a composite step.",
        "on:\n  workflow_call:\n    outputs:\n      result:\n        {}\n" + JOBS,
        {
            "description": Key("What people are told about it.", "description: how it ended\nvalue: ok"),
            "value": Key(
                "The value.",
                "value: ${{ jobs.build.result }}",
                place="call-outputs",
                pitfalls=("In a composite step it sees `steps` in place of `jobs`.",),
            ),
        },
    ),
    "CallSecret": Section(
        "secrets",
        "`on.workflow_call.secrets.<name>`",
        "One secret that a reusable workflow takes.",
        "on:\n  workflow_call:\n    secrets:\n      TOKEN:\n        {}\n" + JOBS,
        {
            "description": Key("What people are told about it.", "description: writes to the registry"),
            "required": Key("Whether a caller must give it.", "required: true"),
        },
    ),
}
