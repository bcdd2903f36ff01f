"""The repository of the demo: a bare remote, a working copy and a first workflow. Uses Git for the push if it is installed."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
from pathlib import Path

WORKFLOW_PATH = "workflows/deploy.yml"
WORKFLOW = """\
name: deploy

jobs:
  database:
    runs-on: db-servers
    steps:
      - name: Back up
        run: |
          echo "backing up on $(hostname) ..."
          sleep 1
          echo "42 tables are safe"
      - id: migrate
        name: Migrate
        run: |
          echo "schema is at version 7"
          echo "version=7" >> "$WATERFLOW_OUTPUT"
    outputs:
      version: ${{ steps.migrate.outputs.version }}

  frontend:
    runs-on: web-servers
    needs: database
    steps:
      - name: Roll out
        run: |
          for part in assets pages api; do
            echo "copying $part"
            sleep 0.5
          done
      - name: Wait for it to settle
        uses: sleep
        with: {duration: 1s}
      - name: Report
        uses: log
        with: {message: "frontend runs on schema ${{ needs.database.outputs.version }}"}

  check:
    runs-on: web-servers
    needs: [database, frontend]
    steps:
      - name: Check the server
        run: df -h / && uptime
      - name: Done
        uses: log
        with: {message: "everything is up"}
"""


def create(folder: Path) -> tuple[Path, Path]:
    """Create an empty bare repository and a working copy that pushes to it; return both paths."""
    from dulwich.repo import Repo

    bare, work = folder / "ops.git", folder / "ops"
    Repo.init_bare(str(bare), mkdir=True, default_branch=b"main").close()
    with Repo.init(str(work), mkdir=True, default_branch=b"main") as repository:
        configuration = repository.get_config()
        for section, key, value in [
            (("user",), "name", "Demo"),
            (("user",), "email", "demo@localhost"),
            (("remote", "origin"), "url", str(bare)),
            (("remote", "origin"), "fetch", "+refs/heads/*:refs/remotes/origin/*"),
            (("branch", "main"), "remote", "origin"),
            (("branch", "main"), "merge", "refs/heads/main"),
        ]:
            configuration.set(section, key, value)
        configuration.write_to_path()
    return bare, work


def push_first(bare: Path, work: Path) -> str:
    """Commit the workflow and push it; return the command to show to the user."""
    path = work / WORKFLOW_PATH
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(WORKFLOW, "utf-8")
    if shutil.which("git") is not None and _push_with_git(work):
        return "git add . && git commit -m 'Deploy' && git push"
    _push_with_dulwich(bare, work)
    return "git push (by Python, because git is not installed)"


def _push_with_git(work: Path) -> bool:
    # The user's configuration (signing, hooks, URL rewriting) must not affect the demo.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull, "GIT_TERMINAL_PROMPT": "0"}
    for arguments in (["add", "."], ["commit", "-q", "-m", "Deploy"], ["push", "-q", "origin", "main"]):
        done = subprocess.run(
            ["git", "-C", str(work), *arguments], env=environment, capture_output=True, timeout=60, check=False
        )
        if done.returncode != 0:
            return False
    return True


def _push_with_dulwich(bare: Path, work: Path) -> None:
    from dulwich import porcelain
    from dulwich.repo import Repo

    with Repo(str(work)) as repository:
        try:
            repository.head()
        except KeyError:
            porcelain.add(repository, [str(work / WORKFLOW_PATH)])
            author = b"Demo <demo@localhost>"
            porcelain.commit(repository, message=b"Deploy", author=author, committer=author, sign=False)
        porcelain.push(repository, str(bare), b"refs/heads/main", outstream=io.BytesIO(), errstream=io.BytesIO())
