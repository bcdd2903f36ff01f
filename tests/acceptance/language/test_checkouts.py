"""A job's directory starts with the repository's files at the run's commit, on servers without Git."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests import living
from tests.acceptance.cluster import Cluster
from tests.acceptance.temporal_cluster import TemporalCluster
from tests.patience import wait_until

WORKFLOW = """name: show
on: {push: {}}
jobs:
  all:
    runs-on: web
    steps:
      - run: |
          cat app/version
          ./app/tool
          cat link
          ls -A . module
      - run: echo changed > app/version
      - run: cat app/version
  some:
    runs-on: web
    needs: all
    checkout: ['app/**', '!app/version']
    steps:
      - run: find . -mindepth 1 | sort
  none:
    runs-on: web
    needs: some
    checkout: false
    steps:
      - run: ls -A | wc -l
"""

LFS_VERSION = "version https://git-lfs.github.com/spec/v1"


def _runs(cluster: Cluster, count: int = 1) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = wait_until(
        lambda: rows if len(rows := cluster.api("GET", "/v1/runs").json()["runs"]) >= count else None, f"{count} runs"
    )
    return found


@pytest.fixture
def clone(empty_cluster: Cluster) -> Path:
    """A clone of a repository without commits, with an agent of `web`."""
    clone = empty_cluster.make_repository()
    empty_cluster.start_daemon()
    empty_cluster.add_agent("web-1", "web")
    return clone


def test_files_of_the_commit_exist_before_the_first_step(empty_cluster: Cluster, clone: Path) -> None:
    """Modes, links and a submodule's empty directory are right; only later steps of the job see a step's changes."""
    cluster = empty_cluster
    (clone / "app").mkdir()
    (clone / "app/tool").write_text("#!/bin/sh\necho tool\n")
    (clone / "app/tool").chmod(0o755)
    (clone / "link").symlink_to("app/version")
    cluster.git("update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},module", cwd=clone)
    (clone / "module").mkdir()
    cluster.push(clone, {"workflows/show.yml": WORKFLOW, "app/version": "one\n"})

    run = _runs(cluster)[0]["id"]
    assert cluster.wait_for(run)["conclusion"] == "success", cluster.lines(run)

    first = ["one", "tool", "one", ".:", "app", "link", "module", "workflows", "", "module:"]
    assert cluster.lines(run, 14) == [*first, "changed", "./app", "./app/tool", "0"]


def test_a_composite_step_runs_the_programs_beside_its_file(empty_cluster: Cluster, clone: Path) -> None:
    """By the field of `github`, the variable, and an input of another composite step; also where the files are in a folder."""
    cluster = empty_cluster
    (clone / "steps/greet").mkdir(parents=True)
    (clone / "steps/greet/greet").write_text("#!/bin/sh\necho hello $1\n")
    (clone / "steps/greet/greet").chmod(0o755)
    greet = """runs:
  using: composite
  steps:
    - run: ${{ github.action_path }}/greet field
      shell: bash
    - run: |
        cd /
        "$GITHUB_ACTION_PATH/greet" variable
      shell: bash
    - uses: ./steps/run
      with: {program: "${{ github.action_path }}/greet"}
"""
    run_step = "inputs: {program: {}}\nsteps:\n  - run: ${{ inputs.program }} input\n"
    workflow = """on: {push: {}}
jobs:
  here:
    runs-on: web
    steps:
      - uses: ./steps/greet
  below:
    needs: here
    runs-on: web
    steps:
      - uses: actions/checkout@v5
        with: {path: src}
      - uses: ./steps/greet
"""
    files = {"workflows/w.yml": workflow, "steps/greet/action.yml": greet, "steps/run/step.yml": run_step}
    cluster.push(clone, files)

    run = _runs(cluster)[0]["id"]
    assert cluster.wait_for(run)["conclusion"] == "success", cluster.lines(run)
    assert cluster.lines(run, 6) == ["hello field", "hello variable", "hello input"] * 2


def test_the_next_commit_transfers_only_changed_files(empty_cluster: Cluster, clone: Path) -> None:
    """Files that a server already has are not sent again; the agent reports how many it fetched."""
    cluster = empty_cluster
    workflow = (
        "on: {push: {}}\njobs:\n  a:\n    runs-on: web\n    steps:\n      - run: cat app/version; ls data | wc -l\n"
    )
    files = {f"data/{number}": f"content {number}\n" for number in range(600)}
    cluster.push(clone, {"workflows/show.yml": workflow, "app/version": "one\n", **files})
    first = _runs(cluster)[0]["id"]
    assert cluster.wait_for(first)["conclusion"] == "success"
    wait_until(lambda: living.found(cluster.agent_dir("web-1"), "trees/made/*"), "the spare directory")

    (clone / "data/7").unlink()
    cluster.push(clone, {"app/version": "two\n"})
    second = _runs(cluster, 2)[0]["id"]
    assert cluster.wait_for(second)["conclusion"] == "success"

    assert cluster.lines(second, 2) == ["two", "599"]
    fetched = [line for line in cluster.agent_log("web-1").read_text().splitlines() if "of them fetched" in line]
    assert "602 files, 602 of them fetched" in fetched[0]
    assert "601 files, 1 of them fetched" in fetched[1]


def test_a_link_out_of_the_repository_fails_the_step_with_its_path(empty_cluster: Cluster, clone: Path) -> None:
    """The step does not run, and the message says what to do; patterns can exclude the file."""
    cluster = empty_cluster
    (clone / "out").symlink_to("/etc/passwd")
    text = "on: {push: {}}\njobs:\n  a:\n    runs-on: web\n    steps:\n      - run: cat out\n"
    cluster.push(clone, {"workflows/a.yml": text})
    run = cluster.wait_for(_runs(cluster)[0]["id"])
    assert run["conclusion"] == "failure"
    reason = run["jobs"][0]["steps"][0]["reason"]["text"]
    assert "out: links to /etc/passwd, outside of the repository; exclude it in the job's checkout" in reason

    patterns = text.replace("    steps", "    checkout: ['**', '!out']\n    steps").replace("cat", "test ! -e")
    cluster.push(clone, {"workflows/a.yml": patterns})
    assert cluster.wait_for(_runs(cluster, 2)[0]["id"])["conclusion"] == "success"


def test_a_checkout_survives_kills_of_daemon_and_agent(empty_cluster: Cluster, clone: Path) -> None:
    """After a kill during the transfer, the step starts once, with all files."""
    cluster = empty_cluster
    marker = cluster.folder / "ran"
    files = {f"data/{number}": f"{number} {os.urandom(20_000).hex()}\n" for number in range(1_500)}
    text = (
        "on: {push: {}}\njobs:\n  a:\n    runs-on: web\n    steps:\n"
        f"      - run: 'echo x >> {marker}; ls data | wc -l; cat data/* | sha256sum'\n"
    )
    cluster.push(clone, {"workflows/a.yml": text, **files})
    run = _runs(cluster)[0]["id"]
    made = cluster.agent_dir("web-1") / "trees/made"

    wait_until(lambda: living.found(made, "*/data/*"), "the first files")
    cluster.kill_daemon()
    cluster.start_daemon()
    if not marker.exists():
        cluster.kill_agent("web-1")
        cluster.start_agent("web-1")

    assert cluster.wait_for(run)["conclusion"] == "success"
    assert marker.read_text() == "x\n"
    content = "".join(files[f"data/{name}"] for name in sorted(str(number) for number in range(1_500)))
    assert cluster.lines(run, 2) == ["1500", f"{hashlib.sha256(content.encode()).hexdigest()}  -"]


def test_a_cancelled_checkout_leaves_nothing(empty_cluster: Cluster, clone: Path) -> None:
    """A step that waits for files of an unavailable repository is cancelled at once, and its directory is removed."""
    cluster = empty_cluster
    steps = "      - uses: approval\n      - run: 'true'\n"
    text = f"on: {{push: {{}}}}\njobs:\n  a:\n    runs-on: web\n    steps:\n{steps}"
    cluster.push(clone, {"workflows/a.yml": text})
    run = _runs(cluster)[0]["id"]
    wait_until(lambda: cluster.run(run)["approvals"], "the approval")
    shutil.move(cluster.repository, cluster.folder / "away")
    assert cluster.api("POST", f"/v1/runs/{run}/approve", json={}).status_code == 200
    wait_until(
        lambda: cluster.run(run)["jobs"][0]["steps"][1]["status"] == "running", "the step to be given to the agent"
    )
    assert cluster.api("POST", f"/v1/runs/{run}/cancel", json={}).status_code in (200, 202)

    assert cluster.wait_for(run)["conclusion"] == "cancelled"

    wait_until(lambda: not living.found(cluster.agent_dir("web-1"), "work/[!.]*"), "the directory to go")
    wait_until(lambda: not living.found(cluster.agent_dir("web-1"), "trees/made/*"), "what was made of it to go")


def test_a_job_with_history_has_a_repository(empty_cluster: Cluster, clone: Path) -> None:
    """As a key of the job and as GitHub's action; the server gets only what is new of the second commit's history."""
    cluster = empty_cluster
    text = (
        "on: {push: {}}\njobs:\n"
        "  ours:\n    runs-on: web\n    checkout: {history: true}\n    steps:\n"
        "      - run: git log --format=%s && git describe && git diff-index --quiet HEAD && git status --porcelain\n"
        "  theirs:\n    runs-on: web\n    needs: ours\n    steps:\n"
        "      - {uses: actions/checkout@v4, with: {fetch-depth: 0, path: src}}\n"
        "      - {run: 'git diff --name-only origin/main~1', working-directory: src}\n"
        "      - run: ls -A\n"
    )
    cluster.push(clone, {"workflows/a.yml": text, "version": "1\n"}, "first")
    assert cluster.wait_for(_runs(cluster)[0]["id"])["conclusion"] == "failure"
    cluster.git("tag", "--annotate", "v1", "--message", "one", cwd=clone)
    cluster.git("push", "--quiet", "origin", "v1", cwd=clone)
    cluster.push(clone, {"version": "2\n"}, "second")
    second = _runs(cluster, 2)[0]["id"]
    assert cluster.wait_for(second)["conclusion"] == "success", cluster.lines(second)

    lines = cluster.lines(second, 5)
    assert (lines[:2], lines[2].startswith("v1-1-g"), lines[3:]) == (["second", "first"], True, ["version", "src"])


def test_a_plain_checkout_step_gives_the_commit(empty_cluster: Cluster, clone: Path) -> None:
    """Each run has its own commit and no other; a job without the step has files only."""
    cluster = empty_cluster
    text = (
        "on: {push: {}}\njobs:\n"
        "  theirs:\n    runs-on: web\n    steps:\n"
        "      - {id: c, uses: actions/checkout@v4}\n"
        "      - run: |\n"
        "          git rev-parse HEAD && git log --all --format=%s && git status --porcelain --branch\n"
        "          git diff --exit-code && git fsck --full --no-dangling && git describe --always --dirty > /dev/null\n"
        '          test "$(git rev-parse HEAD)" = "${{ steps.c.outputs.commit }}" && cat version\n'
        "  ours:\n    runs-on: web\n    needs: theirs\n    steps:\n"
        "      - run: ls -A\n"
    )
    for count, subject in ((1, "first"), (2, "second")):
        commit = cluster.push(clone, {"workflows/a.yml": text, "version": f"{count}\n"}, subject)
        run = _runs(cluster, count)[0]["id"]
        assert cluster.wait_for(run)["conclusion"] == "success", cluster.lines(run)
        lines = cluster.lines(run, 6)
        assert lines == [commit, subject, "## main...origin/main", str(count), "version", "workflows"]


def _push_lfs_file(cluster: Cluster, clone: Path, workflow: str, content: bytes) -> str:
    """Pushes a workflow and the pointer of `model.bin`, whose content the repository has; returns its SHA-256."""
    oid = hashlib.sha256(content).hexdigest()
    stored = Path(cluster.repository) / "lfs/objects" / oid[:2] / oid[2:4] / oid
    stored.parent.mkdir(parents=True)
    stored.write_bytes(content)
    files = {
        "workflows/a.yml": workflow,
        ".gitattributes": "*.bin filter=lfs diff=lfs merge=lfs -text\n",
        "model.bin": f"{LFS_VERSION}\noid sha256:{oid}\nsize {len(content)}\n",
    }
    cluster.push(clone, files)
    return oid


def test_files_in_git_lfs_have_their_contents(empty_cluster: Cluster, clone: Path) -> None:
    """The server has no program of Git LFS, and Git sees no change; a job that does not ask for them has pointers."""
    cluster = empty_cluster
    content = b"large\0" * 300_000
    text = (
        "on: {push: {}}\njobs:\n"
        "  contents:\n    runs-on: web\n    steps:\n"
        "      - {uses: actions/checkout@v4, with: {lfs: true}}\n"
        "      - run: sha256sum < model.bin && git status --porcelain && git show HEAD:model.bin | head -1\n"
        "  pointers:\n    runs-on: web\n    needs: contents\n    steps:\n      - run: tail -1 model.bin\n"
    )
    oid = _push_lfs_file(cluster, clone, text, content)
    run = _runs(cluster)[0]["id"]
    assert cluster.wait_for(run)["conclusion"] == "success", cluster.lines(run)
    assert cluster.lines(run, 3) == [f"{oid}  -", LFS_VERSION, f"size {len(content)}"]


def test_a_large_file_in_git_lfs_survives_kills_of_daemon_and_agent(empty_cluster: Cluster, clone: Path) -> None:
    """It is larger than any file in a repository may be; the agent continues with what it has received."""
    cluster = empty_cluster
    block = os.urandom(1 << 20)
    content = b"".join(number.to_bytes(8, "big") + block for number in range(70))
    text = (
        "on: {push: {}}\njobs:\n  a:\n    runs-on: web\n    checkout: {lfs: true}\n"
        "    steps:\n      - run: sha256sum < model.bin\n"
    )
    oid = _push_lfs_file(cluster, clone, text, content)
    run = _runs(cluster)[0]["id"]
    trees = cluster.agent_dir("web-1") / "trees"

    wait_until(lambda: living.found(trees, "incoming/*") or cluster.run(run).get("conclusion"), "the file to arrive")
    cluster.kill_daemon()
    cluster.start_daemon()
    cluster.kill_agent("web-1")
    cluster.start_agent("web-1")

    assert cluster.wait_for(run)["conclusion"] == "success", cluster.lines(run)
    assert cluster.lines(run, 1) == [f"{oid}  -"]
    wait_until(lambda: not living.found(trees, "incoming/*"), "what has arrived to be in its place")


def test_a_job_reads_another_repository_only_with_its_permission(empty_cluster: Cluster, clone: Path) -> None:
    """The permission is in the daemon's configuration, and takes effect with a reload; on Temporal with a restart."""
    cluster = empty_cluster
    tools = cluster.folder / "tools"
    cluster.git("init", "--quiet", "--initial-branch=main", str(tools))
    (tools / "greet").write_text("hello\n")
    cluster.git("add", "--all", cwd=tools)
    cluster.git("commit", "--quiet", "--message=greet", cwd=tools)
    ours = f'[[repositories]]\nname = "ops"\nurl = "{cluster.repository}"\n'
    theirs = f'[[repositories]]\nname = "tools"\nurl = "{tools}"\n'
    cluster.write_config(ours + theirs)
    cluster.kill_daemon()
    cluster.start_daemon()
    text = (
        "on: {push: {}}\ninputs: {branch: {default: main}}\njobs:\n  a:\n    runs-on: web\n    steps:\n"
        "      - uses: actions/checkout@v4\n"
        "      - {uses: actions/checkout@v4, with: {repository: tools, ref: '${{ inputs.branch }}', path: t}}\n"
        "      - run: cat t/greet && ls\n"
    )
    cluster.push(clone, {"workflows/a.yml": text})
    run = cluster.wait_for(_runs(cluster)[0]["id"])
    assert run["conclusion"] == "failure"
    assert 'add readable-by = ["ops"] to its configuration' in str(run["jobs"][0]["steps"])

    cluster.write_config(ours + theirs + 'readable-by = ["ops"]\n')
    done = cluster.ctl("reload")
    assert done.returncode == 0, done.stderr
    if isinstance(cluster, TemporalCluster):
        assert "needs a restart" in done.stdout
        cluster.kill_daemon()
        cluster.start_daemon()
    cluster.push(clone, {"version": "2\n"})
    second = _runs(cluster, 2)[0]["id"]
    assert cluster.wait_for(second)["conclusion"] == "success", cluster.lines(second)
    assert cluster.lines(second, 4) == ["hello", "t", "version", "workflows"]
