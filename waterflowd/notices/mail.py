"""Delivers notices as mail, by SMTP.

Rules of this file: plain text. Control characters are escaped, so no name can add a header or a line. Without TLS a password is
never sent. A server that refuses a recipient for good (5xx) is not asked again.
"""

from __future__ import annotations

import asyncio
import contextlib
import smtplib
import socket
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid

import msgspec

from waterflow_agent.display import escape_for_display
from waterflowd.notices import content
from waterflowd.notices.sender import DeliveryError, Message

SECURITIES = ("starttls", "tls", "none")
_SUBJECT_LENGTH_MAX = 200
_LINE_LENGTH_MAX = 900


class SmtpSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How mail is sent. Holds no secret."""

    host: str
    port: int = 587
    security: str = "starttls"
    user: str = ""
    sender: str = ""
    ca_file: str = ""
    timeout_s: float = 30.0


async def deliver(settings: SmtpSettings, password: str | None, recipients: Sequence[str], message: Message) -> None:
    """Sends the message to all recipients. Raises `DeliveryError`."""
    mail = mail_of(settings.sender, recipients, message)
    await asyncio.to_thread(_send, settings, password, mail)


def mail_of(sender: str, recipients: Sequence[str], message: Message) -> EmailMessage:
    """The mail."""
    mail = EmailMessage()
    mail["From"] = sender
    mail["To"] = ", ".join(recipients)
    mail["Subject"] = escape_for_display(f"[Waterflow] {content.subject(message.notices)}", _SUBJECT_LENGTH_MAX)
    mail["Date"] = format_datetime(datetime.fromtimestamp(message.notices[-1].at / 1_000, UTC))
    mail["Message-ID"] = make_msgid(domain=sender.rpartition("@")[2] or None)
    mail["Auto-Submitted"] = "auto-generated"
    text = content.plain_text(message.notices, message.dropped, may_be_repeated=message.may_be_repeated)
    mail.set_content("\n".join(escape_for_display(line, _LINE_LENGTH_MAX) for line in text.splitlines()))
    return mail


def _send(settings: SmtpSettings, password: str | None, mail: EmailMessage) -> None:
    is_sending = False
    try:
        server = _connected(settings)
        try:
            if settings.user:
                server.login(settings.user, password or "")
            is_sending = True
            refused = server.send_message(mail)
        finally:
            # The server has the mail, or has not, whatever it says to this.
            with contextlib.suppress(smtplib.SMTPException, OSError):
                server.quit()
    except smtplib.SMTPRecipientsRefused as error:
        codes = {code for code, _ in error.recipients.values()}
        raise DeliveryError(f"all recipients were refused: {_codes(codes)}", may_retry=min(codes) < 500) from error
    except smtplib.SMTPResponseException as error:
        text = f"the mail server answered with {error.smtp_code}"
        raise DeliveryError(text, may_retry=error.smtp_code < 500) from error
    except smtplib.SMTPNotSupportedError as error:
        raise DeliveryError(f"the mail server lacks what is configured: {error}", may_retry=False) from error
    except (smtplib.SMTPException, OSError) as error:
        text = f"no connection to the mail server: {_reason(error)}"
        raise DeliveryError(text, is_uncertain=is_sending) from error
    if refused:
        # The others have got it, so it is not sent again.
        text = f"{len(refused)} of {len(mail['To'].addresses)} recipients were refused"
        raise DeliveryError(text, may_retry=False)


def _connected(settings: SmtpSettings) -> smtplib.SMTP:
    context = ssl.create_default_context(cafile=settings.ca_file or None)
    if settings.security == "tls":
        return smtplib.SMTP_SSL(settings.host, settings.port, timeout=settings.timeout_s, context=context)
    server = smtplib.SMTP(settings.host, settings.port, timeout=settings.timeout_s)
    try:
        if settings.security == "starttls":
            server.starttls(context=context)
    except BaseException:
        server.close()
        raise
    return server


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message})"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({error.reason}); check smtp.port and smtp.security"
    if isinstance(error, (TimeoutError, smtplib.SMTPServerDisconnected)):
        return "it does not answer, or closes the connection; check smtp.port and smtp.security"
    if isinstance(error, socket.gaierror):
        return "its name does not resolve"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__


def _codes(codes: set[int]) -> str:
    return ", ".join(map(str, sorted(codes)))
