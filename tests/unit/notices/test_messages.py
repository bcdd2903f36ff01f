"""What messages look like in each format, with text that strangers wrote."""

from __future__ import annotations

import json
from typing import Any

import pytest

from waterflowd.notices import content, mail, webhooks
from waterflowd.notices.events import Notice
from waterflowd.notices.sender import Message

HOSTILE = "<!channel> *x* @all [a](http://evil.example)\x1b]0;t\x07"


def notice(number: int = 1, title: str = "ops: Deploy #7 failed", **fields: Any) -> Notice:
    return Notice(
        id=number,
        kind="failure",
        key="k",
        at=1_700_000_000_000,
        title=title,
        text=fields.pop("text", "exit code 1"),
        command="waterflowctl show R",
        link="https://waterflow.example/runs/R",
        **fields,
    )


@pytest.mark.parametrize("format_", ["slack", "mattermost"])
def test_chat_services_get_a_text_with_the_link(format_: str) -> None:
    """The title is bold, and the command is code."""
    body = webhooks.body_of(format_, Message(notices=[notice()]))
    assert list(body) == ["text"]
    assert "ops: Deploy" in body["text"]
    assert "https://waterflow.example/runs/R" in body["text"]
    assert "`waterflowctl show R`" in body["text"]


def test_what_strangers_wrote_mentions_nobody() -> None:
    """Neither mentions nor links nor control characters survive."""
    message = Message(notices=[notice(title=HOSTILE, text=HOSTILE)])
    slack = webhooks.body_of("slack", message)["text"]
    assert "<!channel>" not in slack
    for format_ in ("mattermost", "teams"):
        text = json.dumps(webhooks.body_of(format_, message), ensure_ascii=False)
        assert "@all" not in text
        assert "](http" not in text
    for format_ in ("slack", "mattermost", "teams"):
        assert "\x1b" not in json.dumps(webhooks.body_of(format_, message), ensure_ascii=False)


def test_teams_gets_a_card() -> None:
    """The same as of the node `notify/webhook`."""
    body = webhooks.body_of("teams", Message(notices=[notice()]))
    [block] = body["attachments"][0]["content"]["body"]
    assert "exit code 1" in block["text"]


def test_json_has_the_fields() -> None:
    """Programs need no text."""
    body = webhooks.body_of("json", Message(notices=[notice(7, run="R")], may_be_repeated=True, dropped=2))
    assert body["may_be_repeated"] is True
    assert body["notices_dropped"] == 2
    [found] = body["notices"]
    assert (found["kind"], found["run"], found["id"], found["resolved"]) == ("failure", "R", 7, False)


def test_many_notices_are_one_message() -> None:
    """The newest are shown, the others counted."""
    many = [notice(number, f"t{number}.") for number in range(content.SHOWN_MAX + 5)]
    text = content.plain_text(many, 3, may_be_repeated=True)
    assert "t4." not in text
    assert "t24." in text
    assert "5 earlier notices are not shown" in text
    assert "3 earlier notices were dropped" in text
    assert content.REPEATED in text
    assert content.subject(many) == f"t24. and {len(many) - 1} more"


def test_a_mail_has_no_header_of_a_stranger() -> None:
    """Line breaks and control characters are escaped."""
    hostile = notice(title="x\r\nBcc: y@evil.example", text="a\r\n.\r\nb\x1b[0m")
    made = mail.mail_of("waterflow@example.org", ["a@example.org", "b@example.org"], Message(notices=[hostile]))
    assert made["Bcc"] is None
    assert made["To"] == "a@example.org, b@example.org"
    assert made["Auto-Submitted"] == "auto-generated"
    assert "\x1b" not in made.get_content()
    assert "https://waterflow.example/runs/R" in made.get_content()
