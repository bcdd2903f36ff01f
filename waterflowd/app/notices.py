"""Composes what tells people of problems."""

from __future__ import annotations

import contextlib
from typing import Any

from waterflow_agent.errors import WaterflowError
from waterflowd import ports
from waterflowd.access.policy import AccessPolicy
from waterflowd.admin.ports import AgentAdmin, RepositoryAdmin, RevisionReader
from waterflowd.app.config import Config
from waterflowd.gitsource.remote import address_policy
from waterflowd.model import durations
from waterflowd.notices.channels import Channel
from waterflowd.notices.log import NoticeLog
from waterflowd.notices.mail import SmtpSettings
from waterflowd.notices.repository_file import RepositoryChannelLimits
from waterflowd.notices.sender import NoticeSender
from waterflowd.notices.service import NoticeChannels, NoticeConfig, NoticeService, Outside
from waterflowd.notices.watcher import NoticeSettings, NoticeWatcher, Sources
from waterflowd.reconcile.loop import Reconciler
from waterflowd.secrets.local_sources import LocalSources


class Notices:
    """Channels, the watcher that records notices, and the sender."""

    def __init__(
        self,
        config: Config,
        sources: Sources,
        runs: ports.Runs,
        clock: ports.Clock,
        outside: Outside,
        reconciler: Reconciler,
    ) -> None:
        self._reconciler = reconciler
        self._channels = NoticeChannels(_channel_config(config), outside)
        self._log = NoticeLog(runs, sources.history, clock)
        self._watcher = NoticeWatcher(self._log, sources, self._channels.of, _settings(config))
        self._watcher.is_active = self._channels.is_active
        self._sender = NoticeSender(
            self._log, self._channels.find, self._channels.deliver, durations.parse(config.notices.give_up_after)
        )
        self.service = NoticeService(self._channels, self._log, self._sender.test)

    async def watch(self) -> None:
        """Records notices until it is cancelled."""
        await self._log.opened.wait()
        await self._watcher.run()

    async def send(self) -> None:
        """Sends them until it is cancelled."""
        await self._prepare()
        await self._log.open()
        await self._sender.run()

    async def _prepare(self) -> None:
        """Makes known what the log says of repositories: without it, their channels would not seem to exist."""
        for loop in list(self._reconciler.loops.values()):
            with contextlib.suppress(WaterflowError):
                # The loop of the repository shows what prevents it.
                await loop.repository.fold()

    @property
    def tasks(self) -> dict[str, Any]:
        """The background work, by name."""
        found: dict[str, Any] = {"notices": self.watch, "deliveries of notices": self.send}
        return found

    async def configure(self, config: Config) -> None:
        """Takes over another configuration."""
        self._channels.config = _channel_config(config)
        self._watcher.settings = _settings(config)
        self._watcher.is_active = self._channels.is_active
        self._sender.give_up_after_ms = durations.parse(config.notices.give_up_after)


def outside(secrets: LocalSources, access: AccessPolicy, reconciler: Reconciler, revisions: RevisionReader) -> Outside:
    """What channels need of the rest of the daemon."""

    def applied(name: str) -> tuple[str, str] | None:
        loop = reconciler.loops.get(name)
        ref = loop.repository.default_ref() if loop is not None else None
        return (ref.ref, ref.commit) if ref is not None else None

    return Outside(
        secret=secrets.get,
        access=access,
        repositories=lambda: list(reconciler.loops),
        applied=applied,
        read=revisions.file,
        address_refusal=address_policy.refusal,
    )


def sources(feed: ports.Feed, history: ports.History, agents: AgentAdmin, repositories: RepositoryAdmin) -> Sources:
    """Where it is seen what has happened."""
    return Sources(feed=feed, history=history, agents=agents, repositories=repositories)


def _settings(config: Config) -> NoticeSettings:
    table = config.notices
    return NoticeSettings(
        agent_gone_after_ms=durations.parse(table.agent_gone_after),
        repository_broken_after_ms=durations.parse(table.repository_broken_after),
        remind_after_ms=durations.parse(table.remind_after),
        base_url=config.api.url,
    )


def _channel_config(config: Config) -> NoticeConfig:
    smtp = config.smtp
    return NoticeConfig(
        channels=[
            Channel(
                name=item.name,
                kinds=item.on,
                repositories=item.repositories,
                workflows=item.workflows,
                refs=item.refs,
                format="" if item.mail_to else item.format,
                url=item.url,
                url_secret="" if item.mail_to or item.url else item.url_secret or _default_secret(item.name),
                sign_secret=item.sign_secret,
                mail_to=item.mail_to,
                per_hour=item.per_hour,
            )
            for item in config.notify
        ],
        limits=RepositoryChannelLimits(
            hosts=config.notices.repository_hosts, mail_domains=config.notices.repository_mail_domains
        ),
        smtp=SmtpSettings(
            host=smtp.host,
            port=smtp.port,
            security=smtp.security,
            user=smtp.user,
            sender=smtp.sender,
            ca_file=smtp.ca_file,
        )
        if smtp.host
        else None,
        smtp_password_secret=smtp.password_secret,
    )


def _default_secret(channel: str) -> str:
    return f"NOTIFY_{channel}".replace(".", "_")
