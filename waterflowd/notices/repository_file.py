"""`.waterflow/notify.yml`: where a repository wants the notices about its own runs to go.

Theory: everybody who may push to the default branch writes this file, so it can neither choose what the daemon connects to nor
read secrets: hosts and mail domains must be listed in `[notices]` of the daemon's configuration, and secrets need a grant, as
for jobs. A file with a mistake gives no channels at all, so that half of it does not look like all of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated
from urllib.parse import urlsplit

import msgspec
import yaml

from waterflow_agent.display import escape_for_display, quote
from waterflow_agent.errors import Rejected
from waterflow_agent.type_errors import located
from waterflowd.notices.channels import FORMATS, OF_REPOSITORIES, Channel
from waterflowd.reconcile import codes
from waterflowd.reconcile.settings import NAME, is_match

PATH = ".waterflow/notify.yml"
BYTES_MAX = 64 << 10
CHANNELS_MAX = 10
_DEPTH_MAX = 10
_MAIL = re.compile(r"[^\s@,<>\"]{1,64}@([A-Za-z0-9.-]{1,250})")

_Texts = Annotated[tuple[Annotated[str, msgspec.Meta(min_length=1, max_length=200)], ...], msgspec.Meta(max_length=50)]


class _Record(msgspec.Struct, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """A mapping of the file."""


class _Webhook(_Record, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    format: str
    url: str = ""
    secret: str = ""
    sign_secret: str = ""


class _Channel(_Record, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    name: str
    on: _Texts = ("failure", "recovery")
    workflows: _Texts = ("*",)
    refs: _Texts = ()
    webhook: _Webhook | None = None
    mail: _Texts = ()


class _File(_Record, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    channels: Annotated[list[_Channel], msgspec.Meta(max_length=CHANNELS_MAX)]


class RepositoryChannelLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What the daemon's configuration permits the files of repositories."""

    #: Hosts of webhooks: `HOST`, `*.HOST` or `HOST:PORT`, for https; `http://HOST:PORT` for http.
    hosts: tuple[str, ...] = ()
    mail_domains: tuple[str, ...] = ()

    @property
    def permits_any(self) -> bool:
        """Whether files of repositories are read at all."""
        return bool(self.hosts or self.mail_domains)

    def url_problem(self, url: str) -> str:
        """Why the daemon does not send to this address; empty if it does. Does not contain more of it than the host."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            return "it is not an address"
        host = parts.hostname or ""
        if parts.scheme not in ("https", "http") or not host or parts.username is not None:
            return "it must begin with https:// and have no user"
        written = f"{host}:{port}" if port is not None else host
        allowed = [each.lower() for each in self.hosts]
        if parts.scheme == "http":
            is_allowed = f"http://{written}" in allowed
        else:
            is_allowed = any(is_match(each, written) for each in allowed if not each.startswith("http://"))
        if is_allowed:
            return ""
        return (
            f"{escape_for_display(written, 100)} is not in repository-hosts in [notices] of the daemon's configuration"
        )


def channels_of(content: bytes, repository: str, limits: RepositoryChannelLimits) -> list[Channel]:
    """The channels in the file. Raises `Rejected` WF533 with the place of the first mistake."""
    try:
        found = msgspec.convert(_loaded(content), _File)
    except msgspec.ValidationError as error:
        raise _wrong(located(error)) from None
    channels = [_channel(item, repository, limits) for item in found.channels]
    names = [channel.name for channel in channels]
    for name in names:
        if names.count(name) > 1:
            raise _wrong(f"channels: duplicate name {quote(name.partition('/')[2])}")
    return channels


def _channel(item: _Channel, repository: str, limits: RepositoryChannelLimits) -> Channel:
    where = f"channel {quote(item.name[:64])}"
    for problem in _problems(item, limits):
        raise _wrong(f"{where}: {problem}")
    webhook = item.webhook or _Webhook(format="")
    return Channel(
        name=f"{repository}/{item.name}",
        kinds=item.on,
        repositories=(repository,),
        workflows=item.workflows,
        refs=item.refs,
        format=webhook.format,
        url=webhook.url,
        url_secret=webhook.secret,
        sign_secret=webhook.sign_secret,
        mail_to=item.mail,
        owner=repository,
    )


def _problems(item: _Channel, limits: RepositoryChannelLimits) -> Iterator[str]:
    if not NAME.fullmatch(item.name):
        yield 'use letters, digits, ".", "_" and "-" in the name'
    for kind in item.on:
        if kind not in OF_REPOSITORIES:
            yield f"on: expected {', '.join(OF_REPOSITORIES)}, found {quote(kind)}"
    if (item.webhook is None) == (not item.mail):
        yield "expected either webhook or mail"
    if item.webhook is not None:
        if item.webhook.format not in FORMATS:
            yield f"format: expected {', '.join(FORMATS)}, found {quote(item.webhook.format[:40])}"
        if bool(item.webhook.url) == bool(item.webhook.secret):
            yield "webhook: expected either url or secret"
        if item.webhook.url and (problem := limits.url_problem(item.webhook.url)):
            yield f"url: {problem}"
    for address in item.mail:
        found = _MAIL.fullmatch(address)
        if found is None:
            yield f"mail: {quote(address[:100])} is not a mail address"
        elif found[1].lower() not in [domain.lower() for domain in limits.mail_domains]:
            yield f"mail: {found[1]} is not in repository-mail-domains in [notices] of the daemon's configuration"


def _loaded(content: bytes) -> object:
    """The content of the file as plain values, with limits: aliases and deep nesting can take any amount of memory."""
    if len(content) > BYTES_MAX:
        raise _wrong(f"it has {len(content):,} bytes; the maximum is {BYTES_MAX:,}")
    try:
        text = content.decode("utf-8")
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent) or depth > _DEPTH_MAX:
                problem = "aliases are not possible here" if depth <= _DEPTH_MAX else "nested too deeply"
                raise _wrong(problem, event.start_mark.line + 1 if event.start_mark is not None else None)
        loaded: object = yaml.load(text, Loader=_Loader)
        return loaded
    except UnicodeDecodeError:
        raise _wrong("it is not UTF-8 text") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark is not None else 1
        raise _wrong(error.problem or "not valid YAML", line) from None
    except (yaml.YAMLError, ValueError) as error:
        raise _wrong(f"not valid YAML: {type(error).__name__}") from None


class _Loader(yaml.SafeLoader):
    """Reads `on` as a text, and not as the truth value that YAML 1.1 makes of it."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _wrong(problem: str, line: int | None = None) -> Rejected:
    place = f"{PATH}:{line}" if line is not None else PATH
    return Rejected(codes.NOTIFY_FILE, f"{place}: {escape_for_display(problem)}", where=PATH)
