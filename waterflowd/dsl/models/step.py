"""The models of a step, of `retry` and of `stop`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from waterflowd.dsl.models.field_types import (
    Attempts,
    Boolean,
    BooleanOrExpression,
    Bytes,
    Coefficient,
    Condition,
    Duration,
    EnvironmentVariables,
    Fraction,
    JsonValue,
    Memory,
    MinutesOrExpression,
    Name,
    OrEmpty,
    Percentage,
    Processes,
    RetryReasons,
    Signal,
    StaticText,
    Text,
)
from waterflowd.dsl.models.model import LanguageModel, Page, key

_FRAME = "jobs:\n  build:\n    runs-on: web-servers\n    steps:\n      - {}\n"
_SCRIPT_FRAME = "jobs:\n  build:\n    runs-on: web-servers\n    steps:\n      - run: ./job.sh\n"
_REASONS = "any of `failure`, `timeout`, `lost`, `exit:N`"


class Retry(LanguageModel):
    """When and how often a step or a job is tried again. An attempt that the agent rejected never ran and is not counted."""

    TITLE = "retry"
    PAGE = Page(name="retry", where="`retry` of a job or step", frame=_SCRIPT_FRAME + "        retry:\n          {}\n")

    max_attempts: Attempts = key("The maximum number of attempts, including the first.", "max-attempts: 5")
    initial_interval: Duration = key(
        "The wait before the second attempt.", "max-attempts: 5\ninitial-interval: 10s", default=1_000
    )
    backoff_coefficient: Coefficient = key(
        "The factor by which the wait grows after each attempt.",
        "max-attempts: 5\nbackoff-coefficient: 1.5",
        default=2.0,
    )
    max_interval: Duration = key("The longest wait.", "max-attempts: 5\nmax-interval: 5m", default=60_000)
    jitter: Fraction = key("The fraction by which a wait varies at random.", "max-attempts: 5\njitter: 0", default=0.1)
    on: RetryReasons = key(
        f"What is tried again: {_REASONS}.",
        "max-attempts: 5\non: [exit:75]",
        default=["failure", "timeout"],
        pitfalls=(
            "`exit:75` without `failure` means this exit code only.",
            "A lost attempt may have done its work: add `lost` only if the step may run twice.",
        ),
    )
    never_on: RetryReasons = key(
        f"What is not tried again: {_REASONS}. It overrides `on`.", "max-attempts: 5\nnever-on: exit:22", default=[]
    )


class Stop(LanguageModel):
    """How a step is stopped on timeout or cancellation: a signal to all its processes, and SIGKILL after the grace period.
    The step has ended only when all its processes are gone.
    """

    TITLE = "stop"
    PAGE = Page(name="stop", where="`jobs.<id>.steps[*].stop`", frame=_SCRIPT_FRAME + "        stop:\n          {}\n")

    signal: Signal = key("The signal.", "signal: SIGINT", default="SIGTERM")
    grace: Duration = key("How long the processes have to exit.", "grace: 1m", default=10_000)


class Limits(LanguageModel):
    """What the processes of a step may use together. A step that exceeds a limit ends as a failure that names it."""

    TITLE = "limits"
    PAGE = Page(
        name="limits", where="`jobs.<id>.steps[*].limits`", frame=_SCRIPT_FRAME + "        limits:\n          {}\n"
    )

    memory: Memory | None = key(
        "The memory of all processes of the step.",
        "memory: 2GiB",
        default=None,
        without="the server's limit",
        pitfalls=("Files that a step writes to a file system in memory (`/dev/shm`) count too.",),
    )
    processes: Processes | None = key(
        "How many processes and threads the step may have at a time. It is ended when it tries to start one more.",
        "processes: 512",
        default=None,
        without="the server's limit",
    )
    cpu: Percentage | None = key(
        "The processor time per time, in percent of one processor. A step that needs more is slowed down.",
        "cpu: 200%",
        default=None,
        without="the server's limit",
    )


class Step(LanguageModel):
    """One step: a script (`run`), or a node or composite step (`uses`)."""

    TITLE = "a step"
    INSTEAD = {"timeout": "use timeout-minutes"}
    PAGE = Page(name="step", where="`jobs.<id>.steps[*]`, and the steps of nodes and composite steps", frame=_FRAME)

    id: StaticText | None = key(
        "The name by which expressions refer to the step.",
        "id: dump\nrun: ./dump.sh",
        default=None,
        without="none; the step is shown by its number",
        pitfalls=("Expressions can refer to earlier steps only.",),
    )
    name: Name | None = key(
        "The display name.",
        "name: Back up\nrun: ./backup.sh",
        default=None,
        expressions="step",
        without="the first line of the script, or the node",
    )
    if_: Condition | None = key(
        "A condition; `${{ }}` is optional. A condition that calls no status function is preceded by an implied"
        " `success() &&`.",
        "if: failure()\nrun: ./notify.sh",
        default=None,
        expressions="step-if",
        without="`success()`",
        pitfalls=(
            "After a failed step, all later steps are skipped unless their condition calls `failure()` or `always()`.",
        ),
    )
    run: Text | None = key(
        "A script; short for `uses: shell`. In bash and sh, an expression in the script becomes an environment variable, so"
        " that its value is never executed as code.",
        'run: echo "${{ git.branch }}"',
        default=None,
        expressions="step-secrets",
        pitfalls=(
            "Where no variable can be used (a quoted here-document, arithmetic, the source of another interpreter), the file"
            " is refused; the error shows the `env` lines that fix it.",
        ),
    )
    shell: Text | None = key(
        "What runs the script: `bash`, `sh`, `python`, `pwsh`, or a command line with `{0}` in place of the script's file.",
        "shell: python\nrun: print(1)",
        default=None,
        expressions="step",
        without="`bash` (`-eo pipefail`), or `sh` where there is no bash",
        only="script",
    )
    uses: StaticText | None = key(
        "A node, optionally followed by `@v1`, or a composite step of the repository: `./` and its path.",
        "uses: log\nwith: {message: hello}",
        default=None,
        pitfalls=("`run` and `uses` are mutually exclusive.", "GitHub actions cannot be used."),
    )
    with_: OrEmpty[dict[str, JsonValue]] = key(
        "The parameters of the node, or the inputs of the composite step. Values without expressions are checked before the"
        " run starts.",
        "uses: log\nwith: {message: hello}",
        default={},
        expressions="step-secrets",
        pitfalls=("It belongs to `uses`, not to `run`.", "Nodes that the daemon runs itself take no secrets."),
    )
    env: EnvironmentVariables = key(
        "Environment variables of this step. They override those of the job.",
        "env: {TOKEN: '${{ secrets.TOKEN }}'}\nrun: ./publish.sh",
        default={},
        expressions="step-secrets",
    )
    working_directory: Text | None = key(
        "The directory in which the step starts: a path inside the job's directory.",
        "working-directory: app\nrun: make",
        default=None,
        expressions="step",
        without="the job's directory",
        only="process",
        pitfalls=("The directory must exist when the step starts. The script itself can `cd` anywhere.",),
    )
    timeout_minutes: MinutesOrExpression | None = key(
        "How long one attempt may take.",
        "timeout-minutes: 0.5\nrun: ./probe.sh",
        default=None,
        expressions="step",
        without="the remaining time of the job",
        pitfalls=("The step ends as `timed-out`, which `failure()` counts as a failure.",),
    )
    continue_on_error: BooleanOrExpression = key(
        "Whether the job continues as if the step had succeeded: after a failure `steps.<id>.conclusion` is `success` and"
        " `steps.<id>.outcome` is `failure`.",
        "continue-on-error: true\nrun: ./lint.sh",
        default=False,
        expressions="step",
    )
    retry: Retry | None = key(
        "When and how often the step is tried again.",
        "run: ./fetch.sh\nretry: {max-attempts: 3}",
        default=None,
        without="one attempt",
        only="attempts",
    )
    retry_strategy: Retry | None = key(
        "An alias of `retry`.",
        "run: ./fetch.sh\nretry-strategy: {max-attempts: 3}",
        default=None,
        only="attempts",
        pitfalls=("Use one of the two.",),
    )
    on_lost: Literal["fail", "retry", "hold"] = key(
        "What happens if the outcome of an attempt cannot be determined, because its server rebooted, was revoked or did not"
        " come back: the step ends as `lost` (`fail`), is tried again (`retry`), or waits for a person (`hold`).",
        "on-lost: retry\nrun: ./idempotent.sh",
        default="fail",
        only="process",
        pitfalls=("Use `retry` only for a step that may run twice.",),
    )
    stop: Stop = key(
        "How the step is stopped on timeout or cancellation.",
        "run: ./serve.sh\nstop: {signal: SIGINT, grace: 1m}",
        default=Stop(),
        without="SIGTERM, and SIGKILL after 10 seconds",
        only="process",
    )
    output_max_bytes: Bytes | None = key(
        "How much of an attempt's output is kept: its beginning and its end.",
        "run: ./noisy.sh\noutput-max-bytes: 1MiB",
        default=None,
        without="64 MiB",
        only="process",
        pitfalls=("The output log says how much was dropped; it cannot be recovered.",),
    )
    limits: Limits = key(
        "What the step may use at most: memory, processes, processor time. The agent's configuration sets the limits of its"
        " server; a step can only ask for less.",
        "run: ./import.sh\nlimits: {memory: 2GiB, processes: 512, cpu: 200%}",
        default=Limits(),
        without="the limits of the server",
        only="process",
        pitfalls=("On a server that cannot enforce a limit, a step that asks for it fails.",),
    )
    unsafe_interpolation: Boolean = key(
        "Inserts the values of expressions into the script as text.",
        "run: ${{ vars.command }}\nunsafe-interpolation: true",
        default=False,
        only="script",
        pitfalls=("Anyone who controls such a value can run commands on the server.",),
    )


#: A list of steps with at least one entry.
Steps = Annotated[list[Step], Field(min_length=1)]
