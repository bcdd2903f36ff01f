"""Which notices go to which channel, and what files of repositories may say."""

from __future__ import annotations

from typing import Any

import pytest

from waterflow_agent.errors import Rejected
from waterflowd.notices import repository_file
from waterflowd.notices.channels import Channel
from waterflowd.notices.events import Notice
from waterflowd.notices.repository_file import RepositoryChannelLimits

LIMITS = RepositoryChannelLimits(
    hosts=("hooks.slack.com", "*.example.org", "http://127.0.0.1:8000"), mail_domains=("example.org",)
)


def notice(**fields: Any) -> Notice:
    given = {"kind": "failure", "repository": "ops", "workflow": "Deploy", "path": "workflows/d.yml"}
    return Notice(id=1, key="k", at=1, title="t", text="", **{**given, "ref": "refs/heads/main", **fields})


@pytest.mark.parametrize(
    ("channel", "fields", "expected"),
    [
        ({}, {}, True),
        ({"kinds": ("recovery",)}, {}, False),
        ({"repositories": ("web", "o*")}, {}, True),
        ({"repositories": ("web",)}, {}, False),
        ({"repositories": ("web",)}, {"repository": None}, False),
        ({}, {"repository": None}, True),
        ({"workflows": ("workflows/*",)}, {}, True),
        ({"workflows": ("Dep*",)}, {}, True),
        ({"workflows": ("other",)}, {}, False),
        ({"workflows": ("other",)}, {"kind": "agent", "repository": None, "workflow": "", "path": ""}, True),
        ({"refs": ("main",)}, {}, True),
        ({"refs": ("release/*",)}, {}, False),
        ({"refs": ("main",)}, {"ref": None}, False),
        ({"owner": "ops"}, {}, True),
        ({"owner": "web"}, {}, False),
        ({"owner": "ops"}, {"kind": "repository", "workflow": ""}, False),
    ],
)
def test_a_channel_gets_what_it_asks_for(channel: dict[str, Any], fields: dict[str, Any], expected: bool) -> None:
    """Patterns select; a channel of a repository gets only what concerns its own runs."""
    assert Channel(name="c", **channel).wants(notice(**fields)) is expected


def test_a_file_names_its_channels() -> None:
    """`on` is a text, and a channel has the repository's name in front."""
    content = b"""
channels:
  - name: team
    on: [failure]
    workflows: ["deploy*"]
    refs: [main]
    webhook: {format: slack, secret: TEAM_HOOK}
  - {name: people, mail: [team@example.org]}
  - {name: json, webhook: {format: json, url: "https://ci.example.org/x", sign-secret: KEY}}
"""
    team, people, json = repository_file.channels_of(content, "ops", LIMITS)
    assert (team.name, team.kinds, team.url_secret, team.owner) == ("ops/team", ("failure",), "TEAM_HOOK", "ops")
    assert (people.mail_to, people.kinds) == (("team@example.org",), ("failure", "recovery"))
    assert (json.url, json.sign_secret, json.repositories) == ("https://ci.example.org/x", "KEY", ("ops",))
    assert repository_file.channels_of(b"channels: []", "ops", LIMITS) == []


@pytest.mark.parametrize(
    ("channel", "problem"),
    [
        ("{name: a, webhook: {format: json, url: 'https://169.254.169.254/'}}", "repository-hosts"),
        ("{name: a, webhook: {format: json, url: 'https://localhost:8080/'}}", "repository-hosts"),
        ("{name: a, webhook: {format: json, url: 'http://hooks.slack.com/'}}", "repository-hosts"),
        ("{name: a, webhook: {format: json, url: 'https://hooks.slack.com@evil.example/'}}", "no user"),
        ("{name: a, webhook: {format: json, url: 'https://hooks.slack.com.evil.example/'}}", "repository-hosts"),
        ("{name: a, webhook: {format: json, url: 'https://hooks.slack.com:8443/'}}", "repository-hosts"),
        ("{name: a, webhook: {format: json, url: 'ftp://hooks.slack.com/'}}", "https"),
        ("{name: a, webhook: {format: json, url: 'https://[::1/'}}", "not an address"),
        ("{name: a, webhook: {format: xml, secret: A}}", "format: expected slack"),
        ("{name: a, webhook: {format: json}}", "either url or secret"),
        ("{name: a}", "either webhook or mail"),
        ("{name: a, mail: [x@evil.example]}", "repository-mail-domains"),
        ("{name: a, mail: ['x@example.org, y@evil.example']}", "not a mail address"),
        ('{name: a, mail: ["x\\nBcc: y@example.org"]}', "not a mail address"),
        ("{name: a/b, mail: [x@example.org]}", "use letters"),
        ("{name: a, on: [agent], mail: [x@example.org]}", "expected failure, recovery, approval"),
        ("{name: a, mails: [x@example.org]}", "mails"),
    ],
)
def test_a_file_cannot_name_what_is_not_permitted(channel: str, problem: str) -> None:
    """The whole file is refused, with the channel."""
    with pytest.raises(Rejected, match=problem) as found:
        repository_file.channels_of(f"channels:\n  - {channel}\n".encode(), "ops", LIMITS)
    assert found.value.code == "WF533"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"channels: [", "notify.yml:1: "),
        (b"a: &a [x]\nchannels: *a", "notify.yml:2: aliases"),
        (b"[" * 5_000, "nested too deeply|notify.yml"),
        (b"\xff\xfe", "UTF-8"),
        (b"channels: !!python/object:os.system {}", "notify.yml"),
        (b"x" * (repository_file.BYTES_MAX + 1), "maximum"),
        (b"", "notify.yml"),
        (b"channels: [{name: a, mail: [x@example.org]}, {name: a, mail: [x@example.org]}]", "duplicate name"),
    ],
)
def test_a_hostile_file_is_one_error(content: bytes, problem: str) -> None:
    """Nothing in it costs more than reading it."""
    with pytest.raises(Rejected, match=problem):
        repository_file.channels_of(content, "ops", LIMITS)


def test_hosts_are_matched_whole_and_with_their_port() -> None:
    """Plain http only where it is listed with its port."""
    permitted = ("https://hooks.slack.com/x", "https://a.example.org/", "http://127.0.0.1:8000/x")
    assert [LIMITS.url_problem(url) for url in permitted] == ["", "", ""]
    assert not RepositoryChannelLimits().permits_any
    assert RepositoryChannelLimits().url_problem("https://hooks.slack.com/x")
