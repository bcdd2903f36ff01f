"""Secrets of every source with real processes: they arrive, are masked, are never stored."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyrage
import pytest

from tests import living
from tests.acceptance.cluster import Cluster, jobs_of
from tests.integration.secrets import openbao
from tests.integration.secrets.openbao import OpenBao
from tests.patience import PATIENCE_S, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

VALUES = {
    "OF_ENVIRONMENT": "walrus-0815-of-the-environment",
    "OF_CREDENTIAL": "osprey-2718-of-a-credential",
    "OF_FILE": "zebra-4711-of-a-file",
    "OF_VAULT": "heron-3141-of-vault",
    "OF_TABLE": "lynx-1618-of-a-table",
    "OF_AGE": "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\nAgEAAoIBAQC7VJTUt9Us8cKj\n-----END KEY-----",
}

PRINT = """on: {{push: {{}}}}
jobs:
  print:
    runs-on: web
    outputs: {{leak: "${{{{ steps.all.outputs.leak }}}}"}}
    steps:
      - id: all
        env: {{{env}}}
        run: |
          for name in {names}; do
            value=$(printenv "$name")
            printf '%s raw %s\\n' "$name" "$value"
            printf '%s base64 %s\\n' "$name" "$(printf %s "$value" | base64 -w 0)"
            printf '%s half %s' "$name" "$(printf %s "$value" | cut -c 1-9 | head -n 1)"
            printf '%s\\n' "$(printf %s "$value" | head -n 1 | cut -c 10-)"
            set -x; : "$value"; {{ set +x; }} 2>/dev/null
            printf '%s has %s characters\\n' "$name" "${{#value}}"
          done
          printf 'leak=%s\\n' "$OF_VAULT" >> "$WATERFLOW_OUTPUT"
""".format(env=", ".join(f'{name}: "${{{{ secrets.{name} }}}}"' for name in VALUES), names=" ".join(VALUES))
ONE = 'jobs: {{a: {{runs-on: web, steps: [{{env: {{V: "${{{{ secrets.{name} }}}}"}}, run: "echo ${{#V}}"}}]}}}}'
PLAIN = "jobs: {a: {runs-on: web, steps: [{run: echo plain}]}}"


@pytest.fixture(scope="module")
def server(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    """A real server of Vault's API; each test unseals it again."""
    with openbao.serving(pytestconfig, tmp_path_factory.mktemp("openbao")) as running:
        running.put("apps/web", value=VALUES["OF_VAULT"])
        running.policy("web", "secret/data/apps/web")
        yield running


class Setting:
    """A cluster with a repository, and the secret sources of its daemon."""

    def __init__(self, cluster: Cluster, directory: Path) -> None:
        self.cluster = cluster
        self.place = directory
        self.identity = pyrage.x25519.Identity.generate()
        self.identity_file = self.private("ops.agekey", f"{self.identity}\n")
        self.clone = cluster.make_repository()
        (self.clone / "secrets").mkdir()

    def private(self, name: str, content: str) -> Path:
        """Creates a file that only its owner may read, outside the cluster's folder."""
        path = self.place / name
        path.touch(mode=0o600)
        path.write_text(content)
        return path

    def seal(self, name: str, content: str, *more: Any) -> None:
        """Creates an encrypted file in the clone, for the daemon and other recipients."""
        recipients = [identity.to_public() for identity in (*more, self.identity)]
        (self.clone / "secrets" / name).write_bytes(pyrage.encrypt(content.encode(), recipients))

    def configure(self, vault: OpenBao | None = None, token: str = "", give_up_after: str = "10m") -> None:
        """Writes the daemon's configuration, with the sources that the tests use."""
        lines = f"""[log]
level = "debug"
[[repositories]]
name = "ops"
url = "{self.cluster.repository}"
age-files = ["secrets/all.toml.age", "secrets/OF_AGE.age"]
age-identity-file = "{self.identity_file}"
[secrets]
file = "{self.private("secrets.toml", f'of-file = "{VALUES["OF_FILE"]}"')}"
give-up-after = "{give_up_after}"
"""
        if vault is not None:
            lines += f"""[vault]
address = "{vault.address}"
ca-file = "{vault.ca_file}"
token-file = "{self.private("token", token)}"
cache = "5s"
secrets = {{ OF_VAULT = "apps/web#value", MISSING = "apps/web#none" }}
"""
        self.cluster.write_config(lines)

    def start(self) -> None:
        """Starts the daemon and an agent."""
        self.cluster.start_daemon()
        self.cluster.add_agent("web-1", "web")


@pytest.fixture
def setting(empty_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Setting:
    """See `Setting`; its files are in no folder that is searched for secrets."""
    return Setting(empty_cluster, tmp_path_factory.mktemp("sources"))


def attempt_reason(cluster: Cluster, run: str) -> dict[str, Any]:
    """Returns the reason of the run's first step; empty while there is none."""
    steps = cluster.run(run)["jobs"][0]["steps"]
    reason: dict[str, Any] = (steps[0]["reason"] or {}) if steps else {}
    return reason


def test_secrets_of_every_source_reach_the_step_and_are_stored_nowhere(setting: Setting, server: OpenBao) -> None:
    """Values of every source (environment, credential, file, Vault, age) are in no log, answer, event or argv."""
    cluster = setting.cluster
    credentials = setting.place / "credentials"
    credentials.mkdir()
    (credentials / "secret.of-credential").write_text(VALUES["OF_CREDENTIAL"] + "\n")
    cluster.daemon_environment["WATERFLOW_SECRET_OF_ENVIRONMENT"] = VALUES["OF_ENVIRONMENT"]
    cluster.daemon_environment["CREDENTIALS_DIRECTORY"] = str(credentials)
    token = server.token("web")
    setting.configure(server, token)
    setting.seal("all.toml.age", f'OF_TABLE = "{VALUES["OF_TABLE"]}"\nOF_FILE = "what is pushed replaces nothing"\n')
    setting.seal("OF_AGE.age", VALUES["OF_AGE"] + "\n", pyrage.x25519.Identity.generate())
    setting.start()
    cluster.push(setting.clone, {"workflows/print.yml": PRINT})

    runs = wait_until(lambda: cluster.api("GET", "/v1/runs").json()["runs"], "the push to start a run", PATIENCE_S)
    run = runs[0]["id"]
    found = cluster.wait_for(run, PATIENCE_S)

    assert found["conclusion"] == "success", (found["jobs"], cluster.lines(run))
    wait_until(lambda: any("OF_AGE has" in line for line in cluster.lines(run)), "all of the output", PATIENCE_S)
    lines = cluster.lines(run)
    for name, value in VALUES.items():
        assert f"{name} has {len(value)} characters" in lines
        assert any(line.startswith(f"{name} base64 ***") for line in lines)
    assert f"OF_FILE has {len(VALUES['OF_FILE'])} characters" in lines
    assert found["jobs"][0]["outputs"] == {"leak": "***"}

    expected = [line for value in VALUES.values() for line in value.splitlines()]
    expected += [base64.b64encode(value.encode()).decode()[:24] for value in VALUES.values()]
    expected += [token, str(setting.identity)]
    displayed = "".join(
        cluster.api("GET", path).text
        for path in (f"/v1/runs/{run}", f"/v1/runs/{run}/events", f"/v1/runs/{run}/logs", "/v1/definitions", "/metrics")
    )
    assert [word for word in expected if word in displayed] == []
    wait_until(
        lambda: not _at_rest(cluster.folder, expected), "the raw output to be removed from the server", PATIENCE_S
    )
    command_lines = b"".join(_contents(path) for path in Path("/proc").glob("[0-9]*/cmdline"))
    assert not any(word.encode() in command_lines for word in expected)
    cluster.stop_agent("web-1")
    cluster.stop_daemon()
    assert _at_rest(cluster.folder, expected) == set()


def _contents(path: Path) -> bytes:
    try:
        return path.read_bytes() if path.is_file() else b""
    except OSError:
        return b""


def _at_rest(folder: Path, expected: list[str]) -> set[str]:
    """Returns the files of daemon, agent and repository that contain one of the texts."""
    return {str(path.relative_to(folder)) for path in living.holding(folder, *(word.encode() for word in expected))}


def test_a_run_uses_the_secrets_of_its_commit(setting: Setting) -> None:
    """A newer push changes nothing for a run of an older commit, not even when it is re-run."""
    cluster, workflow = setting.cluster, "on: {push: {}}\n" + ONE.format(name="OF_TABLE")
    setting.configure()
    setting.seal("all.toml.age", 'OF_TABLE = "four"')
    setting.start()
    cluster.push(setting.clone, {"workflows/one.yml": workflow})
    first = wait_until(lambda: cluster.api("GET", "/v1/runs").json()["runs"], "the first run", PATIENCE_S)[0]["id"]
    assert cluster.wait_for(first, PATIENCE_S)["conclusion"] == "success"
    assert cluster.lines(first, 1) == ["4"]
    setting.seal("all.toml.age", 'OF_TABLE = "seven77"')
    cluster.push(setting.clone, {"workflows/two.yml": workflow})
    second = wait_until(
        lambda: [row["id"] for row in cluster.api("GET", "/v1/runs").json()["runs"] if row["path"].endswith("two.yml")],
        "the second run",
        PATIENCE_S,
    )[0]
    assert cluster.wait_for(second, PATIENCE_S)["conclusion"] == "success"
    assert cluster.lines(second, 1) == ["7"]

    done = cluster.ctl("rerun", first, "--json")

    assert done.returncode == 0, done.stderr
    again = next(row["id"] for row in cluster.api("GET", "/v1/runs").json()["runs"] if row["id"] not in (first, second))
    assert cluster.wait_for(again, PATIENCE_S)["conclusion"] == "success"
    assert cluster.lines(again, 1) == ["4"]


def test_a_sealed_vault_delays_only_steps_that_need_it_and_across_a_crash(setting: Setting, server: OpenBao) -> None:
    """The step says what it waits for, other runs continue, a killed daemon resumes waiting, and then the step runs."""
    cluster = setting.cluster
    setting.configure(server, server.token("web"))
    setting.start()
    server.seal()
    try:
        run = cluster.start(ONE.format(name="OF_VAULT"))
        wait_until(lambda: "sealed" in attempt_reason(cluster, run).get("text", ""), "the reason", PATIENCE_S)
        assert attempt_reason(cluster, run)["code"] == "secret-waiting"
        assert "waiting for secret OF_VAULT: Vault is sealed" in cluster.ctl("why", run).stdout
        assert cluster.wait_for(cluster.start(PLAIN), PATIENCE_S)["conclusion"] == "success"
        cluster.kill_daemon()
        cluster.start_daemon()
        wait_until(lambda: "web-1" in cluster.connected(), "the agent to be back", PATIENCE_S)
        assert cluster.run(run)["status"] != "completed"
    finally:
        server.unseal()

    assert cluster.wait_for(run, PATIENCE_S)["conclusion"] == "success"
    assert cluster.lines(run, 1) == [str(len(VALUES["OF_VAULT"]))]


def test_an_unreadable_secret_fails_its_step_with_a_code_and_a_message(setting: Setting, server: OpenBao) -> None:
    """A token that Vault refuses, a missing field, a file for other recipients, or a timeout fails the step."""
    cluster = setting.cluster
    setting.configure(server, "no-such-token")
    setting.identity = pyrage.x25519.Identity.generate()
    setting.seal("all.toml.age", f'OF_TABLE = "{VALUES["OF_TABLE"]}"')
    setting.start()
    cluster.push(setting.clone, {"workflows/one.yml": "on: {push: {}}\n" + ONE.format(name="OF_TABLE")})
    runs = {
        wait_until(lambda: cluster.api("GET", "/v1/runs").json()["runs"], "a run", PATIENCE_S)[0]["id"]: (
            "secret-unreadable",
            "cannot decrypt secrets/all.toml.age with age-identity-file",
        ),
        cluster.start(ONE.format(name="OF_VAULT")): ("secret-unreadable", "path apps/web (status 403)"),
        cluster.start(ONE.format(name="NOWHERE")): ("secret-missing", "no source has the secret NOWHERE"),
    }
    for run, (code, text) in runs.items():
        assert cluster.wait_for(run, PATIENCE_S)["conclusion"] == "failure"
        reason = next(iter(jobs_of(cluster.run(run)).values()))["steps"][0]["reason"]
        assert reason["code"] == code
        assert text in reason["text"]
    assert "lynx" not in cluster.log.read_text()


def test_a_step_fails_when_the_secret_timeout_expires(setting: Setting, server: OpenBao) -> None:
    """A step does not wait forever for a server that stays sealed."""
    cluster = setting.cluster
    setting.configure(server, server.token("web"), give_up_after="200ms")
    setting.start()
    server.seal()
    try:
        run = cluster.start(ONE.format(name="OF_VAULT"))
        assert cluster.wait_for(run, PATIENCE_S)["conclusion"] == "failure"
    finally:
        server.unseal()
    assert "gave up after 0.2 s [WF626]" in cluster.run(run)["jobs"][0]["steps"][0]["reason"]["text"]


def test_check_config_refuses_a_key_in_the_data_directory(setting: Setting) -> None:
    """So is a key that others can read; the message names the setting and says what to do."""
    cluster = setting.cluster
    setting.configure()

    def check() -> tuple[int, str]:
        process = cluster.spawn(
            "waterflowd", "check-config", "--config", str(cluster.config), log=cluster.folder / "check.log"
        )
        return process.wait(PATIENCE_S), (cluster.folder / "check.log").read_text()

    assert check()[0] == 0
    setting.identity_file.chmod(0o644)
    code, message = check()
    assert code == 2
    assert f"next: chmod 600 {setting.identity_file} [WF622]" in message
    setting.identity_file.chmod(0o600)
    (cluster.folder / "daemon").mkdir(exist_ok=True)
    setting.identity_file = setting.identity_file.rename(cluster.folder / "daemon" / "ops.agekey")
    setting.configure()
    code, message = check()
    assert code == 2
    assert "is in the data directory" in message
