"""The channels that exist at the moment, how each is reached, and what is known of its deliveries.

Rules of this file: the file of a repository is read at the applied commit of its default ref, so that no other branch can
redirect notices. What can be reached, and which secrets may be used, is decided again for each delivery.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from waterflow_agent.errors import Rejected, WaterflowError
from waterflowd.access.policy import AccessPolicy, Origin
from waterflowd.admin.ports import NoticeChannelRow, NoticeTest
from waterflowd.notices import mail, repository_file, webhooks
from waterflowd.notices.channels import Channel
from waterflowd.notices.log import NoticeLog
from waterflowd.notices.mail import SmtpSettings
from waterflowd.notices.repository_file import RepositoryChannelLimits
from waterflowd.notices.sender import DeliveryError, Message
from waterflowd.notices.state import Pending
from waterflowd.reconcile import codes

logger = logging.getLogger("waterflow.notices")


@dataclass(frozen=True, kw_only=True)
class NoticeConfig:
    """What the configuration says of channels."""

    channels: Sequence[Channel] = ()
    limits: RepositoryChannelLimits
    #: None without `[smtp]`.
    smtp: SmtpSettings | None = None
    smtp_password_secret: str = ""


@dataclass(frozen=True, kw_only=True)
class Outside:
    """What channels need of the rest of the daemon."""

    #: A secret of the sources on this host, by its name.
    secret: Callable[[str], str | None]
    access: AccessPolicy
    #: The names of the watched repositories.
    repositories: Callable[[], Iterable[str]]
    #: The default ref of a repository and its applied commit; None if nothing is applied.
    applied: Callable[[str], tuple[str, str] | None]
    #: A file of a commit of a repository; None if it does not exist.
    read: Callable[[str, str, str], Awaitable[bytes | None]]
    #: Why an address is never connected to; None if it may be.
    address_refusal: Callable[[str], str | None]


@dataclass(frozen=True, kw_only=True)
class _Read:
    """What the file of a repository says."""

    commit: str
    ref: str
    limits: RepositoryChannelLimits
    channels: Sequence[Channel] = ()
    problem: str = ""


class NoticeChannels:
    """All channels. Implements a part of `admin.ports.NoticeAdmin`, and what the watcher and the sender need."""

    def __init__(self, config: NoticeConfig, outside: Outside) -> None:
        self.config = config
        self._outside = outside
        self._read: dict[str, _Read] = {}

    @property
    def is_active(self) -> bool:
        """Whether there can be a channel."""
        return bool(self.config.channels) or self.config.limits.permits_any

    async def of(self, repository: str | None) -> Sequence[Channel]:
        """The channels of the configuration, and those of the repository."""
        own = await self._of_repository(repository) if repository is not None else None
        return [*self.config.channels, *(own.channels if own is not None else ())]

    async def find(self, name: str) -> Channel | None:
        """The channel with this name; None if there is none at the moment."""
        repository, slash, _ = name.partition("/")
        found = await self.of(repository if slash else None)
        return next((channel for channel in found if channel.name == name), None)

    async def all(self) -> tuple[list[Channel], dict[str, str]]:
        """All channels, and the mistakes in the files of repositories."""
        channels, problems = list(self.config.channels), {}
        for name in list(self._outside.repositories()):
            own = await self._of_repository(name)
            if own is not None:
                channels += own.channels
                if own.problem:
                    problems[name] = own.problem
        return channels, problems

    async def _of_repository(self, name: str) -> _Read | None:
        applied = self._outside.applied(name) if self.config.limits.permits_any else None
        if applied is None:
            return None
        ref, commit = applied
        known, limits = self._read.get(name), self.config.limits
        if known is not None and (known.commit, known.limits) == (commit, limits):
            return known
        try:
            content = await self._outside.read(name, commit, repository_file.PATH)
            channels = repository_file.channels_of(content, name, limits) if content is not None else []
            found = _Read(commit=commit, ref=ref, limits=limits, channels=channels)
        except Rejected as error:
            if error.code != codes.NOTIFY_FILE:
                raise
            logger.warning("repository %s: %s", name, error, extra={"repository": name})
            found = _Read(commit=commit, ref=ref, limits=limits, problem=error.text)
        except WaterflowError as error:
            if known is None:
                raise
            # It cannot be read now; the last version that could be is better than none.
            logger.warning("repository %s: cannot read %s: %s", name, repository_file.PATH, error)
            return known
        self._read[name] = found
        return found

    # Delivery

    async def deliver(self, channel: Channel, message: Message) -> None:
        """Sends the message. Raises `DeliveryError`."""
        if channel.mail_to:
            smtp = self.config.smtp
            if smtp is None:
                raise DeliveryError("mail needs [smtp] in the daemon's configuration", may_retry=False)
            password = self._secret(self.config.smtp_password_secret) if self.config.smtp_password_secret else None
            await mail.deliver(smtp, password, channel.mail_to, message)
            return
        self._check_rights(channel)
        url = channel.url or self._secret(channel.url_secret)
        if channel.owner is not None:
            await self._check_address(url)
        key = self._secret(channel.sign_secret) if channel.sign_secret else None
        await webhooks.deliver(url, channel, message, key)

    def _secret(self, name: str) -> str:
        value = self._outside.secret(name)
        if value is None:
            raise DeliveryError(f"secret {name} has no value in the sources on the daemon's host")
        return value.strip()

    def _check_rights(self, channel: Channel) -> None:
        """The secrets of a repository's channel need a grant, as those of its jobs do."""
        if channel.owner is None:
            return
        applied = self._outside.applied(channel.owner)
        origin = Origin(repository=channel.owner, ref=applied[0] if applied is not None else None)
        for name in filter(None, (channel.url_secret, channel.sign_secret)):
            refusal = self._outside.access.secret_refusal(origin, "", name)
            if refusal is not None:
                raise DeliveryError(refusal.sentence, may_retry=False)

    async def _check_address(self, url: str) -> None:
        """What a repository's channel may connect to: listed hosts, and never a metadata service."""
        problem = self.config.limits.url_problem(url)
        if problem:
            raise DeliveryError(problem, may_retry=False)
        parts = urlsplit(url)
        try:
            found = await asyncio.get_running_loop().getaddrinfo(parts.hostname, parts.port or 443)
        except OSError:
            raise DeliveryError("the name of the webhook's host does not resolve") from None
        for *_, address in found:
            refusal = self._outside.address_refusal(str(address[0]))
            if refusal is not None:
                raise DeliveryError(f"the webhook's host {refusal}", may_retry=False)


class NoticeService:
    """Implements `admin.ports.NoticeAdmin`."""

    def __init__(
        self, channels: NoticeChannels, log: NoticeLog, send_test: Callable[[Channel], Awaitable[str]]
    ) -> None:
        self._channels = channels
        self._log = log
        self._send_test = send_test

    async def rows(self) -> tuple[Sequence[NoticeChannelRow], dict[str, str]]:
        """See the port."""
        channels, problems = await self._channels.all()
        return [self._row(channel) for channel in channels], problems

    def own_rows(self) -> Sequence[NoticeChannelRow]:
        """See the port."""
        return [self._row(channel) for channel in self._channels.config.channels]

    async def test(self, name: str | None) -> Sequence[NoticeTest]:
        """See the port."""
        channels, _ = await self._channels.all()
        chosen = [channel for channel in channels if name in (None, channel.name)]
        if not chosen:
            known = ", ".join(channel.name for channel in channels) or "none"
            text = f"no channel {name}; known: {known}" if name is not None else "no channels; add [[notify]]"
            raise Rejected(codes.NOT_FOUND, text, where="channel", status=404)
        failures = await asyncio.gather(*(self._send_test(channel) for channel in chosen))
        return [NoticeTest(channel=each.name, failure=why) for each, why in zip(chosen, failures, strict=True)]

    def _row(self, channel: Channel) -> NoticeChannelRow:
        pending = self._log.state.channels.get(channel.name) or Pending()
        return NoticeChannelRow(
            name=channel.name,
            way=f"mail to {', '.join(channel.mail_to)}" if channel.mail_to else f"webhook ({channel.format})",
            kinds=channel.kinds,
            repository=channel.owner,
            waiting=len(pending.notices),
            sent_at=pending.sent_at or None,
            failure=pending.problem,
            keeps_failing=pending.keeps_failing,
        )
