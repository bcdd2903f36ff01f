"""The environment of the processes: file modes, umask and locale, `ps`, cloned agents, two daemons, a revocation."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attack.arena import GOOD, Arena
from tests.attack.test_hostile_steps import job
from tests.patience import PATIENCE_S, wait_until
from waterflowd.dispatch.keys import read_server_keys

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


class Bare(Arena):
    """An arena whose processes get almost no environment, and the worst umask."""

    extra: dict[str, str] = {}
    umask = -1

    def environment(self) -> dict[str, str]:
        """Returns an environment without HOME and UTF-8."""
        kept = ("PATH", "PYTHONDONTWRITEBYTECODE", "WATERFLOW_SERVER", "VIRTUAL_ENV", "PYTHONPATH")
        found = super().environment()
        return {name: found[name] for name in kept if name in found} | self.extra

    def spawn(self, module: str, *arguments: str, log: Path) -> subprocess.Popen[bytes]:
        """Starts a process with the umask."""
        with log.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self.environment(),
                cwd=self.folder,
                umask=self.umask,
            )


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Bare]:
    """An arena with nothing started."""
    made = Bare(tmp_path)
    try:
        yield made
    finally:
        made.close()


def _modes(folder: Path) -> dict[str, int]:
    """Returns everything below the folder that other users can access, with its mode."""
    open_to_others = {}
    for path in [folder, *folder.rglob("*")]:
        status = path.lstat()
        if not stat.S_ISLNK(status.st_mode) and status.st_mode & 0o007:
            open_to_others[str(path.relative_to(folder.parent))] = stat.S_IMODE(status.st_mode)
    return open_to_others


@pytest.mark.parametrize(
    ("umask", "extra"),
    [(0o000, {"LANG": "C"}), (0o077, {"LC_ALL": "POSIX"}), (0o022, {"LC_ALL": "C", "PYTHONUTF8": "0"})],
)
def test_locale_umask_and_home_change_nothing(bare: Bare, umask: int, extra: dict[str, str]) -> None:
    """The results are the same and no file is readable by others, however the processes were started (A21, A24)."""
    bare.umask, bare.extra = umask, extra
    bare.start_daemon()
    bare.add_agent("web-1", "web")
    run = bare.start(job("echo \"grün 漢 $NAME\"\necho 'kept=ü' >> $WATERFLOW_OUTPUT\numask", keys="env: {NAME: 'ñ'}"))

    found = bare.wait_for(run)

    assert found["conclusion"] == "success", found
    assert bare.lines(run, count=2)[0] == "grün 漢 ñ"
    assert found["jobs"][0]["steps"][0]["outputs"]["kept"] == "ü"
    for folder in (bare.daemon_dir, bare.agent_dir("web-1")):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700, "the directory itself keeps others out"
    keys = [*bare.daemon_dir.glob("keys/*"), *bare.agent_dir("web-1").glob("keys/*")]
    assert keys
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys} == {0o600}
    assert stat.S_IMODE(bare.socket.stat().st_mode) & 0o007 == 0, "the socket is an admin's door"


def test_no_secret_is_in_any_command_line_or_log(arena: Arena) -> None:
    """Join tokens, their secrets and private keys appear neither in argv nor in the logs of daemon and agents (A21)."""
    answer = arena.api("POST", "/v1/tokens", json={"role": "viewer", "name": "x"}).json()
    token = arena.token("web")
    secrets = [token.encode(), answer["secret"].encode(), *_private_keys(arena)]
    assert len(secrets) == 5

    locations = {
        str(path): path.read_bytes() for path in (*arena.folder.glob("*.log"), *arena.daemon_dir.rglob("data.mdb"))
    }
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                locations[str(entry)] = (entry / "cmdline").read_bytes()
    for secret in secrets:
        found = [location for location, text in locations.items() if secret in text]
        assert not found, f"a secret is in {found}"


def _private_keys(arena: Arena) -> list[bytes]:
    """Returns the private keys of the daemon and of two agents."""
    found = [pair.secret.encode() for pair in read_server_keys(arena.daemon_dir).pairs]
    for name in ("web-1", "web-2"):
        pair = json.loads((arena.agent_dir(name) / "keys" / "agent.key").read_bytes())
        found.append(pair["secret"].encode())
    return found


@pytest.mark.parametrize("way", ["directly", "by a symbolic link", "by a bind mount"])
def test_a_second_daemon_on_one_data_directory_ends_at_once(arena: Arena, way: str) -> None:
    """The second daemon exits with 1, WF310 and the process id of the first one, which keeps working."""
    other = arena.folder / "other"
    with contextlib.ExitStack() as stack:
        if way == "directly":
            other = arena.daemon_dir
        elif way == "by a symbolic link":
            other.symlink_to(arena.daemon_dir)
        else:
            other.mkdir()
            mounted = subprocess.run(
                ["mount", "--bind", str(arena.daemon_dir), str(other)], capture_output=True, check=False
            )
            if mounted.returncode:
                pytest.skip(f"nothing can be mounted here: {mounted.stderr.decode().strip()}")
            stack.callback(subprocess.run, ["umount", "--lazy", str(other)], check=False)
        config = arena.folder / "second.toml"
        text = arena.config.read_text().replace(f'"{arena.daemon_dir}"', f'"{other}"')
        for port in (arena.api_port, arena.work_port, arena.enroll_port):
            text = text.replace(f":{port}", ":0")
        config.write_text(text.replace("d.sock", "second.sock"))
        log = arena.folder / "second.log"
        process = arena.spawn("waterflowd", "run", "--config", str(config), log=log)
        assert process.wait(PATIENCE_S) == 1, log.read_text()
        assert "WF310" in log.read_text()
        assert str(arena.daemon_pid) in log.read_text()
    assert arena.wait_for(arena.start(GOOD))["conclusion"] == "success"


def test_a_cloned_agent_gets_no_work_and_the_first_one_continues(arena: Arena) -> None:
    """A copied data directory has the same key: the first agent stays, and nothing runs twice."""
    arena.lose_agent("web-2")
    marker = arena.folder / "marker"
    gate = arena.folder / "gate"
    wait = f"echo begin; until test -e {gate}; do sleep 0.05; done"
    runs = [arena.start(job(f"{wait}; echo $WATERFLOW_RUN_ID >> {marker}")) for _ in range(4)]
    for run in runs:
        arena.lines(run, count=1)
    copy = arena.folder / "agent-clone"
    shutil.copytree(
        arena.agent_dir("web-1"),
        copy,
        symlinks=True,
        ignore=lambda _, names: [name for name in names if name.endswith(".sock")],
        ignore_dangling_symlinks=True,
    )
    config = arena.folder / "clone.toml"
    text = (arena.folder / "web-1.toml").read_text()
    config.write_text(text.replace(str(arena.agent_dir("web-1")), str(copy)))
    process = arena.spawn("waterflow_agent", "run", "--config", str(config), log=arena.folder / "clone.log")
    try:
        wait_until(lambda: "WF211" in (arena.folder / "clone.log").read_text(), "the clone to be refused")
        trail = arena.api("GET", "/v1/audit?what=agent-cloned").json()["audit"]
        assert trail
        assert all("was refused" in entry["target"] for entry in trail)
        gate.touch()
        runs += [arena.start(job(f"echo $WATERFLOW_RUN_ID >> {marker}")) for _ in range(10)]
        for run in runs:
            found = arena.wait_for(run)
            assert found["conclusion"] == "success", found
    finally:
        process.kill()
        process.wait()
    assert sorted(marker.read_text().split()) == sorted(runs)


def test_a_copy_of_a_silent_agent_is_refused_until_a_person_accepts_it(arena: Arena) -> None:
    """The copied key belongs to another data directory; a moved one is accepted with a command."""
    arena.lose_agent("web-1")
    arena.lose_agent("web-2")
    copy, config, log = arena.folder / "agent-moved", arena.folder / "moved.toml", arena.folder / "moved.log"
    sockets = shutil.ignore_patterns("*.sock")
    shutil.copytree(arena.agent_dir("web-1"), copy, symlinks=True, ignore=sockets, ignore_dangling_symlinks=True)
    config.write_text((arena.folder / "web-1.toml").read_text().replace(str(arena.agent_dir("web-1")), str(copy)))
    run = arena.start(GOOD)
    process = arena.spawn("waterflow_agent", "run", "--config", str(config), log=log)
    try:
        wait_until(lambda: "WF211" in log.read_text(), "the copy to be refused")
        assert arena.connected() == set()
        assert "waterflowctl agents accept web-1" in arena.ctl("status").stdout

        assert arena.ctl("agents", "accept", "web-1").returncode == 0

        process.kill()
        process.wait()
        process = arena.spawn("waterflow_agent", "run", "--config", str(config), log=log)
        assert arena.wait_for(run)["conclusion"] == "success"
    finally:
        process.kill()
        process.wait()


def test_a_revoked_agent_is_disconnected_during_its_step(arena: Arena) -> None:
    """The agent's session ends and is not reopened; its steps are `lost`, even if it still reports (A6)."""
    arena.lose_agent("web-2")
    run = arena.start(job("echo begin; sleep 600; echo end"))
    arena.lines(run, count=1)
    fingerprint = next(row["fingerprint"] for row in arena.agent_rows() if row["name"] == "web-1")

    answer = arena.api("POST", f"/v1/agents/{fingerprint.replace('/', '%2F').replace('+', '%2B')}/revoke")

    assert answer.status_code == 200, answer.text
    wait_until(lambda: "web-1" not in arena.connected(), "the session to be cut")
    found = arena.wait_for(run)
    assert found["jobs"][0]["steps"][0]["outcome"] == "lost", found
    arena.kill_agent("web-1")
    process = arena.spawn_agent("web-1")
    wait_until(lambda: "WF212" in arena.agent_log("web-1").read_text(), "the agent to be told")
    assert "web-1" not in arena.connected()
    assert process.poll() is None or process.returncode != 0
    later = arena.start(GOOD)
    assert arena.run(later)["status"] != "completed"
    os.kill(arena.daemon_pid, 0)
