"""Repositories that are added, changed and removed while the daemon runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.cluster import Cluster
from tests.patience import wait_until

#: A job that needs no server.
NAP = (
    "on: {push: {}, workflow_dispatch: {}}\njobs: {j: {runs-on: web, steps: [{uses: sleep, with: {duration: 1ms}}]}}\n"
)
LONG = NAP.replace("1ms", "1h")

pytestmark = pytest.mark.log_engine("the repositories of several daemons are in their configurations")


class Started:
    """A cluster with one repository in the configuration, and one that can be added."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.clone_of_ops = cluster.make_repository()
        self.added = cluster.folder / "apps.git"
        self.clone = cluster.folder / "apps"
        cluster.git("init", "--quiet", "--bare", "--initial-branch=main", str(self.added))
        cluster.git("clone", "--quiet", str(self.added), str(self.clone))
        cluster.git("checkout", "--quiet", "-B", "main", cwd=self.clone)
        cluster.write_config(
            f'[[repositories]]\nname = "ops"\nurl = "{cluster.repository}"\n'
            f'[added-repositories]\nlocal-paths = ["{cluster.folder}"]\ncredentials-dir = "{cluster.folder}/keys"\n'
        )
        cluster.push(self.clone, {"workflows/nap.yml": NAP})
        cluster.start_daemon()

    def ctl(self, *arguments: str) -> str:
        """What a command prints, which must succeed."""
        done = self.cluster.ctl(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def refused(self, *arguments: str) -> str:
        """What a command says that must be refused."""
        done = self.cluster.ctl(*arguments)
        assert done.returncode == 5, (done.stdout, done.stderr)
        return done.stderr

    def add(self, *arguments: str) -> str:
        return self.ctl("repositories", "add", "apps", str(self.added), *arguments)

    def runs(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.cluster.api("GET", "/v1/runs?limit=100").json()["runs"]
        return [row for row in found if row["repository"] == "apps"]

    def ended(self, count: int) -> list[dict[str, Any]]:
        """The runs of the repository, newest first, once there are so many and all have ended."""
        return wait_until(
            lambda: (
                rows if len(rows := self.runs()) == count and all(r["status"] == "completed" for r in rows) else None
            ),
            f"{count} completed runs",
        )

    def sync(self) -> None:
        self.ctl("sync", "apps", "--wait")


@pytest.fixture
def started(empty_cluster: Cluster) -> Started:
    return Started(empty_cluster)


def test_an_added_repository_is_watched_at_once_and_after_a_restart(started: Started) -> None:
    """What it holds when it is added starts nothing; later pushes do, also after a crash of the daemon."""
    said = started.add("--wait")
    assert f"apps: added; {started.added}, groups *; ready" in said
    assert started.runs() == []

    started.cluster.push(started.clone, {"workflows/nap.yml": NAP + "# again\n"})
    [first] = started.ended(1)
    started.cluster.kill_daemon()
    started.cluster.start_daemon()
    started.cluster.push(started.clone, {"workflows/nap.yml": NAP + "# and again\n"})

    rows = started.ended(2)
    assert [row["number"] for row in rows] == [2, first["number"]] == [2, 1]
    listed = json.loads(started.ctl("repositories", "--json"))
    assert {row["name"]: row["source"] for row in listed} == {"apps": "api", "ops": "configuration"}
    audit = json.loads(started.ctl("audit", "--json", "--what", "add-repository"))
    assert [(row["target"], row["facts"]["url"]) for row in audit] == [("apps", str(started.added))]


def test_a_repository_of_the_configuration_is_changed_only_there(started: Started) -> None:
    """Every change is refused with the file and the line."""
    place = f"{started.cluster.config}:{_line_of(started.cluster.config, '[[repositories]]')}"
    for arguments in (
        ["add", "ops", str(started.added)],
        ["set", "ops", "--group", "web"],
        ["remove", "ops"],
        ["remove", "ops", "--force"],
    ):
        said = started.refused("repositories", *arguments)
        assert f'repository "ops" is in {place}; change it there' in said


def test_a_repository_with_open_runs_is_removed_only_by_force(started: Started) -> None:
    """Then its runs are cancelled; they and their numbers stay, and the name begins anew."""
    started.add("--wait")
    started.cluster.push(started.clone, {"workflows/nap.yml": LONG})
    wait_until(lambda: [row for row in started.runs() if row["status"] == "running"], "the run to start")

    said = started.refused("repositories", "remove", "apps")
    assert 'repository "apps" has an open run: nap#1' in said
    assert "--force" in said
    assert [row["status"] for row in started.runs()] == ["running"]

    said = started.ctl("repositories", "remove", "apps", "--force")
    assert "apps: removed, 1 open run cancelled" in said
    [row] = started.ended(1)
    assert row["conclusion"] == "cancelled"
    assert "apps" not in started.ctl("repositories")
    assert started.cluster.ctl("sync", "apps").returncode == 5
    assert started.cluster.ctl("run", "nap").returncode == 5

    # What was pushed meanwhile is history for the repository that comes back.
    started.cluster.push(started.clone, {"workflows/nap.yml": NAP})
    started.add("--wait")
    assert len(started.runs()) == 1
    started.cluster.push(started.clone, {"workflows/nap.yml": NAP + "# again\n"})
    assert [row["number"] for row in started.ended(2)] == [2, 1]


def test_settings_can_be_changed(started: Started) -> None:
    """Rights and refs follow at once; an option replaces the list, and an empty text restores the default."""
    started.add("--wait", "--group", "db", "--runs-per-hour", "5")
    row = next(row for row in json.loads(started.ctl("workflows", "--json")) if row["repository"] == "apps")
    assert row["status"] == "broken"
    assert "web" in row["text"]

    said = started.ctl("repositories", "set", "apps", "--group", "web", "--group", "db")
    assert "groups web, db" in said
    assert started.ctl("run", "nap")
    said = started.ctl("repositories", "set", "apps", "--group", "", "--interval", "2m")
    assert "groups *" in said
    quotas = next(row for row in json.loads(started.ctl("repositories", "--json")) if row["name"] == "apps")["quotas"]
    assert {"runs-per-hour": 5}.items() <= {quota["key"]: quota["limit"] for quota in quotas}.items()

    # Another URL is another repository: it begins anew.
    started.ctl("repositories", "set", "apps", "--url", str(started.cluster.repository))
    started.sync()
    assert [row["path"] for row in json.loads(started.ctl("workflows", "--json"))] == []


def test_adding_is_idempotent_and_never_replaces(started: Started) -> None:
    """The same settings again change nothing; others are refused."""
    started.add("--wait")
    started.add("--wait")
    said = started.refused("repositories", "add", "apps", str(started.cluster.repository))
    assert 'repository "apps" exists with other settings' in said


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["x", "ext::sh -c id"], "remote helpers"),
        (["x", "git://example.org/x.git"], "only https and ssh"),
        (["x", "http://example.org/x.git"], "use https"),
        (["x", "/etc"], "local-paths"),
        (["x", "https://127.0.0.1/x.git"], "loopback = true"),
        (["x", "https://169.254.169.254/x.git"], "metadata"),
        (["x", "https://token@example.org/x.git"], "credentials-file"),
        (["x", "https://example.org/x.git", "--credentials-file", "/etc/shadow"], "is not below"),
        (["x", "https://example.org/x.git", "--credentials-file", "../daemon/keys/server.key"], "is not below"),
        (["x", "https://example.org/x.git", "--interval", "soon"], "interval"),
        (["x", "https://example.org/x.git", "--interval", "999999999999d"], "interval"),
        (["x y", "https://example.org/x.git"], "invalid name"),
        (["x", "https://example.org/x.git", "--runs-per-hour", "-1"], "runs_per_hour"),
    ],
)
def test_what_may_only_be_in_the_configuration_is_refused(
    started: Started, arguments: list[str], expected: str
) -> None:
    """The API cannot reach this machine, or send files of the daemon to a server of its caller."""
    said = started.refused("repositories", "add", *arguments)
    assert expected in said
    assert "x" not in {row["name"] for row in json.loads(started.ctl("repositories", "--json"))}


def test_a_token_for_some_groups_adds_repositories_for_these_only(started: Started) -> None:
    """An admin of the web servers cannot add a repository that may use the databases."""
    created = started.ctl("tokens", "create", "--role", "admin", "--group", "web")
    headers = {"Authorization": f"Bearer {created.splitlines()[-1]}"}
    body = {"name": "apps", "url": str(started.added)}
    refused = started.cluster.api("POST", "/v1/repositories", json=body, headers=headers)
    assert refused.status_code == 403
    assert refused.json()["code"] == "WF602"
    body["groups"] = ["web"]  # type: ignore[assignment]
    assert started.cluster.api("POST", "/v1/repositories", json=body, headers=headers).status_code == 201
    started.ctl("repositories", "set", "apps", "--group", "db")
    removed = started.cluster.api("DELETE", "/v1/repositories/apps", headers=headers)
    assert removed.status_code == 403


def test_jobs_of_another_repository_read_an_added_one_if_it_allows_them(started: Started) -> None:
    """The refusal says which command allows it; an empty text takes the permission away again."""
    cluster = started.cluster
    cluster.add_agent("web-1", "web")
    started.add("--wait")
    text = (
        "on: {push: {}}\njobs:\n  a:\n    runs-on: web\n    steps:\n"
        "      - {uses: actions/checkout@v4, with: {repository: apps, path: a}}\n"
        "      - run: cat a/workflows/nap.yml\n"
    )

    def run_of(commit: str) -> dict[str, Any]:
        def rows() -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = cluster.api("GET", "/v1/runs?repository=ops").json()["runs"]
            return [row for row in found if row["revision"] == commit]

        return cluster.wait_for(wait_until(rows, f"the run of {commit}")[0]["id"])

    refused = run_of(cluster.push(started.clone_of_ops, {"workflows/a.yml": text}))
    assert refused["conclusion"] == "failure"
    assert "waterflowctl repositories set NAME --readable-by ops" in str(refused["jobs"][0]["steps"])

    said = started.ctl("repositories", "set", "apps", "--readable-by", "ops", "--readable-by", "web-*")
    assert "groups *, readable by ops, web-*;" in said
    allowed = run_of(cluster.push(started.clone_of_ops, {"version": "2\n"}))
    assert (allowed["conclusion"], cluster.lines(allowed["id"], 1)[0]) == ("success", NAP.splitlines()[0])

    started.ctl("repositories", "set", "apps", "--readable-by", "")
    assert run_of(cluster.push(started.clone_of_ops, {"version": "3\n"}))["conclusion"] == "failure"
    rows = json.loads(started.ctl("repositories", "--json"))
    assert {row["name"]: row["readable_by"] for row in rows} == {"apps": [], "ops": []}
    audit = json.loads(started.ctl("audit", "--json", "--what", "set-repository"))
    assert sorted(row["facts"]["readable_by"] for row in audit) == [[], ["ops", "web-*"]]


def test_what_the_configuration_no_longer_permits_is_shown_and_does_not_stop_the_daemon(started: Started) -> None:
    """The repository says why it is not read."""
    started.add("--wait")
    started.cluster.stop_daemon()
    started.cluster.write_config()
    started.cluster.start_daemon()
    row = wait_until(
        lambda: next(
            (row for row in json.loads(started.ctl("repositories", "--json")) if "local-paths" in row["text"]), None
        ),
        "the reason",
    )
    assert row["status"] == "degraded"


def _line_of(file: Path, text: str) -> int:
    return file.read_text().splitlines().index(text) + 1
