"""Backup, restore and salvage with a real daemon and agents: nothing runs twice, and every loss is reported."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pyrage
import pytest

from tests.acceptance.cluster import Cluster
from tests.patience import wait_until
from waterflowd.dispatch.keys import read_server_keys
from waterflowd.model.ids import RunId
from waterflowd.store import layout
from waterflowd.store.environment import Environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def gated(marker: Path, gate: Path) -> str:
    """Returns a workflow of two steps, of which the first waits for a file."""
    return (
        "jobs:\n  a:\n    runs-on: web\n    steps:\n"
        f"      - run: |\n          echo one >> {marker}\n          while [ ! -e {gate} ]; do sleep 0.05; done\n"
        f"      - run: echo two >> {marker}\n"
    )


def start_both(cluster: Cluster) -> None:
    """Restarts the agent too, because its reconnect backoff has grown in the meantime; its steps continue."""
    cluster.kill_agent("web-1")
    cluster.start_daemon()
    cluster.start_agent("web-1")


def is_back(cluster: Cluster) -> None:
    """Waits for the agent, whose reconnect backoff has grown while the daemon was down."""
    wait_until(lambda: "web-1" in cluster.connected(), "the agent to be back")


def begun(marker: Path) -> None:
    wait_until(lambda: marker.exists() and marker.read_text(), f"{marker.name} to be begun")


def events_of(cluster: Cluster, run: str) -> list[dict[str, Any]]:
    answer = cluster.api("GET", f"/v1/runs/{run}/events")
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["events"]
    return found


@pytest.mark.log_engine("a backup contains the runs of the log engine; those on Temporal are in its database")
def test_after_a_restore_nothing_runs_twice(empty_cluster: Cluster) -> None:
    """After a backup, a restore and a start, open runs are ended, results are late reports, and pushes wait for `resume`."""
    cluster = empty_cluster
    clone = cluster.make_repository()
    cluster.start_daemon()
    cluster.add_agent("web-1", "web", slots=8)
    pushed = cluster.folder / "pushed"
    cluster.push(
        clone,
        {"workflows/p.yml": f"on: push\njobs:\n  a:\n    runs-on: web\n    steps:\n      - run: echo x >> {pushed}\n"},
    )
    begun(pushed)
    marks = {name: cluster.folder / name for name in ("over", "open", "late", "running", "after")}
    gates = {name: cluster.folder / f"gate-{name}" for name in marks}
    gates["over"].touch()
    runs = {"over": cluster.start(gated(marks["over"], gates["over"]))}
    cluster.wait_for(runs["over"])
    for name in ("open", "late", "running"):
        runs[name] = cluster.start(gated(marks[name], gates[name]))
        begun(marks[name])

    backup = cluster.waterflowd("backup", str(cluster.folder / "backup"))
    assert backup.returncode == 0, backup.stderr
    # The daemon continues: a run of the backup ends, another starts, and a commit is pushed.
    gates["open"].touch()
    assert cluster.wait_for(runs["open"])["conclusion"] == "success"
    gates["after"].touch()
    runs["after"] = cluster.start(gated(marks["after"], gates["after"]))
    assert cluster.wait_for(runs["after"])["conclusion"] == "success"
    cluster.push(clone, {"more": "1"})
    wait_until(lambda: pushed.read_text() == "x\nx\n", "the second push to have run")
    assert cluster.stop_daemon() == 0
    # While the daemon is down, a step of the backup ends: its agent keeps the result.
    gates["late"].touch()
    (cluster.folder / "daemon").rename(cluster.folder / "daemon.old")
    restored = cluster.waterflowd("restore", str(cluster.folder / "backup"), "--json")
    assert restored.returncode == 0, restored.stderr
    message = json.loads(restored.stdout)
    assert sorted(message["ended"]["runs"]) == sorted(runs[name] for name in ("open", "late", "running"))
    assert message["ended"]["repositories"] == ["ops"]
    cluster.start_daemon()
    is_back(cluster)

    assert cluster.run(runs["over"])["conclusion"] == "success"
    for name in ("open", "late", "running"):
        found = cluster.run(runs[name])
        assert found["conclusion"] == "cancelled"
        assert "restore" in found["reason"]["text"]
        assert found["jobs"][0]["steps"][0]["attempts"][0]["outcome"] == "lost"
    assert cluster.api("GET", f"/v1/runs/{runs['after']}").status_code == 404
    wait_until(
        lambda: any(event["type"] == "late-report" for event in events_of(cluster, runs["late"])),
        "the result that the agent kept to be recorded as evidence",
    )
    fresh = cluster.start(gated(cluster.folder / "fresh", gates["over"]))
    assert cluster.wait_for(fresh)["conclusion"] == "success"
    # The step of `running` has been stopped, so opening its gate has no effect.
    gates["running"].touch()
    assert pushed.read_text() == "x\nx\n"
    assert {name: mark.read_text() for name, mark in marks.items()} == {
        "over": "one\ntwo\n",
        "open": "one\ntwo\n",
        "late": "one\n",
        "running": "one\n",
        "after": "one\ntwo\n",
    }
    # After `resume`, everything that was pushed in the meantime counts as one push.
    assert cluster.ctl("resume", "ops").returncode == 0
    wait_until(lambda: pushed.read_text() == "x\nx\nx\n", "the push to count once it may")


def test_an_encrypted_backup_reveals_nothing_and_restores_everything(empty_cluster: Cluster) -> None:
    """Made beside a running daemon, checked without it, and restored: the run, its output, and the agent's trust are there."""
    cluster = empty_cluster
    cluster.start_daemon()
    cluster.add_agent("web-1", "web")
    text = "a line that is nobody's business"
    run = cluster.start(
        f'name: confidential\njobs:\n  a:\n    runs-on: web\n    steps:\n      - run: seq 300; echo "{text}"\n'
    )
    cluster.wait_for(run)
    lines = cluster.lines(run, count=301)
    pair = read_server_keys(cluster.folder / "daemon").current
    identity = pyrage.x25519.Identity.generate()
    key_file, wrong, made = cluster.folder / "key.txt", cluster.folder / "wrong.txt", cluster.folder / "made.age"
    for file, owner in ((key_file, identity), (wrong, pyrage.x25519.Identity.generate())):
        file.touch(mode=0o600)
        file.write_text(f"# a comment\n{owner}\n")

    backup = cluster.waterflowd("backup", str(made), "--encrypt-to", str(identity.to_public()), "--json")
    assert backup.returncode == 0, backup.stderr
    content = made.read_bytes()
    for secret in (pair.public, pair.secret, text, "confidential", run):
        assert secret.encode() not in content
    assert hashlib.sha256(content).hexdigest() == json.loads(backup.stdout)["archive_sha256"]
    assert not (cluster.folder / "daemon" / "snapshot.tmp").exists()
    fsck = cluster.waterflowd("fsck", "--data-dir", str(made), "--identity", str(key_file))
    assert (fsck.returncode, fsck.stdout.split()[:2]) == (0, ["intact:", str(json.loads(backup.stdout)["records"])])
    assert cluster.stop_daemon() == 0
    (cluster.folder / "daemon").rename(cluster.folder / "daemon.old")
    for arguments, code in (((), "WF318"), (("--identity", str(wrong)), "WF318"), (("--identity", str(made)), "WF622")):
        refused = cluster.waterflowd("restore", str(made), *arguments)
        assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1), refused.stderr
        assert f"[{code}]" in refused.stderr
    restored = cluster.waterflowd("restore", str(made), "--identity", str(key_file))
    assert restored.returncode == 0, restored.stderr
    start_both(cluster)
    is_back(cluster)
    assert cluster.run(run)["conclusion"] == "success"
    assert cluster.lines(run, count=301) == lines
    fresh = cluster.start("jobs:\n  a:\n    runs-on: web\n    steps:\n      - run: echo again\n")
    assert cluster.wait_for(fresh)["conclusion"] == "success"


def test_a_move_to_another_directory_continues(empty_cluster: Cluster) -> None:
    """After stop, backup, `restore --continue` and start, a step that ended in the meantime is recovered."""
    cluster = empty_cluster
    cluster.start_daemon()
    cluster.add_agent("web-1", "web")
    marker, gate = cluster.folder / "marker", cluster.folder / "gate"
    run = cluster.start(gated(marker, gate))
    begun(marker)
    assert cluster.stop_daemon() == 0
    assert cluster.waterflowd("backup", str(cluster.folder / "backup")).returncode == 0
    shutil.rmtree(cluster.folder / "daemon")
    restored = cluster.waterflowd("restore", str(cluster.folder / "backup"), "--continue")
    assert restored.returncode == 0, restored.stderr
    start_both(cluster)
    gate.touch()
    assert cluster.wait_for(run)["conclusion"] == "success"
    assert marker.read_text() == "one\ntwo\n"


@pytest.mark.log_engine("only the log engine has runs in its log")
def test_a_damaged_log_is_salvaged_and_usable(empty_cluster: Cluster) -> None:
    """Intact runs are unchanged and continue; the run with the cut stream is ended, and its step does not run again."""
    cluster = empty_cluster
    cluster.start_daemon()
    cluster.add_agent("web-1", "web", slots=8)
    marks = [cluster.folder / f"marker-{number}" for number in range(3)]
    gate = cluster.folder / "gate"
    over = cluster.start("name: finished\njobs:\n  a:\n    runs-on: web\n    steps:\n      - run: seq 300\n")
    cluster.wait_for(over)
    runs = []
    for mark in marks:
        runs.append(cluster.start(gated(mark, gate)))
        begun(mark)
    lines = cluster.lines(over, count=300)
    numbers = {run: cluster.run(run)["number"] for run in [over, *runs]}
    assert cluster.stop_daemon() == 0
    file = cluster.folder / "daemon" / "log.mdb" / "data.mdb"
    content = file.read_bytes()
    dispatch = _dispatch_of(cluster.folder / "daemon", runs[1])
    broken = content.replace(dispatch, dispatch[:-1] + bytes([dispatch[-1] ^ 1]))
    assert broken != content
    file.write_bytes(broken)

    assert cluster.waterflowd("fsck").returncode == 1
    saved = cluster.waterflowd("fsck", "--salvage", str(cluster.folder / "saved"), "--json")
    assert saved.returncode == 3, saved.stderr + saved.stdout
    message = json.loads(saved.stdout)
    assert [cut["stream"] for cut in message["kept"]["cuts"]] == [f"run/{runs[1]}"]
    assert message["ended"]["runs"] == [runs[1]]
    assert file.read_bytes() == broken, "the source is left as it is"
    (cluster.folder / "daemon").rename(cluster.folder / "daemon.damaged")
    (cluster.folder / "saved").rename(cluster.folder / "daemon")
    assert cluster.waterflowd("fsck").returncode == 0
    start_both(cluster)
    gate.touch()
    for number in (0, 2):
        assert cluster.wait_for(runs[number])["conclusion"] == "success"
        assert marks[number].read_text() == "one\ntwo\n"
    assert cluster.run(runs[1])["conclusion"] == "cancelled"
    assert marks[1].read_text() == "one\n"
    assert cluster.lines(over) == lines
    assert cluster.run(over)["name"] == "finished"
    assert {run: cluster.run(run)["number"] for run in [over, *runs]} == numbers
    fresh = cluster.start("name: finished\njobs:\n  a:\n    runs-on: web\n    steps:\n      - run: seq 300\n")
    assert cluster.wait_for(fresh)["number"] == max(numbers.values()) + 1


def _dispatch_of(directory: Path, run: str) -> bytes:
    """Returns the stored record with which the run's attempt was dispatched."""
    environment = Environment(directory / layout.ENVIRONMENT_DIRECTORY, is_readonly=True)
    try:
        with environment.reading() as transaction:
            rows = transaction.cursor(environment.database("records"))
            return next(
                value for _, value in rows if layout.run_key(RunId(run)) in value and b"attempt-dispatched" in value
            )
    finally:
        environment.close()


def test_failing_commands_print_one_line(empty_cluster: Cluster) -> None:
    """A missing or non-empty directory gives exit code 1 and one line with a code, without a traceback."""
    cluster = empty_cluster
    nothing = cluster.waterflowd("backup", str(cluster.folder / "backup"))
    unknown = cluster.waterflowd("restore", str(cluster.folder / "no-backup"))
    empty = cluster.waterflowd("fsck", "--salvage", str(cluster.folder / "saved"))
    for answer in (nothing, unknown, empty):
        assert answer.returncode == 1, answer.stderr
        assert "[WF311]" in answer.stderr
        assert len(answer.stderr.splitlines()) == 1
    cluster.start_daemon()
    made = cluster.waterflowd("backup", str(cluster.folder / "backup"))
    assert made.returncode == 0, made.stderr
    assert "verified" in made.stdout
    for answer in (
        cluster.waterflowd("restore", str(cluster.folder / "backup")),
        cluster.waterflowd("backup", str(cluster.folder / "backup")),
    ):
        assert answer.returncode == 1
        assert "[WF315]" in answer.stderr
    held = cluster.waterflowd("fsck", "--salvage", str(cluster.folder / "saved"))
    assert (held.returncode, "[WF310]" in held.stderr) == (1, True)
    assert cluster.stop_daemon() == 0
    (cluster.folder / "daemon" / "log.mdb" / "data.mdb").write_bytes(bytes(100_000))
    lost = cluster.waterflowd("fsck", "--salvage", str(cluster.folder / "saved"), "--json")
    assert lost.returncode == 4, lost.stderr
    assert json.loads(lost.stdout)["verdict"] == "nothing"
