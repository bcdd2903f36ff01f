"""The models of a step, of `retry` and of `stop`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from waterflowd.dsl.models.field_types import (
    Attempts,
    Boolean,
    BooleanOrExpression,
    Bytes,
    Coefficient,
    Duration,
    EnvironmentVariables,
    JsonValue,
    MinutesOrExpression,
    Name,
    Share,
    StaticText,
    Text,
    wrong,
)
from waterflowd.dsl.models.model import LanguageModel, empty_is_all
from waterflowd.dsl.reporting.values import as_text, describe


def _condition(value: object) -> str:
    written = as_text(value)
    if not isinstance(written, str) or not written.strip():
        raise wrong(f"expected a condition, not {describe(value)}")
    return written


def _retry_reason(value: object) -> str:
    written = as_text(value)
    if isinstance(written, str):
        name, colon, number = written.partition(":")
        if not colon and name in ("failure", "timeout", "lost"):
            return written
        if colon and name == "exit" and number.isascii() and number.isdigit() and int(number[:4]) <= 255:
            return f"exit:{int(number)}"
    raise wrong(f"expected failure, timeout, lost or exit:N (N up to 255), not {describe(value)}")


def _retry_reasons(value: object) -> list[str]:
    return [_retry_reason(item) for item in (value if isinstance(value, list) else [value])]


_SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGKILL")


def _signal(value: object) -> str:
    written = str(value).upper() if isinstance(value, str) else ""
    name = written if written.startswith("SIG") else f"SIG{written}"
    if name not in _SIGNALS:
        raise wrong(f"expected one of {', '.join(_SIGNALS)}, not {describe(value)}")
    return name


Condition = Annotated[str, BeforeValidator(_condition)]
RetryReasons = Annotated[list[str], BeforeValidator(_retry_reasons)]
Signal = Annotated[str, BeforeValidator(_signal)]


class Retry(LanguageModel):
    """`retry`: when and how often a step is tried again."""

    TITLE = "retry"

    max_attempts: Attempts
    initial_interval: Duration = 1_000
    backoff_coefficient: Coefficient = 2.0
    max_interval: Duration = 60_000
    jitter: Share = 0.1
    on: RetryReasons = ["failure", "timeout"]
    never_on: RetryReasons = []


class Stop(LanguageModel):
    """`stop`: how a step is ended."""

    TITLE = "stop"

    signal: Signal = "SIGTERM"
    grace: Duration = 10_000


class Step(LanguageModel):
    """One step."""

    TITLE = "a step"
    INSTEAD = {
        "timeout": "write timeout-minutes",
    }

    id: StaticText | None = None
    name: Name | None = None
    if_: Condition | None = None
    run: Text | None = None
    shell: StaticText | None = None
    uses: StaticText | None = None
    with_: Annotated[dict[str, JsonValue], BeforeValidator(empty_is_all)] = {}
    env: EnvironmentVariables = {}
    working_directory: Text | None = None
    timeout_minutes: MinutesOrExpression | None = None
    continue_on_error: BooleanOrExpression = False
    retry: Retry | None = None
    retry_strategy: Retry | None = None
    on_lost: Literal["fail", "retry", "hold"] = "fail"
    stop: Stop = Stop()
    output_max_bytes: Bytes | None = None
    unsafe_interpolation: Boolean = False


#: A list of steps with at least one entry.
Steps = Annotated[list[Step], Field(min_length=1)]
