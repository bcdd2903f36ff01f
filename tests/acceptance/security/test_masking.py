"""Secrets that a step prints, with real processes: masked on the server in every known form, and never stored."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import living
from tests.acceptance.cluster import Cluster
from tests.patience import wait_until
from waterflow_agent.state import secret_store

TOKEN = "heron-4711-Quartz/Zinc+9"
QUOTED = 'it\'s "Xylophone" & more'
PEM_LINES = [
    "-----BEGIN KEY-----",
    "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSj",
    "AgEAAoIBAQC7VJTUt9Us8cKj",
    "-----END KEY-----",
]
PEM = "\n".join(PEM_LINES)

WORKFLOW = """jobs:
  print:
    runs-on: web
    outputs: {leak: "${{ steps.print.outputs.leak }}"}
    steps:
      - id: print
        env: {TOKEN: "${{ secrets.TOKEN }}", QUOTED: "${{ secrets.QUOTED }}", PEM: "${{ secrets.PEM }}"}
        run: |
          echo "raw $TOKEN and more"
          echo "raw $TOKEN" >&2
          printf 'a prompt: '
          printf 'split %s' "$(printf %s "$TOKEN" | cut -c 1-12)"
          touch PLACE/half
          while test ! -e PLACE/go; do sleep 0.05; done
          printf '%s\\n' "$(printf %s "$TOKEN" | cut -c 13-)"
          echo "base64 $(printf %s "$TOKEN" | base64)"
          echo "basic $(printf 'user:%s' "$TOKEN" | base64)"
          echo "basic $(printf 'user2:%s@' "$TOKEN" | base64)"
          echo "reversed $(printf %s "$TOKEN" | rev)"
          set -x
          : "$QUOTED" "$TOKEN"
          { set +x; } 2>/dev/null
          printf '%s\\n' "$PEM"
          printf '%s' "$PEM" | base64
          echo "leak=<$TOKEN>" >> "$WATERFLOW_OUTPUT"
          echo "LEAK=<$TOKEN>" >> "$WATERFLOW_ENV"
          echo "$TOKEN" >> "$WATERFLOW_SUMMARY"
          echo the end
      - run: echo "later $LEAK"
      - uses: fail
        with: {message: "bad token ${{ secrets.TOKEN }}"}
"""

#: What must not appear anywhere: the values and their encodings.
SECRETS = [
    TOKEN,
    base64.b64encode(TOKEN.encode()).decode()[:-4],
    base64.b64encode(b"user:" + TOKEN.encode()).decode()[8:-4],
    base64.b64encode(b"user2:" + TOKEN.encode()).decode()[8:-4],
    QUOTED,
    QUOTED.replace("'", "'\\''"),
    *PEM_LINES,
    base64.b64encode(PEM.encode()).decode()[:64],
]


@pytest.fixture
def secret_cluster(empty_cluster: Cluster) -> Iterator[Cluster]:
    """A daemon that knows the secrets, and an agent."""
    secret_directory = secret_store.find_directory(empty_cluster.agent_dir("web-1"), {})
    if secret_directory is None:
        pytest.skip("there is no directory in memory")
    sources = empty_cluster.folder / "secrets.toml"
    sources.touch(mode=0o600)
    sources.write_text(f"TOKEN = '{TOKEN}'\nQUOTED = '''{QUOTED}'''\nPEM = '''{PEM}\n'''\n")
    with empty_cluster.config.open("a") as config:
        config.write(f'[secrets]\nfile = "{sources}"\n')
    empty_cluster.start_daemon()
    empty_cluster.add_agent("web-1", "web")
    yield empty_cluster
    shutil.rmtree(secret_directory, ignore_errors=True)


def _book(cluster: Cluster) -> Path:
    secret_directory = secret_store.find_directory(cluster.agent_dir("web-1"), {})
    assert secret_directory is not None
    return secret_directory


def _at_rest(cluster: Cluster) -> set[str]:
    """Returns the files of this cluster that contain a secret, except the source of the secrets."""
    holders = living.holding(cluster.folder, *(secret.encode() for secret in SECRETS))
    return {str(path.relative_to(cluster.folder)) for path in holders if path.name != "secrets.toml"}


def _shown(cluster: Cluster, run: str) -> str:
    """Returns everything that the API shows about the run."""
    paths = (f"/v1/runs/{run}", f"/v1/runs/{run}/events", f"/v1/runs/{run}/logs")
    return "\n".join(cluster.api("GET", path).text for path in paths)


def _command_lines() -> bytes:
    lines = b""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines += path.read_bytes() + b"\n"
        except OSError:
            continue
    return lines


@pytest.mark.parametrize("is_restarted", [False, True], ids=["steady agent", "agent killed and started again"])
def test_no_secret_leaves_the_server_or_remains_on_it(secret_cluster: Cluster, is_restarted: bool) -> None:
    """Secrets are masked raw, split, encoded, traced, multi-line, in outputs, summaries, reasons, except documented misses."""
    cluster, directory = secret_cluster, secret_cluster.folder / "place"
    directory.mkdir()
    run = cluster.start(WORKFLOW.replace("PLACE", str(directory)))
    wait_until((directory / "half").exists, "the first half to be printed")
    wait_until(lambda: "a prompt: split" in _shown(cluster, run), "the line to be told as far as it is no secret")
    during = _at_rest(cluster)
    assert TOKEN[:12] not in _shown(cluster, run)
    command_lines = _command_lines()
    assert not any(secret.encode() in command_lines for secret in SECRETS)
    for pid in (cluster.daemon_pid, cluster.agent_process("web-1").pid):
        limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
        assert [line.split()[4] for line in limits if line.startswith("Max core file size")] == ["0"]
    if is_restarted:
        cluster.kill_agent("web-1")
        cluster.start_agent("web-1")
    (directory / "go").touch()

    found = cluster.wait_for(run)

    assert found["conclusion"] == "failure"
    wait_until(lambda: "bad token" in "\n".join(cluster.lines(run)), "the output of all steps")
    displayed = _shown(cluster, run)
    lines = cluster.lines(run)
    assert [secret for secret in SECRETS if secret in displayed] == []
    assert lines.count("raw *** and more") == 1
    assert lines.count("raw ***") == 1
    assert "a prompt: split ***" in lines
    assert f"reversed {TOKEN[::-1]}" in lines, "a miss, as documented"
    assert "the end" in lines
    assert "later <***>" in lines
    assert "bad token ***" in lines
    assert [step["reason"]["text"] for step in found["jobs"][0]["steps"]][-1].startswith("bad token ***")
    assert found["jobs"][0]["outputs"] == {"leak": "<***>"}
    assert found["jobs"][0]["steps"][0]["attempts"][0]["summary"] == "***\n"
    assert all(Path(path).name.startswith("output") and "attempts" in path for path in during), during
    wait_until(lambda: not _at_rest(cluster), "the raw output to be removed from the server")
    wait_until(lambda: not _book(cluster).exists(), "the values to be removed from memory")
    cluster.stop_agent("web-1")
    cluster.stop_daemon()
    assert _at_rest(cluster) == set()


def test_an_agent_that_has_lost_the_secrets_withholds_the_output(secret_cluster: Cluster) -> None:
    """If the values were removed while the agent was away, its output is withheld rather than shown unmasked."""
    cluster, directory = secret_cluster, secret_cluster.folder / "place"
    directory.mkdir()
    run = cluster.start(WORKFLOW.replace("PLACE", str(directory)))
    wait_until((directory / "half").exists, "the first half to be printed")
    cluster.kill_agent("web-1")
    shutil.rmtree(_book(cluster))
    (directory / "go").touch()
    cluster.start_agent("web-1")

    found = cluster.wait_for(run)

    assert found["conclusion"] == "failure"
    assert "no longer knows the secrets" in found["jobs"][0]["steps"][0]["reason"]["text"]
    assert [secret for secret in SECRETS if secret in _shown(cluster, run)] == []
    wait_until(lambda: not _at_rest(cluster), "the raw output to be removed from the server")
