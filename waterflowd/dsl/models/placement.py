"""Where, how often and when a job runs: the models of `runs-on`, `strategy`, `concurrency` and `environment`."""

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
    Size,
    SizeOrNone,
    Sizes,
    Text,
    Texts,
    wrong,
)
from waterflowd.dsl.models.model import LanguageModel
from waterflowd.dsl.reporting.values import describe


def group_spelling(value: object) -> object:
    """`runs-on: web` and `runs-on: {group: web}` are the same."""
    if isinstance(value, list):
        raise wrong("a list of labels chooses a server at GitHub; here it is one group, such as web-servers")
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
    """`runs-on`: where a job runs."""

    TITLE = "runs-on"

    group: Text
    labels: Labels = {}
    target: Literal["each"] | None = None
    batch: Sizes | None = None
    max_parallel: Size | None = None
    max_failures: SizeOrNone | None = None
    pause: Duration = 0
    offline: Literal["fail", "skip", "wait"] = "fail"
    wait_minutes: Minutes = 10.0


class Strategy(LanguageModel):
    """`strategy`: a job as many instances."""

    TITLE = "strategy"

    matrix: JsonValue = None
    max_parallel: CountOrExpression | None = None
    fail_fast: BooleanOrExpression = True


class Concurrency(LanguageModel):
    """`concurrency`: how many of one name may be at work at a time."""

    TITLE = "concurrency"

    group: Text
    limit: Count = 1
    queue: Literal["fifo", "latest", "reject"] = "fifo"
    cancel_in_progress: BooleanOrExpression = False


class DeploymentEnvironment(LanguageModel):
    """`environment`: what must be approved before a job starts."""

    TITLE = "environment"
    INSTEAD = {
        "url": "print it, or make it an output of the job",
        "deployment": "remove it",
        "secrets": "the daemon's configuration says which secrets an environment has",
        "vars": "write them under vars of the workflow",
        "refs": "the daemon's configuration says which refs an environment takes",
    }

    name: Text
    approvers: Texts = []
    minimum: Approvals | None = None
    may_approve_own: Boolean = True
