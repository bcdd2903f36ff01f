"""Nodes that send HTTP requests."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from waterflow_agent.nodes.schema.records import DURATION, VERIFY, Duration, NonEmpty, Parameters, Statuses, about

_TIMEOUT = about(f"The timeout: {DURATION}.", "timeout: 10s")
_EXPECT_STATUS = about("The expected status, or several; `2xx` means all of them.", "expect-status: [200, 404]")


class HttpRequest(Parameters, frozen=True, kw_only=True):
    """Sends one HTTP request; fails if the status is not an expected one.

    On an unexpected status the step's log shows the first kilobyte of the body. Redirects are not followed. The query and a
    password in the address are never logged.
    """

    url: Annotated[NonEmpty, about("The address.", "url: https://example.org/api")]
    method: Annotated[str, about("The method.", "method: POST")] = "GET"
    headers: Annotated[dict[str, str], about("Headers.", "headers: {Accept: application/json}")] = {}
    query: Annotated[dict[str, str], about("Query parameters to add to the address.", "query: {q: '1'}")] = {}
    body: Annotated[
        str | None,
        about("A text as the body. Only one of `body`, `json` and `form` is allowed.", "method: POST\nbody: hello"),
    ] = None
    json: Annotated[Any, about("Any value, sent as JSON.", "method: POST\njson: {name: x}")] = None
    form: Annotated[dict[str, str] | None, about("The fields of a form.", "method: POST\nform: {name: x}")] = None
    timeout: Annotated[Duration, _TIMEOUT] = "30s"
    verify: Annotated[bool | str, VERIFY] = True
    expect_status: Annotated[Statuses, _EXPECT_STATUS] = "2xx"
    retry_status: Annotated[
        Statuses,
        about(
            "Statuses for which a retry can help: the step then fails with exit code 75. A short `Retry-After` is waited for"
            " once.",
            "retry-status: 5xx",
        ),
    ] = "408, 429, 5xx"
    max_bytes: Annotated[
        int, msgspec.Meta(ge=1, le=1 << 34), about("The maximum size of the body.", "max-bytes: 4096")
    ] = 1 << 20
    save_to: Annotated[
        str | None, about("The file to save the body of an expected response to.", "save-to: out.bin")
    ] = None


class HttpWait(Parameters, frozen=True, kw_only=True):
    """Polls an address until it responds with an expected status.

    For example a health check after a deployment.
    """

    url: Annotated[NonEmpty, about("The address.", "url: http://localhost:8080/health")]
    expect_status: Annotated[Statuses, _EXPECT_STATUS] = "2xx"
    timeout: Annotated[
        Duration, about(f"The timeout: {DURATION}. The step then fails with exit code 75.", "timeout: 5m")
    ] = "2m"
    interval: Annotated[Duration, about(f"The time between two attempts: {DURATION}.", "interval: 500ms")] = "1s"
    verify: Annotated[bool | str, VERIFY] = True


class NotifyWebhook(Parameters, frozen=True, kw_only=True):
    """Posts a message to a webhook of Slack, Teams or Discord (`template`), or any `json` to any webhook.

    The address is never logged, since it works like a secret.
    """

    url: Annotated[NonEmpty, about("The address of the webhook.", "url: '${{ secrets.HOOK }}'\nmessage: done")]
    message: Annotated[str, about("The message.", 'message: "run ${{ run.number }} is done"')] = ""
    template: Annotated[
        Literal["slack", "teams", "discord"] | None,
        about("The format that the service expects.", "message: done\ntemplate: slack"),
    ] = None
    json: Annotated[Any, about("Any value, sent instead of a message.", "json: {text: done}")] = None
    secret: Annotated[
        str | None,
        about(
            "The key that signs the body: HMAC-SHA256 in the header `X-Hub-Signature-256`.",
            "message: done\nsecret: '${{ secrets.SIGN }}'",
        ),
    ] = None
    timeout: Annotated[Duration, about(f"The timeout: {DURATION}.", "message: done\ntimeout: 10s")] = "30s"
