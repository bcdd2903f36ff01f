"""Channels: where notices go, and which ones.

Rules of this file: pure. A channel of the configuration has its own name; one of a repository is `REPOSITORY/NAME`, so neither
can have the other's notices.
"""

from __future__ import annotations

import msgspec

from waterflowd.notices.events import Notice
from waterflowd.reconcile import refs
from waterflowd.reconcile.settings import is_match

#: What notices are about, in the order of the documentation.
KINDS = ("failure", "recovery", "approval", "agent", "repository")
#: Kinds that concern one repository, and so may go to its own channels.
OF_REPOSITORIES = ("failure", "recovery", "approval")
FORMATS = ("slack", "mattermost", "teams", "json")
#: Messages that a channel sends per hour unless it says otherwise; beyond that, notices are collected into one message.
PER_HOUR = 30


class Channel(msgspec.Struct, frozen=True, kw_only=True):
    """Where notices go, and which ones. Secrets are only named."""

    name: str
    kinds: tuple[str, ...] = KINDS
    #: Patterns with `*`: of repositories, and of names and paths of workflows.
    repositories: tuple[str, ...] = ("*",)
    workflows: tuple[str, ...] = ("*",)
    #: Patterns of branches, or of tags with the prefix `tags/`; empty: all.
    refs: tuple[str, ...] = ()
    #: A webhook: its format, and its address or the name of the secret that holds it.
    format: str = ""
    url: str = ""
    url_secret: str = ""
    #: Name of the secret that signs the body.
    sign_secret: str = ""
    #: Mail: its recipients.
    mail_to: tuple[str, ...] = ()
    per_hour: int = PER_HOUR
    #: The repository that has the channel; None for one of the configuration.
    owner: str | None = None

    def wants(self, notice: Notice) -> bool:
        """Whether the notice goes to this channel."""
        if notice.kind not in self.kinds:
            return False
        if self.owner is not None and (notice.repository != self.owner or notice.kind not in OF_REPOSITORIES):
            return False
        if notice.repository is not None and not any(is_match(each, notice.repository) for each in self.repositories):
            return False
        if notice.repository is None and notice.workflow and "*" not in self.repositories:
            # A workflow that was sent to the API is in no repository.
            return False
        if notice.workflow and not any(
            is_match(each, name) for each in self.workflows for name in (notice.workflow, notice.path)
        ):
            return False
        return not (self.refs and notice.workflow) or (
            notice.ref is not None and refs.is_selected(notice.ref, self.refs)
        )
