"""Delivers notices to webhooks: Slack, Mattermost, Teams, and JSON for everything else.

Rules of this file: what strangers wrote (names of branches and workflows, reasons) is escaped, so that it neither mentions
anybody nor looks like a link. The address is a secret and is in no message. Redirects are not followed: they could lead
elsewhere.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable
from typing import Any

import httpx
import msgspec

from waterflow_agent.display import escape_for_display
from waterflow_agent.nodes import webhook_formats
from waterflowd.notices import content
from waterflowd.notices.channels import Channel
from waterflowd.notices.events import Notice
from waterflowd.notices.sender import DeliveryError, Message

TIMEOUT_S = 15.0
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>()#+!|~])")
_TEXT_LENGTH_MAX = 2_000


def _slack(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _markdown(text: str) -> str:
    # A character without width keeps `@all` from being a mention.
    return _MARKDOWN.sub(r"\\\1", text).replace("@", "@\u200b")


#: How text is escaped, by format.
_ESCAPES: dict[str, Callable[[str], str]] = {"slack": _slack, "mattermost": _markdown, "teams": _markdown}


async def deliver(url: str, channel: Channel, message: Message, signing_key: str | None) -> None:
    """Posts the message. Raises `DeliveryError`."""
    body = msgspec.json.encode(body_of(channel.format, message))
    headers = {"content-type": "application/json"}
    if signing_key is not None:
        digest = hmac.new(signing_key.encode(), body, hashlib.sha256).hexdigest()
        headers["x-hub-signature-256"] = f"sha256={digest}"
    try:
        async with (
            httpx.AsyncClient(timeout=TIMEOUT_S, follow_redirects=False) as client,
            client.stream("POST", url, content=body, headers=headers) as response,
        ):
            status = response.status_code
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise DeliveryError("the address of the webhook is invalid", may_retry=False) from error
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
        raise DeliveryError(f"cannot reach the webhook: {type(error).__name__}") from error
    except httpx.HTTPError as error:
        # The request may have arrived.
        text = f"no answer from the webhook: {type(error).__name__}"
        raise DeliveryError(text, is_uncertain=True) from error
    if not 200 <= status < 300:
        may_retry = status in (408, 425, 429) or status >= 500
        redirect = "; redirects are not followed" if 300 <= status < 400 else ""
        raise DeliveryError(f"the webhook answered with status {status}{redirect}", may_retry=may_retry)


def body_of(format_: str, message: Message) -> Any:
    """The body of the request."""
    if format_ == "json":
        return _json(message)
    escape = _ESCAPES[format_]
    bold = (lambda text: f"*{text}*") if format_ == "slack" else (lambda text: f"**{text}**")
    blocks = ["\n".join(_lines(notice, escape, bold)) for notice in message.notices[-content.SHOWN_MAX :]]
    notes = content.notes(message.notices, message.dropped, may_be_repeated=message.may_be_repeated)
    text = "\n\n".join([*blocks, *notes])
    return webhook_formats.body_of(format_, text)


def _lines(notice: Notice, escape: Callable[[str], str], bold: Callable[[str], str]) -> list[str]:
    title, *text = (escape(_safe(line)) for line in (notice.title, *notice.text.splitlines()))
    return [bold(title), *text, *filter(None, [notice.link, f"`{notice.command}`" if notice.command else ""])]


def _safe(line: str) -> str:
    return escape_for_display(line, _TEXT_LENGTH_MAX)


def _json(message: Message) -> dict[str, Any]:
    return {
        "notices": [_fields(notice) for notice in message.notices[-content.SHOWN_MAX :]],
        "notices_left_out": max(0, len(message.notices) - content.SHOWN_MAX),
        "notices_dropped": message.dropped,
        "may_be_repeated": message.may_be_repeated,
    }


def _fields(notice: Notice) -> dict[str, Any]:
    found: dict[str, Any] = {name: getattr(notice, name) for name in Notice.__struct_fields__}
    del found["is_resolved"]
    return found | {"resolved": notice.is_resolved and notice.kind != "approval"}
