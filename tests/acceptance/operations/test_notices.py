"""Notices about failures, approvals, servers and repositories reach a real web server and a real mail server."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.cluster import Cluster
from tests.acceptance.operations.notice_servers import Hook, mail_server, webhook
from tests.patience import wait_until

WORKFLOW = "on: {push: {}, workflow_dispatch: {}}\njobs: {j: {runs-on: web, steps: [{run: COMMAND}]}}\n"
FAILS, WORKS = WORKFLOW.replace("COMMAND", "exit 3"), WORKFLOW.replace("COMMAND", "echo ok")
APPROVAL = "on: workflow_dispatch\njobs: {j: {runs-on: web, steps: [{uses: approval}]}}\n"
URL = "https://waterflow.example"

pytestmark = pytest.mark.log_engine("notices need the log engine")


class Watched:
    """A cluster with a repository, an agent, and channels."""

    def __init__(self, cluster: Cluster, hook: Hook) -> None:
        self.cluster = cluster
        self.hook = hook
        self.clone = cluster.make_repository()
        self.secrets = cluster.folder / "secrets.toml"
        self.write_secrets(HOOK=hook.url, SIGN="key")

    def write_secrets(self, **values: str) -> None:
        self.secrets.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items()))
        self.secrets.chmod(0o600)

    def configure(self, *tables: str) -> None:
        """Writes the configuration with these tables."""
        lines = [f'[[repositories]]\nname = "ops"\nurl = "{self.cluster.repository}"', *tables]
        lines.append(f'[secrets]\nfile = "{self.secrets}"')
        self.cluster.write_config("\n".join(lines))
        text = self.cluster.config.read_text()
        self.cluster.config.write_text(text.replace("[api]", f'[api]\nurl = "{URL}"'))

    def start(self, *tables: str) -> None:
        self.configure(*tables)
        self.cluster.start_daemon()
        self.cluster.add_agent("a", "web")

    def push(self, content: str, path: str = "workflows/w.yml") -> None:
        """Pushes a workflow, and waits for the end of what that starts."""
        before = len(self.runs())
        self.cluster.push(self.clone, {path: content})
        wait_until(
            lambda: len(rows := self.runs()) > before and all(row["status"] == "completed" for row in rows),
            "the run to end",
        )

    def runs(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.cluster.api("GET", "/v1/runs?limit=100").json()["runs"]
        return found

    def told(self, *titles: str) -> list[dict[str, Any]]:
        """The notices, once there are these, in this order."""
        wait_until(lambda: len(self.hook.titles()) >= len(titles), f"{titles}, not {self.hook.titles()}")
        assert self.hook.titles() == list(titles)
        return self.hook.notices

    def channels(self) -> dict[str, dict[str, Any]]:
        answer = self.cluster.api("GET", "/v1/notify").json()
        return {row["name"]: row for row in answer["channels"]}


def hook_table(more: str = "") -> str:
    return f'[[notify]]\nname = "hook"\nformat = "json"\nurl-secret = "HOOK"\nsign-secret = "SIGN"\n{more}\n'


@pytest.fixture
def watched(empty_cluster: Cluster) -> Iterator[Watched]:
    with webhook() as hook:
        yield Watched(empty_cluster, hook)


def test_a_failure_is_told_once_and_then_the_recovery(watched: Watched) -> None:
    """By webhook, signed, and by mail; each with a link. A restart tells nothing again."""
    with mail_server() as (mailbox, port):
        watched.start(
            hook_table(),
            '[[notify]]\nname = "people"\non = ["failure"]\nmail-to = ["ada@example.org", "bob@example.org"]',
            f'[smtp]\nhost = "127.0.0.1"\nport = {port}\nsecurity = "none"\nsender = "waterflow@example.org"',
        )
        watched.cluster.push(watched.clone, {"README": "history"})
        watched.cluster.ctl("sync", "ops", "--wait")
        watched.push(FAILS)
        [failure] = watched.told("ops: w #1 failed")
        run = watched.runs()[0]
        assert failure["link"] == f"{URL}/runs/{run['id']}"
        assert "exit code 3" in failure["text"]
        assert (failure["kind"], failure["conclusion"], failure["number"]) == ("failure", "failure", 1)
        body = json.dumps(watched.hook.bodies[0], separators=(",", ":"), ensure_ascii=False).encode()
        digest = hmac.new(b"key", body, hashlib.sha256).hexdigest()
        assert watched.hook.headers[0]["x-hub-signature-256"] == f"sha256={digest}"

        [mail] = wait_until(lambda: mailbox.mails, "the mail")
        assert mail["Subject"] == "[Waterflow] ops: w #1 failed"
        assert failure["link"] in mail.get_content()
        assert mailbox.recipients == [["ada@example.org", "bob@example.org"]]

        watched.push(FAILS + "# again\n")
        watched.cluster.stop_daemon()
        watched.cluster.start_daemon()
        watched.push(WORKS)
        watched.told("ops: w #1 failed", "ops: w #3 succeeded again")
        assert watched.hook.notices[1]["resolved"]
        watched.push(WORKS + "# again\n")
        watched.push(FAILS)
        watched.told("ops: w #1 failed", "ops: w #3 succeeded again", "ops: w #5 failed")
        wait_until(lambda: len(mailbox.mails) == 2, "the second mail")
        # A message is received before its delivery is recorded.
        wait_until(
            lambda: not any(row["waiting"] for row in watched.channels().values()), "all deliveries to be recorded"
        )
        assert not any(row["failure"] for row in watched.channels().values())
    assert watched.hook.url not in watched.cluster.log.read_text()


def test_a_daemon_that_is_killed_while_it_sends_says_that_it_may_have_sent_twice(watched: Watched) -> None:
    """What was waiting for a channel that was down is sent once, without that remark."""
    watched.start(hook_table())
    watched.push(WORKS)
    watched.hook.answers.clear()
    watched.push(FAILS)
    wait_until(lambda: watched.hook.bodies, "the request that is not answered")
    watched.cluster.kill_daemon()
    watched.hook.answers.set()
    watched.cluster.start_daemon()
    watched.told("ops: w #2 failed", "ops: w #2 failed")
    assert [body["may_be_repeated"] for body in watched.hook.bodies] == [False, True]

    watched.hook.status = 503
    watched.push(WORKS)
    wait_until(lambda: watched.channels()["hook"]["failure"], "the failure of the channel")
    assert watched.channels()["hook"]["failure"] == "the webhook answered with status 503"
    watched.cluster.kill_daemon()
    watched.hook.status = 200
    refused = len(watched.hook.bodies)
    watched.cluster.start_daemon()
    wait_until(lambda: len(watched.hook.bodies) > refused, "the recovery")
    assert watched.hook.bodies[-1]["may_be_repeated"] is False
    wait_until(lambda: not watched.channels()["hook"]["waiting"], "the delivery to be recorded")


def test_approvals_servers_and_repositories_are_reported(watched: Watched) -> None:
    """With the command or the reason; and their ends."""
    watched.start(hook_table(), '[notices]\nagent-gone-after = "100ms"\nrepository-broken-after = "100ms"')
    watched.cluster.push(watched.clone, {"workflows/ask.yml": APPROVAL})
    watched.cluster.ctl("sync", "ops", "--wait")
    started = watched.cluster.api("POST", "/v1/definitions/workflows%2Fask.yml/run", json={})
    assert started.status_code == 201, started.text
    [approval] = watched.told("ops: ask #1 waits for approval")
    assert approval["command"] == f"waterflowctl approve {started.json()['id']}"

    watched.cluster.push(watched.clone, {"workflows/bad.yml": "jobs: ["})
    watched.told("ops: ask #1 waits for approval", "Repository ops has a problem")
    assert "bad.yml" in watched.hook.notices[1]["text"]
    watched.cluster.push(watched.clone, {"workflows/bad.yml": WORKS})
    titles = ["ops: ask #1 waits for approval", "Repository ops has a problem", "Repository ops is ready again"]
    watched.told(*titles)

    watched.cluster.stop_agent("a")
    watched.told(*titles, "Agent a is gone")
    watched.cluster.start_agent("a")
    watched.told(*titles, "Agent a is gone", "Agent a is back")


def test_a_repository_has_its_own_channels_within_the_limits(watched: Watched) -> None:
    """Nothing is sent to a host that is not listed, or with a secret without a grant; the list says why."""
    limits = f'[notices]\nrepository-hosts = ["http://127.0.0.1:{watched.hook.port}"]'
    watched.start(limits)
    file = ".waterflow/notify.yml"
    channel = "channels:\n  - name: team\n    on: [failure]\n    webhook: {format: json, secret: HOOK}\n"
    watched.cluster.push(watched.clone, {file: channel})
    watched.cluster.ctl("sync", "ops", "--wait")
    watched.push(FAILS)
    watched.told("ops: w #1 failed")
    assert watched.channels()["ops/team"]["repository"] == "ops"

    with webhook() as other:
        watched.cluster.push(watched.clone, {file: channel.replace("secret: HOOK", f"url: '{other.url}'")})
        watched.cluster.ctl("sync", "ops", "--wait")
        said = wait_until(lambda: watched.cluster.ctl("notify").stdout, "the list")
        assert f"127.0.0.1:{other.port} is not in repository-hosts" in " ".join(said.split())
        watched.write_secrets(HOOK=other.url, SIGN="key")
        watched.cluster.push(watched.clone, {file: channel})
        watched.cluster.ctl("sync", "ops", "--wait")
        tested = watched.cluster.ctl("notify", "test", "ops/team")
        assert tested.returncode == 1
        assert "is not in repository-hosts" in tested.stdout
        assert other.bodies == []

    watched.cluster.grants = ""
    watched.write_secrets(HOOK=watched.hook.url, SIGN="key")
    watched.configure(limits)
    assert watched.cluster.ctl("reload").returncode == 0
    tested = watched.cluster.ctl("notify", "test", "ops/team")
    assert tested.returncode == 1
    assert "no grant lets repository" in tested.stdout
    assert len(watched.hook.bodies) == 1


def test_a_channel_that_keeps_failing_is_a_problem_of_the_daemon(watched: Watched) -> None:
    """`status` and the metrics show it until a test message arrives; a message that was given up is lost."""
    watched.start(hook_table())
    watched.push(WORKS)
    watched.hook.status = 404
    watched.push(FAILS)
    wait_until(lambda: watched.cluster.ctl("status").returncode == 1, "the problem")
    said = watched.cluster.ctl("status").stdout
    assert "! notices to hook: the webhook answered with status 404; waiting: 0;" in said
    assert "waterflowctl notify test hook" in said
    assert "\nwaterflow_notices_failing 1.0\n" in watched.cluster.api("GET", "/metrics").text
    assert watched.cluster.ctl("notify", "test", "hook").returncode == 1
    assert watched.cluster.ctl("status").returncode == 1

    watched.hook.status = 200
    assert watched.cluster.ctl("notify", "test", "hook").returncode == 0
    done = watched.cluster.ctl("status")
    assert (done.returncode, "notices to" in done.stdout) == (0, False)
    assert "\nwaterflow_notices_failing 0.0\n" in watched.cluster.api("GET", "/metrics").text


def test_a_channel_can_be_tested_and_added_by_a_reload(watched: Watched, tmp_path: Path) -> None:
    """The command says what became of it; addresses are never shown."""
    watched.start()
    assert "no channels yet" in watched.cluster.ctl("notify").stdout
    watched.configure(hook_table('on = ["failure"]'))
    reloaded = json.loads(watched.cluster.ctl("reload", "--json").stdout)
    assert [row["key"] for row in reloaded["changes"] if row["applied"]] == ["notify.hook"]
    done = watched.cluster.ctl("notify", "test")
    assert (done.returncode, done.stdout) == (0, "hook: sent\n")
    assert watched.hook.titles() == ["Test notice from Waterflow"]
    watched.hook.status = 302
    done = watched.cluster.ctl("notify", "test", "hook")
    assert done.returncode == 1
    assert "status 302; redirects are not followed" in done.stdout
    assert watched.cluster.ctl("notify", "test", "nosuch").returncode == 5
    listed = watched.cluster.ctl("notify").stdout
    assert "webhook (json)" in listed
    assert "secret-path" not in listed + watched.cluster.log.read_text()
