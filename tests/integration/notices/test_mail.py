"""Mail over TLS, to a real mail server whose certificate an authority of one's own has issued."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.acceptance.operations.notice_servers import mail_server
from tests.integration.temporal.doors import Authority
from waterflowd.notices import mail
from waterflowd.notices.events import Notice
from waterflowd.notices.sender import DeliveryError, Message

RECIPIENTS = ["ada@example.org"]
NOTICE = Notice(id=1, kind="failure", key="k", at=1_764_000_000_000, title="ops: deploy #7 failed", text="exit code 3")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "mail-authority")


def settings(port: int, security: str, ca_file: Path | None, timeout_s: float = 30.0) -> mail.SmtpSettings:
    return mail.SmtpSettings(
        host="127.0.0.1",
        port=port,
        security=security,
        user="waterflow",
        sender="waterflow@example.org",
        ca_file=str(ca_file or ""),
        timeout_s=timeout_s,
    )


def deliver(smtp: mail.SmtpSettings, password: str = "right") -> None:
    asyncio.run(mail.deliver(smtp, password, RECIPIENTS, Message(notices=[NOTICE])))


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_mail_is_sent_over_tls_with_a_password(authority: Authority, security: str) -> None:
    """The certificate is checked against `ca-file`, and only then the server gets the password and the mail."""
    with mail_server(security, authority.context()) as (mailbox, port):
        deliver(settings(port, security, authority.ca))

        [sent] = mailbox.mails
        assert sent["Subject"] == "[Waterflow] ops: deploy #7 failed"
        assert mailbox.recipients == [RECIPIENTS]
        assert mailbox.passwords == ["right"]


@pytest.mark.parametrize("security", ["starttls", "tls"])
@pytest.mark.parametrize("is_known", [False, True], ids=["unknown authority", "other name"])
def test_a_server_that_cannot_prove_its_name_gets_no_password(
    authority: Authority, security: str, is_known: bool
) -> None:
    """Neither one whose authority is unknown, nor one with a certificate for another name. It is tried again later."""
    context = authority.context(alternative="DNS:elsewhere.example" if is_known else "IP:127.0.0.1")
    with mail_server(security, context) as (mailbox, port), pytest.raises(DeliveryError) as caught:
        deliver(settings(port, security, authority.ca if is_known else None))

    assert "its certificate is not trusted" in caught.value.text
    assert (caught.value.may_retry, caught.value.is_uncertain) == (True, False)
    assert (mailbox.passwords, mailbox.mails) == ([], [])


def test_a_server_without_tls_gets_no_password(authority: Authority) -> None:
    """With `starttls`, mail is never sent in the clear, even if the server offers nothing else."""
    with mail_server() as (mailbox, port), pytest.raises(DeliveryError) as caught:
        deliver(settings(port, "starttls", authority.ca))

    assert "lacks what is configured" in caught.value.text
    assert not caught.value.may_retry
    assert (mailbox.passwords, mailbox.mails) == ([], [])


@pytest.mark.parametrize(
    ("configured", "actual", "said"),
    [("tls", "none", "TLS failed"), ("starttls", "tls", "it does not answer")],
)
def test_a_port_of_the_other_kind_is_recognised(authority: Authority, configured: str, actual: str, said: str) -> None:
    """Port 465 with `starttls`, or port 587 with `tls`; the sentence says what to check."""
    with mail_server(actual, authority.context()) as (mailbox, port), pytest.raises(DeliveryError) as caught:
        deliver(settings(port, configured, authority.ca, 0.5 if actual == "tls" else 30.0))

    assert said in caught.value.text
    assert "check smtp.port and smtp.security" in caught.value.text
    assert (mailbox.passwords, mailbox.mails) == ([], [])


def test_a_wrong_password_is_reported_and_not_tried_again(authority: Authority) -> None:
    """Repeating it would lock the account."""
    with mail_server("tls", authority.context()) as (mailbox, port), pytest.raises(DeliveryError) as caught:
        deliver(settings(port, "tls", authority.ca), "wrong")

    assert "535" in caught.value.text
    assert not caught.value.may_retry
    assert set(mailbox.passwords) == {"wrong"}
    assert mailbox.mails == []
