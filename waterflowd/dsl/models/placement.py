"""The models of `runs-on`, `strategy`, `concurrency` and `environment`: where, how often and when a job runs."""

from __future__ import annotations

from typing import Literal

from waterflowd.dsl.models.field_types import (
    Approvals,
    Boolean,
    BooleanOrExpression,
    Count,
    CountOrExpression,
    Duration,
    JsonValue,
    Labels,
    Minutes,
    ServerCount,
    ServerCountOrNone,
    ServerCounts,
    Text,
    Texts,
    wrong,
)
from waterflowd.dsl.models.model import EXAMPLE_JOBS, LanguageModel, Page, key
from waterflowd.dsl.reporting.values import describe

_EACH = "It is only allowed with `target: each` (or `all-servers`)."


def _frame(job: str, mapping: str, script: str) -> str:
    return f"jobs:\n  {job}:\n    runs-on: web-servers\n    {mapping}:\n      {{}}\n    steps:\n      - run: {script}\n"


def group_spelling(value: object) -> object:
    """`runs-on: web` and `runs-on: {group: web}` are the same."""
    if isinstance(value, list):
        raise wrong("expected one group of servers, such as web-servers; lists of labels are a feature of GitHub")
    return value if isinstance(value, dict) else {"group": value}


def concurrency_spelling(value: object) -> object:
    """`concurrency: name` and `concurrency: {group: name}` are the same."""
    if isinstance(value, list):
        raise wrong(f"expected the name of a concurrency group or a mapping, not {describe(value)}")
    return value if isinstance(value, dict) else {"group": value}


def environment_spelling(value: object) -> object:
    """`environment: production` and `environment: {name: production}` are the same."""
    if isinstance(value, list):
        raise wrong(f"expected the name of an environment or a mapping, not {describe(value)}")
    return value if isinstance(value, dict) else {"name": value}


class RunsOn(LanguageModel):
    """Where a job runs: on one connected server of a group (the one with the most free slots), or on each of its servers."""

    TITLE = "runs-on"
    PAGE = Page(
        name="runs-on",
        where="`jobs.<id>.runs-on`",
        frame="jobs:\n  update:\n    runs-on:\n      {}\n    steps:\n      - run: ./update.sh\n",
    )

    group: Text = key(
        "The name of the group. `all-servers` means every enrolled server that the repository may use.",
        "group: web-servers",
        expressions="job",
    )
    labels: Labels = key(
        "Labels that the server must have.",
        "group: web-servers\nlabels: {arch: arm64}",
        default={},
        expressions="job",
    )
    target: Literal["each"] | None = key(
        "`each` runs the job on every server of the group, as instances. The list of servers is fixed when the job starts.",
        "group: web-servers\ntarget: each",
        default=None,
        without="one server",
        pitfalls=("A job on several servers has no outputs: read `needs.<id>.servers['NAME'].outputs`.",),
    )
    batch: ServerCounts | None = key(
        "How many servers run the job at a time: a number, a percentage (rounded up), or a growing list, whose last entry"
        " repeats. A batch starts when the one before it has completed.",
        "group: web-servers\ntarget: each\nbatch: [1, 25%, 100%]",
        default=None,
        expressions="job",
        without="all at once",
        pitfalls=(_EACH,),
    )
    max_parallel: ServerCount | None = key(
        "How many servers run the job at the same time.",
        "group: web-servers\ntarget: each\nmax-parallel: 5",
        default=None,
        expressions="job",
        without="all",
        pitfalls=(_EACH,),
    )
    max_failures: ServerCountOrNone | None = key(
        "The number of servers that may fail. When more have failed, the job starts on no further server. It replaces"
        " `fail-fast`.",
        "group: web-servers\ntarget: each\nmax-failures: 10%",
        default=None,
        expressions="job",
        without="no limit",
        pitfalls=(_EACH,),
    )
    pause: Duration = key(
        "How long to wait between two batches.",
        "group: web-servers\ntarget: each\nbatch: 25%\npause: 1m",
        default=0,
        without="none",
        pitfalls=(_EACH, "It has no effect without `batch`."),
    )
    offline: Literal["fail", "skip", "wait"] = key(
        "What to do about a server that is not connected when its turn comes.",
        "group: web-servers\ntarget: each\noffline: skip",
        default="fail",
        pitfalls=(_EACH,),
    )
    wait_minutes: Minutes = key(
        "How long `offline: wait` waits.",
        "group: web-servers\ntarget: each\noffline: wait\nwait-minutes: 30",
        default=10.0,
        pitfalls=("It is only allowed with `offline: wait`.",),
    )


class Strategy(LanguageModel):
    """Runs a job as several instances, at most 256."""

    TITLE = "strategy"
    PAGE = Page(name="strategy", where="`jobs.<id>.strategy`", frame=_frame("test", "strategy", "make test"))

    matrix: JsonValue = key(
        "Names and lists of values; each combination is an instance. An entry of `include` extends the combinations that it"
        " agrees with, or else is an instance itself; `exclude` removes combinations. A list of values, `include`, `exclude` or"
        " the whole matrix may be an expression. Required.",
        "matrix:\n  os: [linux, bsd]\n  version: [1.20, 2.0]\n  exclude: [{os: bsd, version: 2.0}]",
        default=None,
        expressions="strategy",
        takes="a mapping of names to lists, or one expression",
        pitfalls=("Numbers keep their spelling: `1.20` stays `1.20`.",),
    )
    max_parallel: CountOrExpression | None = key(
        "How many instances run at the same time.",
        "matrix: {n: [1, 2, 3]}\nmax-parallel: 2",
        default=None,
        expressions="strategy",
        without="all",
    )
    fail_fast: BooleanOrExpression = key(
        "Whether the other instances are cancelled when one fails.",
        "matrix: {n: [1, 2, 3]}\nfail-fast: false",
        default=True,
        expressions="strategy",
        pitfalls=("It cannot be combined with `target: each`; use `max-failures`.",),
    )


class Concurrency(LanguageModel):
    """Limits how many runs or jobs of one concurrency group run at the same time. Group names are shared by all workflows
    of a repository.
    """

    TITLE = "concurrency"
    PAGE = Page(
        name="concurrency",
        where="`concurrency`, `jobs.<id>.concurrency`",
        frame="concurrency:\n  {}\n" + EXAMPLE_JOBS,
    )

    group: Text = key(
        "The name of the group. In a job it also sees `needs`, `matrix` and `strategy`.",
        "group: deploy-${{ git.branch }}",
        expressions="workflow",
    )
    limit: Count = key("How many run at the same time.", "group: database\nlimit: 2", default=1)
    queue: Literal["fifo", "latest", "reject", "max", "single"] = key(
        "What happens when the group is full: with `fifo` newcomers wait in order; with `latest` only the newest waits, and the"
        " one that waited before is cancelled; with `reject` newcomers are refused.",
        "group: deploy\nqueue: latest",
        default="fifo",
        pitfalls=(
            "GitHub cancels the one that waited before; here that is `latest`. GitHub's `max` and `single` are accepted, and"
            " mean `fifo` and `latest`.",
        ),
    )
    cancel_in_progress: BooleanOrExpression = key(
        "Whether a newcomer cancels those that are running.",
        "group: test-${{ git.branch }}\ncancel-in-progress: ${{ git.branch != 'main' }}",
        default=False,
        expressions="workflow",
        pitfalls=("It cannot be combined with `queue: reject`.",),
    )


class DeploymentEnvironment(LanguageModel):
    """An environment that a job needs approval for."""

    TITLE = "environment"
    INSTEAD = {
        "url": "print it, or make it an output of the job",
        "secrets": "the daemon's configuration says which secrets an environment has",
        "vars": "write them under the workflow's vars",
        "refs": "the daemon's configuration says which refs may use an environment",
    }
    PAGE = Page(
        name="environment", where="`jobs.<id>.environment`", frame=_frame("deploy", "environment", "./deploy.sh")
    )

    name: Text = key("The name of the environment.", "name: production", expressions="job")
    approvers: Texts = key(
        "Who may approve.",
        "name: production\napprovers: [ann, bob]",
        default=[],
        without="anyone with the role approver",
    )
    minimum: Approvals | None = key(
        "How many people must approve.",
        "name: production\napprovers: [ann, bob]\nminimum: 2",
        default=None,
        without="1 with `approvers` or without `may-approve-own`, otherwise 0",
        pitfalls=("It must not exceed the number of approvers.",),
    )
    may_approve_own: Boolean = key(
        "Whether the person who started the run may approve it.",
        "name: production\napprovers: [ann, bob]\nmay-approve-own: false",
        default=True,
    )
    deployment: BooleanOrExpression = key(
        "Accepted for files of GitHub; it has no effect, because no deployments are recorded.",
        "name: production\ndeployment: false",
        default=False,
        expressions="job",
    )
