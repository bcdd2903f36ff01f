"""Files that one server stores as an artifact and another one fetches, with kills in the middle."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from pathlib import Path

from tests.acceptance.cluster import Cluster
from tests.patience import wait_until

#: A few hundred blocks, so that there is time to kill something while they are sent.
LARGE_BYTES = 48 << 20


def start(cluster: Cluster) -> None:
    """Starts a daemon, and an agent in each of two groups."""
    cluster.start_daemon()
    for name, group in (("build-1", "build"), ("web-1", "web")):
        cluster.add_agent(name, group)
    wait_until(lambda: cluster.connected() == {"build-1", "web-1"}, "the agents to connect")


def make_files(folder: Path, seed: int = 1) -> str:
    """Creates the files that are built, and returns the digest of all of them."""
    dice = random.Random(seed)
    folder.mkdir(parents=True)
    (folder / "image").write_bytes(dice.randbytes(LARGE_BYTES))
    for number in range(500):
        (folder / f"small-{number:03}").write_bytes(dice.randbytes(300))
    return digest(folder)


def digest(folder: Path) -> str:
    """The digest of all files, with their paths."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return found.hexdigest()


def workflow(source: Path, target: Path) -> str:
    """One job stores the files of `source`, and another one copies what it has fetched to `target`."""
    return f"""name: ship
jobs:
  build:
    runs-on: build
    steps:
      - run: cp -r {source} dist
      - uses: actions/upload-artifact@v4
        with: {{name: shop, path: dist/}}
  deploy:
    needs: build
    runs-on: web
    steps:
      - uses: actions/download-artifact@v4
        with: {{name: shop, path: release}}
      - run: rm -rf {target} && cp -r release {target}
"""


def kill_when(cluster: Cluster, run: str, agent: str, is_due: Callable[[], bool]) -> None:
    """Kills the daemon and an agent once `is_due`, or at the end of the run, and starts both again."""
    wait_until(lambda: is_due() or cluster.run(run)["status"] == "completed", "the transfer to continue")
    cluster.kill_agent(agent)
    cluster.kill_daemon()
    cluster.start_daemon()
    cluster.start_agent(agent)
