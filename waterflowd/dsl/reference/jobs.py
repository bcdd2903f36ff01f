"""Texts: jobs, and where, how often and when they run."""

from __future__ import annotations

from waterflowd.dsl.reference.entries import JOB, Key, Section

_STEPS = "runs-on: web-servers\nsteps:\n  - run: make"
_RUNS_ON = "jobs:\n  update:\n    runs-on:\n      {}\n    steps:\n      - run: ./update.sh\n"
_MATRIX = "jobs:\n  test:\n    runs-on: web-servers\n    strategy:\n      {}\n    steps:\n      - run: make test\n"
_GATE = "jobs:\n  deploy:\n    runs-on: web-servers\n    environment:\n      {}\n    steps:\n      - run: ./deploy.sh\n"
_EACH = "It goes with `target: each` (or `all-servers`) only."

SECTIONS: dict[str, Section] = {
    "Job": Section(
        "job",
        "`jobs.<id>`",
        "A job: steps in order on one server (`runs-on` and `steps`), or a call of a reusable workflow (`uses`).",
        JOB,
        {
            "name": Key(
                "What the job is called where people see it.",
                f"name: Build ${{{{ git.short-sha }}}}\n{_STEPS}",
                place="job",
                default="the id",
                pitfalls=("Rendered when the job is ready, so it sees `needs` but no `steps`.",),
            ),
            "runs-on": Key(
                "The group of servers. The job runs on one connected server of it and stays there for all its steps; with"
                " `target: each` on every one. A text is short for `group`.",
                _STEPS,
                place="job",
                only="steps",
                pitfalls=(
                    "A list is an error: it means labels elsewhere.",
                    "Without a server the job waits and says why; see `start-timeout-minutes`.",
                    "`all-servers` is every enrolled server, and means `target: each`.",
                ),
            ),
            "needs": Key(
                "The ids of jobs that must be completed first: one or a list.",
                "jobs:\n  build: {runs-on: web-servers, steps: [{run: make}]}\n  deploy:\n    needs: [build]\n"
                "    runs-on: web-servers\n    steps:\n      - run: ./deploy.sh\n",
                pitfalls=(
                    "If one of them did not succeed the job is skipped, unless its `if` asks for the status itself, such as"
                    " `always()`.",
                ),
            ),
            "if": Key(
                "A condition; `${{ }}` may be left out. One that asks for no status has an implied `success() &&`.",
                f"if: git.branch == 'main'\n{_STEPS}",
                place="job-if",
                default="`success()`",
                pitfalls=(
                    "A condition that begins with `!` needs quotes in YAML.",
                    "It is decided before the job becomes instances, so it does not see `matrix`.",
                ),
            ),
            "strategy": Key(
                "The job as many instances, one for each combination of a matrix.",
                f"strategy: {{matrix: {{version: [1.20, 2.0]}}}}\n{_STEPS}",
                place="strategy",
                pitfalls=("`needs.<id>.outputs` of such a job is null; `needs.<id>.instances` has each.",),
            ),
            "concurrency": Key(
                "How many jobs of one name may be at work at a time. A text is short for `group`.",
                f"concurrency: {{group: database, limit: 2}}\n{_STEPS}",
                place="job",
            ),
            "environment": Key(
                "The gate before the job: a name, whose rules the daemon's configuration may hold, and what the file itself"
                " asks. A text is short for `name`.",
                f"environment: {{name: production, approvers: [ann, bob]}}\n{_STEPS}",
                place="job",
                pitfalls=("`url` does not exist; print it.",),
            ),
            "timeout-minutes": Key(
                "How long the job may take from the moment it has its server; time spent in a `sleep` or `approval` does not"
                " count.",
                f"timeout-minutes: 30\n{_STEPS}",
                place="job",
                pitfalls=("After it `always()` steps do not run.",),
            ),
            "start-timeout-minutes": Key(
                "How long the job may wait for a server.",
                f"start-timeout-minutes: 5\n{_STEPS}",
                only="steps",
                pitfalls=("It then ends `timed-out` with the reason `start-timeout`.",),
            ),
            "continue-on-error": Key(
                "Whether a failure of the job counts as success for what follows; its `outcome` keeps the truth.",
                f"continue-on-error: true\n{_STEPS}",
                place="job",
                pitfalls=("The run can then end `success` although something failed.",),
            ),
            "retry": Key(
                "The job starts again from its first step, on another server if there is one.",
                f"retry: {{max-attempts: 2}}\n{_STEPS}",
                only="steps",
                default="one attempt",
                pitfalls=("Everything in it must be able to run twice.",),
            ),
            "checkout": Key(
                "Whether the working directory holds the repository's files at the run's commit: all, none, or those that"
                " match a list of path patterns. The daemon sends what the server does not have yet.",
                f"checkout: ['app/**', '!app/docs/**']\n{_STEPS}",
                only="steps",
            ),
            "outputs": Key(
                "Names to values, for the jobs that need this one. At most 1 MiB.",
                "runs-on: web-servers\noutputs:\n  version: ${{ steps.find.outputs.version }}\n"
                'steps:\n  - id: find\n    run: echo "version=1.4.2" >> "$WATERFLOW_OUTPUT"',
                place="step",
                only="steps",
                pitfalls=("Evaluated when all steps are over, also when they failed.",),
            ),
            "defaults": Key(
                "What scripts of this job take that do not say it themselves.",
                f"defaults: {{run: {{shell: sh}}}}\n{_STEPS}",
                only="steps",
            ),
            "env": Key(
                "Environment variables of the job's steps, over those of the workflow.",
                f"env: {{REGION: eu}}\n{_STEPS}",
                place="job-env",
                only="steps",
            ),
            "uses": Key(
                "A reusable workflow in place of steps: `./` and its path from the root of the repository.",
                "uses: ./workflows/library.yml\nwith: {target: web}",
                only="call",
                pitfalls=(
                    "Calls nest four deep; circles are errors.",
                    "A file that is sent by itself has no repository, and can call nothing.",
                ),
            ),
            "with": Key(
                "Values for the inputs of the called workflow.",
                "uses: ./workflows/library.yml\nwith: {target: web}",
                place="job",
                only="call",
                pitfalls=("Values under `with` are written down, so secrets go under `secrets`.",),
            ),
            "secrets": Key(
                "Secrets for the called workflow: `NAME: ${{ secrets.OTHER }}` for each, or `inherit` for all under their"
                " own names.",
                "uses: ./workflows/library.yml\nwith: {target: web}\nsecrets: {TOKEN: '${{ secrets.FORGE_TOKEN }}'}",
                only="call",
            ),
            "steps": Key(
                "The steps, in order, on one server, in one working directory. At least one.",
                _STEPS,
                only="steps",
            ),
        },
    ),
    "RunsOn": Section(
        "runs-on",
        "`jobs.<id>.runs-on`",
        "Where a job runs: on one connected server of a group, the one with the most free slots, or on each of them.",
        _RUNS_ON,
        {
            "group": Key(
                "The name of the group; `all-servers` is every enrolled server that the repository may use.",
                "group: web-servers",
                place="job",
            ),
            "labels": Key(
                "Labels that a server must have too.", "group: web-servers\nlabels: {arch: arm64}", place="job"
            ),
            "target": Key(
                "`each`: the job runs on every server of the group, as instances. The list of servers is fixed when the job"
                " starts.",
                "group: web-servers\ntarget: each",
                default="one server",
                pitfalls=(
                    "A job on many servers has no outputs of its own: read `needs.<id>.servers['NAME'].outputs`.",
                ),
            ),
            "batch": Key(
                "How many servers at a time go through the job: a number, a share of them (rounded up), or a growing list,"
                " whose last one repeats.",
                "group: web-servers\ntarget: each\nbatch: [1, 25%, 100%]",
                place="job",
                default="all at once",
                pitfalls=(_EACH,),
            ),
            "max-parallel": Key(
                "How many servers are at work at a time.",
                "group: web-servers\ntarget: each\nmax-parallel: 5",
                place="job",
                default="all",
                pitfalls=(_EACH,),
            ),
            "max-failures": Key(
                "When more servers than this have failed, no new one starts. It takes the place of `fail-fast`.",
                "group: web-servers\ntarget: each\nmax-failures: 10%",
                place="job",
                default="however many",
                pitfalls=(_EACH,),
            ),
            "pause": Key(
                "How long to wait between two batches.",
                "group: web-servers\ntarget: each\nbatch: 25%\npause: 1m",
                default="none",
                pitfalls=(_EACH, "There is nothing to pause between without `batch`."),
            ),
            "offline": Key(
                "What becomes of a server that is not connected when its turn comes.",
                "group: web-servers\ntarget: each\noffline: skip",
                pitfalls=(_EACH,),
            ),
            "wait-minutes": Key(
                "How long `offline: wait` waits.",
                "group: web-servers\ntarget: each\noffline: wait\nwait-minutes: 30",
                pitfalls=("It goes with `offline: wait` only.",),
            ),
        },
    ),
    "Strategy": Section(
        "strategy",
        "`jobs.<id>.strategy`",
        "A job as many instances of itself. At most 256.",
        _MATRIX,
        {
            "matrix": Key(
                "Names to lists of values; each combination is an instance. `include` joins the combinations that it agrees"
                " with, else is one of its own; `exclude` takes combinations away. A dimension, `include`, `exclude` or the"
                " whole matrix may be one expression that yields it. Required.",
                "matrix:\n  os: [linux, bsd]\n  version: [1.20, 2.0]\n  exclude: [{os: bsd, version: 2.0}]",
                place="strategy",
                takes="a mapping of names to lists, or one expression",
                pitfalls=("Numbers are spelled as they are written: `1.20` stays `1.20`.",),
            ),
            "max-parallel": Key(
                "How many instances at a time.",
                "matrix: {n: [1, 2, 3]}\nmax-parallel: 2",
                place="strategy",
                default="all",
            ),
            "fail-fast": Key(
                "Whether the others are cancelled when one fails.",
                "matrix: {n: [1, 2, 3]}\nfail-fast: false",
                place="strategy",
                pitfalls=("It does not go with `target: each`; that is `max-failures`.",),
            ),
        },
    ),
    "DeploymentEnvironment": Section(
        "environment",
        "`jobs.<id>.environment`",
        "What must be approved before a job starts.",
        _GATE,
        {
            "name": Key("The name of the environment.", "name: production", place="job"),
            "approvers": Key(
                "Who may approve.", "name: production\napprovers: [ann, bob]", default="whoever has the role"
            ),
            "minimum": Key(
                "How many approvals it takes.",
                "name: production\napprovers: [ann, bob]\nminimum: 2",
                default="1 with `approvers`, else 0",
                pitfalls=("More than there are approvers can never be reached.",),
            ),
            "may-approve-own": Key(
                "Whether the one who started the run may approve it.",
                "name: production\napprovers: [ann, bob]\nmay-approve-own: false",
            ),
        },
    ),
}
