"""Records what this release leaves on servers, for later releases: `python -m tests.compat.record_release`.

Run it once for each release (and again before the release if a format changed). It writes, below `releases/<release>/`:

- `server.tar.gz`: the data directories of a daemon and of an agent that knows it, both stopped, and a backup of the daemon. One
  run has ended, and one waits for its approval.
- `waterflow_agent.zip`: this release's agent, without bytecode, which the tests start as the peer of later daemons.

Recordings of published releases must never be changed.
"""

from __future__ import annotations

import os
import tarfile
import tempfile
import zipfile
from pathlib import Path

import waterflow_agent
import waterflowd
from tests.acceptance.cluster import Cluster
from tests.patience import wait_until

RELEASES = Path(__file__).with_name("releases")
SERVER = "server.tar.gz"
AGENT = "waterflow_agent.zip"
#: The recorded folders: of the daemon, of the agent, and the backup.
DAEMON_DIR, AGENT_DIR, BACKUP_DIR = "daemon", "agent-web-1", "backup"
ENDED = """name: ended
jobs:
  build:
    runs-on: web
    steps:
      - run: |
          echo built
          echo "version=7" >> $WATERFLOW_OUTPUT
"""
#: Waits for as long as a run may.
WAITING = """name: waiting
timeout-minutes: 50400
jobs:
  build:
    runs-on: web
    steps:
      - id: version
        run: echo "version=7" >> $WATERFLOW_OUTPUT
    outputs:
      version: ${{ steps.version.outputs.version }}
  release:
    runs-on: web
    needs: build
    steps:
      - id: gate
        uses: approval
      - run: echo "released ${{ needs.build.outputs.version }}"
"""


def record(target: Path) -> None:
    """Writes the recording of this release to a folder."""
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="wf-record-") as folder:
        cluster = Cluster(Path(folder))
        try:
            _fill(cluster)
        finally:
            cluster.close()
        with tarfile.open(target / SERVER, "w:gz") as archive:
            for name in (DAEMON_DIR, AGENT_DIR, BACKUP_DIR):
                archive.add(cluster.folder / name, name, filter=_kept)
    package = Path(waterflow_agent.__file__).parent
    with zipfile.ZipFile(target / AGENT, "w", zipfile.ZIP_DEFLATED) as archive_of_agent:
        for file in sorted(package.rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                archive_of_agent.write(file, Path(package.name, file.relative_to(package)))


def _kept(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Leaves out sockets, and the space that a daemon keeps back and takes again at its start."""
    is_kept = (member.isfile() or member.isdir()) and os.path.basename(member.name) != "ballast"
    return member if is_kept else None


def _fill(cluster: Cluster) -> None:
    cluster.write_config()
    cluster.start_daemon()
    cluster.add_agent("web-1", "web")
    assert cluster.wait_for(cluster.start(ENDED))["conclusion"] == "success"
    waiting = cluster.start(WAITING)
    wait_until(lambda: is_waiting(cluster, waiting), "the run to wait for its approval")
    backup = cluster.waterflowd("backup", str(cluster.folder / BACKUP_DIR))
    assert backup.returncode == 0, backup.stderr
    cluster.stop_agent("web-1")
    assert cluster.stop_daemon() == 0


def is_waiting(cluster: Cluster, run: str) -> bool:
    """Whether the run waits for its approval."""
    steps = [step for job in cluster.run(run)["jobs"] for step in job["steps"]]
    return any(step["id"] == "gate" and step["status"] == "waiting" for step in steps)


if __name__ == "__main__":
    record(RELEASES / waterflowd.__version__)
