"""Texts: the keys at the top of a workflow file, and those that stand in several places."""

from __future__ import annotations

from waterflowd.dsl.reference.entries import JOBS, Key, Section

_TOP = "{}\n" + JOBS

SECTIONS: dict[str, Section] = {
    "Workflow": Section(
        "workflow",
        "the file",
        "A workflow file: what starts it, what it is given, and its jobs. It is one YAML file under `workflows/` or"
        " `.waterflow/workflows/` of a watched repository; its identity is its path.",
        _TOP,
        {
            "name": Key(
                "What the workflow is called where people see it.",
                "name: deploy",
                default="the file's name without its ending",
                pitfalls=("Two files may have one name; commands then want the path.",),
            ),
            "description": Key("Free text about the workflow, shown by the API.", "description: Rolls out the shop"),
            "on": Key(
                "What starts the workflow: the name of an event, a list of names, or a mapping of events to their filters.",
                "on: [push, workflow_dispatch]",
                default="a push that adds or changes this file, and starts by hand",
                pitfalls=(
                    "Once `on` is written, only what it names starts the workflow: `on: push` alone cannot be started by"
                    " hand.",
                ),
            ),
            "inputs": Key(
                "Typed values that a start by hand gives; the same as `on.workflow_dispatch.inputs`, and makes a start by"
                " hand possible. They also serve those who call the workflow, unless `on.workflow_call.inputs` declares"
                " others. At most 100.",
                "inputs:\n  version: {required: true, pattern: '[0-9.]+'}\n  dry-run: {type: boolean, default: true}",
                pitfalls=(
                    "Declare them in one place only.",
                    "A push gives no inputs, so a workflow with `on: push` sees their defaults.",
                ),
            ),
            "vars": Key(
                "Named values of any JSON type. A value may refer to inputs and to the variables above it; `--var` and the"
                " `vars` of a start or a schedule take its place.",
                "vars:\n  app: shop\n  image: registry.example.org/${{ vars.app }}",
                place="vars",
                pitfalls=(
                    "`--var` of the command line always gives text.",
                    "A variable does not see those that stand below it.",
                ),
            ),
            "env": Key(
                "Environment variables of every step. Layers lie over one another: workflow, job, what earlier steps wrote"
                " to `$WATERFLOW_ENV`, step.",
                "env:\n  REGION: eu\n  PORT: 8080",
                place="workflow-env",
                pitfalls=("Names are letters, digits and `_`; those that begin with `WF_EXPR_` are taken.",),
            ),
            "defaults": Key(
                "What scripts take that do not say it themselves, in all jobs.",
                "defaults:\n  run: {shell: sh, working-directory: app}",
                pitfalls=("It concerns `run` alone: no other node, and no step of a composite step.",),
            ),
            "concurrency": Key(
                "How many runs of one name may be at work at a time. A text is short for `group`.",
                "concurrency: deploy-${{ git.branch }}",
                place="workflow",
                pitfalls=("A workflow that is called has none of its own; the job that calls may.",),
            ),
            "timeout-minutes": Key(
                "A bound for the whole run, waiting included.",
                "timeout-minutes: 90",
                default="30 days",
                pitfalls=("When it has passed, what is left is skipped, `always()` steps included.",),
            ),
            "jobs": Key(
                "The jobs by id, at least one. They start as soon as what they need is done, so side by side unless `needs`"
                " says otherwise.",
                "jobs:\n  test:\n    runs-on: web-servers\n    steps:\n      - run: make test\n",
                pitfalls=("Ids are compared without case.",),
            ),
        },
    ),
    "Defaults": Section(
        "defaults",
        "`defaults`, `jobs.<id>.defaults`",
        "What steps take that do not say it themselves, for the workflow or for one job, which wins key by key.",
        "defaults:\n  {}\n" + JOBS,
        {"run": Key("What scripts (`run`) take.", "run: {shell: bash}")},
    ),
    "RunDefaults": Section(
        "defaults-run",
        "`defaults.run`, `jobs.<id>.defaults.run`",
        "What scripts take that do not say it themselves.",
        "defaults:\n  run:\n    {}\n" + JOBS,
        {
            "shell": Key("What runs the scripts; see `shell` of a step.", "shell: sh", default="`bash`, else `sh`"),
            "working-directory": Key(
                "The directory that scripts start in, inside of the job's. As a key of a job it also sees `needs`, `matrix`,"
                " `strategy` and `env`.",
                "working-directory: app",
                place="workflow",
                default="the job's directory",
                pitfalls=("It must exist when a step starts.",),
            ),
        },
    ),
    "Concurrency": Section(
        "concurrency",
        "`concurrency`, `jobs.<id>.concurrency`",
        "How many of one name may be at work at a time. The name belongs to the repository: every workflow and job that uses"
        " it takes part.",
        "concurrency:\n  {}\n" + JOBS,
        {
            "group": Key(
                "The name. As a key of a job it also sees `needs`, `matrix` and `strategy`.",
                "group: deploy-${{ git.branch }}",
                place="workflow",
            ),
            "limit": Key("How many at a time.", "group: database\nlimit: 2"),
            "queue": Key(
                "What becomes of those that find it full: `fifo` they wait in their order; `latest` the newest waits, and an"
                " older one that waits is cancelled; `reject` they are refused.",
                "group: deploy\nqueue: latest",
                pitfalls=("At GitHub a second one that waits is cancelled; here that is `latest`.",),
            ),
            "cancel-in-progress": Key(
                "Whether those at work are cancelled for the newcomer.",
                "group: test-${{ git.branch }}\ncancel-in-progress: ${{ git.branch != 'main' }}",
                place="workflow",
                pitfalls=("It does not go with `queue: reject`.",),
            ),
        },
    ),
    "Input": Section(
        "inputs",
        "`inputs.<name>`, `on.workflow_dispatch.inputs.<name>`, `on.workflow_call.inputs.<name>`",
        "One typed value that a start by hand, a call, or the user of a composite step gives. All inputs together have at"
        " most 64 KiB.",
        "inputs:\n  version:\n    {}\n" + JOBS,
        {
            "type": Key("What the value is.", "type: choice\noptions: [staging, production]"),
            "description": Key("What people are told about it.", "description: what to release"),
            "required": Key("Whether somebody must give it when it has no default.", "required: true"),
            "default": Key(
                "The value when nobody gives one.",
                "type: number\ndefault: 3",
                default="empty text, 0, false, the first option, or null, by type",
                pitfalls=("It is a value; an expression cannot stand here.",),
            ),
            "options": Key("The texts that a `choice` may be.", "type: choice\noptions: [a, b]"),
            "pattern": Key(
                "A regular expression that the whole text of a `string` must match.",
                "pattern: '[0-9]+\\.[0-9]+'",
                default="any text",
                pitfalls=("Patterns have no look-around and no back-references: they run in linear time.",),
            ),
        },
    ),
}
