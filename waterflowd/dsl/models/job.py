"""The model of a job."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, PlainValidator, WithJsonSchema

from waterflowd.dsl.models.checkout import Checkout, checkout_spelling
from waterflowd.dsl.models.containers import Container, ContainerOrImage, container_spelling
from waterflowd.dsl.models.defaults import Defaults
from waterflowd.dsl.models.field_types import (
    BOOLEAN_OR_PATTERNS,
    BooleanOrExpression,
    Condition,
    EnvironmentVariables,
    IdName,
    JobIds,
    JsonValue,
    Minutes,
    MinutesOrExpression,
    Name,
    OrEmpty,
    OutputTexts,
    StaticText,
    short_for,
    wrong,
)
from waterflowd.dsl.models.model import LanguageModel, Page, key
from waterflowd.dsl.models.placement import (
    Concurrency,
    DeploymentEnvironment,
    RunsOn,
    Strategy,
    concurrency_spelling,
    environment_spelling,
    group_spelling,
)
from waterflowd.dsl.models.report import OUTPUTS_LIST, Report, report_spelling
from waterflowd.dsl.models.step import Retry, Steps
from waterflowd.dsl.reporting.values import describe

#: What to do instead of writing `permissions`.
PERMISSIONS = "remove it: the daemon's configuration says what a repository may do"

_STEPS = "runs-on: web-servers\nsteps:\n  - run: make"


def _passed_secrets(value: object) -> str | dict[str, str]:
    if value == "inherit":
        return "inherit"
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise wrong(
            f"expected inherit, or a mapping such as {{TOKEN: '${{{{ secrets.TOKEN }}}}'}}, not {describe(value)}"
        )
    return value


_PassedSecrets = Annotated[
    str | dict[str, str],
    PlainValidator(_passed_secrets),
    WithJsonSchema(
        {
            "anyOf": [{"enum": ["inherit"]}, {"type": "object", "additionalProperties": {"type": "string"}}],
            "x-takes": "`inherit`, or a mapping of names to `${{ secrets.NAME }}`",
        }
    ),
]


class Job(LanguageModel):
    """A job: steps that run in order on one server (`runs-on` and `steps`), or a call of a reusable workflow (`uses`)."""

    TITLE = "a job"
    INSTEAD = {
        "permissions": PERMISSIONS,
        "snapshot": "remove it",
    }
    PAGE = Page(name="job", where="`jobs.<id>`", frame="jobs:\n  build:\n    {}\n")

    name: Name | None = key(
        "The display name.",
        f"name: Build ${{{{ git.short-sha }}}}\n{_STEPS}",
        default=None,
        expressions="job",
        without="the id",
        pitfalls=("It is evaluated when the job becomes ready, so it sees `needs` but not `steps`.",),
    )
    runs_on: Annotated[RunsOn | None, BeforeValidator(group_spelling), short_for("group")] = key(
        "The group of servers. The job runs on one connected server of the group and stays there for all its steps; with"
        " `target: each` it runs on every server. A text is short for `group`.",
        _STEPS,
        default=None,
        expressions="job",
        only="steps",
        pitfalls=(
            "A list is an error: on GitHub it means labels.",
            "While no server is available the job waits, and its reason says so; see `start-timeout-minutes`.",
            "`all-servers` means every enrolled server, with `target: each`.",
        ),
    )
    needs: JobIds = key(
        "The ids of the jobs that must complete first: one, or a list.",
        "jobs:\n  build: {runs-on: web-servers, steps: [{run: make}]}\n  deploy:\n    needs: [build]\n"
        "    runs-on: web-servers\n    steps:\n      - run: ./deploy.sh\n",
        default=[],
        pitfalls=(
            "If one of them did not succeed, the job is skipped, unless its `if` calls a status function such as"
            " `always()`.",
        ),
    )
    if_: Condition | None = key(
        "A condition; `${{ }}` is optional. A condition that calls no status function is preceded by an implied"
        " `success() &&`.",
        f"if: git.branch == 'main'\n{_STEPS}",
        default=None,
        expressions="job-if",
        without="`success()`",
        pitfalls=(
            "In YAML, a condition that begins with `!` needs quotes.",
            "It is evaluated before the job becomes instances, so it does not see `matrix`.",
        ),
    )
    strategy: OrEmpty[Strategy | None] = key(
        "Runs the job as several instances, one for each combination of a matrix.",
        f"strategy: {{matrix: {{version: [1.20, 2.0]}}}}\n{_STEPS}",
        default=None,
        expressions="strategy",
        pitfalls=(
            "`needs.<id>.outputs` of such a job is null; `needs.<id>.instances` has the outputs of each instance.",
        ),
    )
    concurrency: Annotated[Concurrency | None, BeforeValidator(concurrency_spelling), short_for("group")] = key(
        "Limits how many jobs of one concurrency group run at the same time. A text is short for `group`.",
        f"concurrency: {{group: database, limit: 2}}\n{_STEPS}",
        default=None,
        expressions="job",
    )
    environment: Annotated[DeploymentEnvironment | None, BeforeValidator(environment_spelling), short_for("name")] = (
        key(
            "The environment, which may require approval before the job starts. The rules for this name in the daemon's"
            " configuration apply, and those in the file. A text is short for `name`.",
            f"environment: {{name: production, approvers: [ann, bob]}}\n{_STEPS}",
            default=None,
            expressions="job",
            pitfalls=("`url` does not exist; print it.",),
        )
    )
    timeout_minutes: MinutesOrExpression = key(
        "The timeout of the job, from the moment it has a server. Time spent in `sleep` or `approval` does not count.",
        f"timeout-minutes: 30\n{_STEPS}",
        default=360.0,
        expressions="job",
        pitfalls=("After the timeout, steps with `always()` do not run either.",),
    )
    start_timeout_minutes: Minutes = key(
        "How long the job may wait for a server.",
        f"start-timeout-minutes: 5\n{_STEPS}",
        default=60.0,
        only="steps",
        pitfalls=("The job then ends as `timed-out` with the reason `start-timeout`.",),
    )
    continue_on_error: BooleanOrExpression = key(
        "Whether the run continues as if the job had succeeded. The job's `outcome` still shows the failure.",
        f"continue-on-error: true\n{_STEPS}",
        default=False,
        expressions="job",
        pitfalls=("The run can then end as `success` although something failed.",),
    )
    retry: Retry | None = key(
        "When and how often the job starts again from its first step, on another server if there is one.",
        f"retry: {{max-attempts: 2}}\n{_STEPS}",
        default=None,
        without="one attempt",
        only="steps",
        pitfalls=("All its steps must be able to run twice.",),
    )
    checkout: Annotated[Checkout | None, BeforeValidator(checkout_spelling), BOOLEAN_OR_PATTERNS] = key(
        "Whether the working directory has the repository's files at the run's commit: all, none, or those that match a list of"
        " path patterns; a [mapping](checkout.md) says more. The daemon sends the files that the server does not have yet.",
        f"checkout: ['app/**', '!app/docs/**']\n{_STEPS}",
        default=Checkout(),
        without="`true`",
        only="steps",
    )
    container: Annotated[Container | None, BeforeValidator(container_spelling), short_for("image")] = key(
        "The container in which the job's scripts run, on the server of the job. A text is short for `image`."
        " [Containers of a job](../workflows.md#containers-of-a-job) describes it.",
        "runs-on: docker-servers\ncontainer: node:22\nsteps:\n  - run: npm test",
        default=None,
        expressions="job",
        without="scripts run on the server itself",
        only="steps",
        pitfalls=(
            "The job waits until a server of the group has a Docker engine.",
            "Scripts run with `sh` unless they set `shell`. All other nodes run on the server itself.",
        ),
    )
    services: OrEmpty[dict[IdName, ContainerOrImage]] = key(
        "Containers that run beside the job's steps, by name. Steps start when all services with a health check are healthy."
        " At most 20.",
        "runs-on: docker-servers\nservices:\n  cache: {image: 'redis:7', ports: [6379]}\n"
        "steps:\n  - run: redis-cli -p ${{ job.services.cache.ports['6379'] }} ping",
        default={},
        without="none",
        only="steps",
        pitfalls=("A service that becomes unhealthy fails the job; the end of its log is shown.",),
    )
    user: StaticText | None = key(
        "The user of the server as which the job's processes run. The agent's configuration lists the possible ones.",
        f"user: deploy\n{_STEPS}",
        default=None,
        without="the user that the agent's configuration names",
        only="steps",
        pitfalls=("On a server whose agent does not allow this user, the job's steps fail.",),
    )
    outputs: OutputTexts = key(
        "Names and values for the jobs that need this one. At most 1 MiB.",
        "runs-on: web-servers\noutputs:\n  version: ${{ steps.find.outputs.version }}\n"
        'steps:\n  - id: find\n    run: echo "version=1.4.2" >> "$WATERFLOW_OUTPUT"',
        default={},
        expressions="step",
        only="steps",
        pitfalls=("They are evaluated after all steps have completed, even if steps failed.",),
    )
    report: Annotated[Report | None, BeforeValidator(report_spelling), OUTPUTS_LIST] = key(
        "A table of results that is kept with the run: a row for each server or matrix combination. A list is short for"
        " `columns`.",
        "runs-on: all-servers\nreport:\n  columns:\n    Kernel: ${{ steps.facts.outputs.kernel }}\n"
        'steps:\n  - id: facts\n    run: echo "kernel=$(uname -r)" >> "$WATERFLOW_OUTPUT"',
        default=None,
        without="no table",
        only="steps",
        pitfalls=("`waterflowctl report RUN` shows it.",),
    )
    defaults: OrEmpty[Defaults] = key(
        "Default settings of this job's scripts.",
        f"defaults: {{run: {{shell: sh}}}}\n{_STEPS}",
        default=Defaults(),
        only="steps",
    )
    env: EnvironmentVariables = key(
        "Environment variables of the job's steps. They override those of the workflow.",
        f"env: {{REGION: eu}}\n{_STEPS}",
        default={},
        expressions="job-env",
        only="steps",
    )
    uses: StaticText | None = key(
        "A reusable workflow to call instead of running steps: `./` and its path from the root of the repository.",
        "uses: ./workflows/library.yml\nwith: {target: web}",
        default=None,
        only="call",
        pitfalls=(
            "Calls can be nested four levels deep; cycles are errors.",
            "A file that was submitted directly has no repository, so it cannot call workflows.",
        ),
    )
    with_: OrEmpty[dict[str, JsonValue]] = key(
        "The inputs of the called workflow.",
        "uses: ./workflows/library.yml\nwith: {target: web}",
        default={},
        expressions="job",
        only="call",
        pitfalls=("Inputs are recorded; pass secrets under `secrets`.",),
    )
    secrets: _PassedSecrets = key(
        "Secrets of the called workflow: `NAME: ${{ secrets.OTHER }}` for each, or `inherit` to pass all under their names.",
        "uses: ./workflows/library.yml\nwith: {target: web}\nsecrets: {TOKEN: '${{ secrets.FORGE_TOKEN }}'}",
        default={},
        only="call",
    )
    steps: Steps | None = key(
        "The steps, at least one. They run in order, on one server, in one working directory.",
        _STEPS,
        default=None,
        only="steps",
    )
