"""Texts: steps, and the files of composite steps."""

from __future__ import annotations

from waterflowd.dsl.reference.entries import STEP, Key, Section

_RETRY = (
    "jobs:\n  build:\n    runs-on: web-servers\n    steps:\n      - run: ./fetch.sh\n        retry:\n          {}\n"
)
_STOP = "jobs:\n  build:\n    runs-on: web-servers\n    steps:\n      - run: ./serve.sh\n        stop:\n          {}\n"
_REASONS = "any of `failure`, `timeout`, `lost`, `exit:N`"

SECTIONS: dict[str, Section] = {
    "Step": Section(
        "step",
        "`jobs.<id>.steps[*]`, and the steps of nodes and composite steps",
        "One step: a script (`run`), or a node or composite step (`uses`).",
        STEP,
        {
            "id": Key(
                "The name by which expressions find the step.",
                "id: dump\nrun: ./dump.sh",
                default="none; it is shown by its number",
                pitfalls=("An expression can name earlier steps only.",),
            ),
            "name": Key(
                "What the step is called where people see it.",
                "name: Back up\nrun: ./backup.sh",
                place="step",
                default="the first line of the script, or the node",
            ),
            "if": Key(
                "A condition; `${{ }}` may be left out. One that asks for no status has an implied `success() &&`.",
                "if: failure()\nrun: ./tell.sh",
                place="step-if",
                default="`success()`",
                pitfalls=("After a failed step the others are skipped, unless they ask: `failure()`, `always()`.",),
            ),
            "run": Key(
                "A script; short for `uses: shell`. With bash and sh an expression in it becomes a variable, so that a value"
                " is never code.",
                'run: echo "${{ git.branch }}"',
                place="step-secrets",
                pitfalls=(
                    "Where no variable can stand (a quoted here-document, arithmetic, another interpreter's source) the file"
                    " is refused with the `env` lines that repair it.",
                ),
            ),
            "shell": Key(
                "What runs the script: `bash`, `sh`, `python`, `pwsh`, or a command line with `{0}` for the script's file.",
                "shell: python\nrun: print(1)",
                default="`bash` (`-eo pipefail`), else `sh`",
                only="script",
            ),
            "uses": Key(
                "A node, to which `@v1` may be added, or a composite step of the repository: `./` and its path.",
                "uses: log\nwith: {message: hello}",
                pitfalls=("`run` and `uses` exclude each other.", "Actions of GitHub do not run here."),
            ),
            "with": Key(
                "The parameters of the node, or the inputs of the composite step; checked before the run starts wherever"
                " they hold no expression.",
                "uses: log\nwith: {message: hello}",
                place="step-secrets",
                pitfalls=(
                    "It belongs to `uses`, not to `run`.",
                    "Nodes that the daemon runs itself take no secrets.",
                ),
            ),
            "env": Key(
                "Environment variables of this step, over those of the job.",
                "env: {TOKEN: '${{ secrets.TOKEN }}'}\nrun: ./publish.sh",
                place="step-secrets",
            ),
            "working-directory": Key(
                "The directory that it starts in: a path inside of the job's directory.",
                "working-directory: app\nrun: make",
                place="step",
                default="the job's directory",
                only="process",
                pitfalls=("It must exist when the step starts. A script can `cd` anywhere.",),
            ),
            "timeout-minutes": Key(
                "How long one attempt may take.",
                "timeout-minutes: 0.5\nrun: ./probe.sh",
                place="step",
                default="what is left of the job's time",
                pitfalls=("The step ends `timed-out`, which `failure()` counts as a failure.",),
            ),
            "continue-on-error": Key(
                "Whether a failure counts as success for what follows: `steps.<id>.conclusion` is then `success`,"
                " `steps.<id>.outcome` is `failure`.",
                "continue-on-error: true\nrun: ./lint.sh",
                place="step",
            ),
            "retry": Key(
                "When and how often the step is tried again.",
                "run: ./fetch.sh\nretry: {max-attempts: 3}",
                default="one attempt",
                only="attempts",
            ),
            "retry-strategy": Key(
                "Another name of `retry`.",
                "run: ./fetch.sh\nretry-strategy: {max-attempts: 3}",
                only="attempts",
                pitfalls=("Write one of the two.",),
            ),
            "on-lost": Key(
                "What happens when nobody can know how the attempt ended, because its server rebooted, was revoked or stayed"
                " away: the step ends `lost` (`fail`), is tried again (`retry`), or waits for a person (`hold`).",
                "on-lost: retry\nrun: ./idempotent.sh",
                only="process",
                pitfalls=("Write `retry` only for what may run twice.",),
            ),
            "stop": Key(
                "How a time-out or a cancel ends the step.",
                "run: ./serve.sh\nstop: {signal: SIGINT, grace: 1m}",
                only="process",
            ),
            "output-max-bytes": Key(
                "How much of an attempt's output is kept: its first and its last part.",
                "run: ./noisy.sh\noutput-max-bytes: 1MiB",
                default="64 MiB",
                only="process",
                pitfalls=("What is left out is counted in the output log, and gone.",),
            ),
            "unsafe-interpolation": Key(
                "Pastes expressions into the script as text.",
                "run: ${{ vars.command }}\nunsafe-interpolation: true",
                only="script",
                pitfalls=("Whoever controls the value runs commands on your server.",),
            ),
        },
    ),
    "Retry": Section(
        "retry",
        "`retry` of a job or step",
        "When and how often something is tried again. An attempt that an agent refused never ran and does not count.",
        _RETRY,
        {
            "max-attempts": Key("Attempts in all, the first one included.", "max-attempts: 5"),
            "initial-interval": Key(
                "How long to wait before the second attempt.", "max-attempts: 5\ninitial-interval: 10s"
            ),
            "backoff-coefficient": Key(
                "The factor between two intervals.", "max-attempts: 5\nbackoff-coefficient: 1.5"
            ),
            "max-interval": Key("No interval is longer.", "max-attempts: 5\nmax-interval: 5m"),
            "jitter": Key("The share of an interval by which it varies.", "max-attempts: 5\njitter: 0"),
            "on": Key(
                f"What is tried again: {_REASONS}.",
                "max-attempts: 5\non: [exit:75]",
                pitfalls=(
                    "`exit:75` without `failure` means that exit code only.",
                    "A lost attempt may have done its work: add `lost` only where it may run twice.",
                ),
            ),
            "never-on": Key(
                f"What is not tried again: {_REASONS}. It wins over `on`.", "max-attempts: 5\nnever-on: exit:22"
            ),
        },
    ),
    "Stop": Section(
        "stop",
        "`jobs.<id>.steps[*].stop`",
        "How a time-out or a cancel ends a step: a signal to all its processes, and after the grace SIGKILL. The end is"
        " reported only when every process is gone.",
        _STOP,
        {
            "signal": Key("The signal.", "signal: SIGINT"),
            "grace": Key("How long the processes have to end.", "grace: 1m"),
        },
    ),
    "CompositeStep": Section(
        "composite-step",
        "the file `step.yml` of a composite step",
        "Steps of a file of their own, in the place of one: `uses: ./steps/deploy` is those of `steps/deploy/step.yml` (or"
        " `action.yml`, as at GitHub). They run on the server, in the directory and with the environment of the step that"
        " uses them. They see their own `inputs` and `steps`, and `run`, `git`, `event`, `env`, `job`, `agent`; of everything"
        " else around they see nothing.",
        "",
        {
            "name": Key("What people call it.", "name: Deploy\nsteps: [{run: ./deploy.sh}]"),
            "description": Key("What people are told about it.", "description: Rolls out\nsteps: [{run: ./deploy.sh}]"),
            "inputs": Key(
                "What the step that uses it gives by `with`.",
                "inputs:\n  to: {type: choice, options: [staging, production]}\n"
                'steps:\n  - run: ./deploy.sh "${{ inputs.to }}"',
            ),
            "outputs": Key(
                "Names to values, over its own `steps`. A text is short for `value`.",
                "outputs:\n  url: ${{ steps.go.outputs.url }}\n"
                'steps:\n  - id: go\n    run: echo "url=x" >> "$WATERFLOW_OUTPUT"',
            ),
            "steps": Key("The steps, at least one. Required, unless `runs` has them.", "steps:\n  - run: ./deploy.sh"),
            "runs": Key(
                "GitHub's way to write the steps.",
                "runs:\n  using: composite\n  steps:\n    - run: ./deploy.sh",
                pitfalls=("`steps` and `runs` exclude each other.",),
            ),
        },
    ),
    "CompositeRuns": Section(
        "composite-runs",
        "`runs` of a composite step",
        "The steps as GitHub's actions write them.",
        "runs:\n  {}\n",
        {
            "using": Key("Only composite actions can be used.", "using: composite\nsteps: [{run: ./deploy.sh}]"),
            "steps": Key("The steps, at least one.", "using: composite\nsteps: [{run: ./deploy.sh}]"),
        },
    ),
}
