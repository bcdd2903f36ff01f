"""Files of other systems, imported and run on a real daemon and agent, do what the original tool does.

`imports/SYSTEM/files` is a repository in which `PLACE` is a folder; `imports/SYSTEM/effect` is what the original tool leaves in
that folder. For Ansible, the nightly run lets `ansible-playbook` itself write the folder.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.acceptance.cluster import Cluster
from tests.chance import IS_FULL
from tests.patience import wait_until

pytestmark = pytest.mark.slow

IMPORTS = Path(__file__).parents[1] / "imports"
ANSIBLE = "ansible-core==2.16.14"
#: A registry may be slow.
INSTALL_S_MAX = 600


@dataclass(frozen=True, kw_only=True)
class Case:
    """The files of one system."""

    system: str
    #: What to import, below the repository.
    source: str = "."
    #: The workflows to start by name. Others start with the push.
    start: tuple[str, ...] = ()
    #: Started by the push.
    pushed: int = 0


CASES = [
    Case(system="github", pushed=1),
    Case(system="gitlab", pushed=1),
    Case(system="jenkins", pushed=1),
    Case(system="rundeck", source="jobs.yaml", start=("Report",)),
    Case(system="cron", source="crontab", start=("crontab-echo", "crontab-cat", "crontab-printf")),
    Case(system="ansible", start=("site",)),
]


def files_below(folder: Path) -> dict[str, str]:
    """Returns the content of all files below a folder."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_text() for path in paths}


def originals(system: str, place: Path) -> dict[str, str]:
    """Returns the files of a system, in which `PLACE` is a folder."""
    found = files_below(IMPORTS / system / "files")
    return {name: text.replace("PLACE", str(place)) for name, text in found.items()}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.system)
def test_an_imported_file_has_the_effect_of_the_original(case: Case, empty_cluster: Cluster) -> None:
    """Imported with `waterflowctl import`, pushed, and run: the folder has the same files."""
    # given
    cluster = empty_cluster
    clone = cluster.make_repository()
    cluster.start_daemon()
    cluster.add_agent("web-1", "web")
    place = cluster.folder / "place"
    place.mkdir()
    sources = originals(case.system, place)
    for name, text in sources.items():
        path = clone / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    # when
    source, output = str(clone / case.source), str(clone / ".waterflow")
    imported = cluster.ctl("import", source, "--from", case.system, "--group", "web", "--output", output)
    assert imported.returncode == 0, imported.stdout + imported.stderr
    cluster.push(clone, {})
    for name in case.start:
        wait_until(lambda name=name: name in cluster.ctl("workflows").stdout, f"workflow {name}")  # type: ignore[misc]
        done = cluster.ctl("run", name)
        assert done.returncode == 0, (name, done.stdout, done.stderr)
    if case.pushed:
        runs = wait_until(lambda: cluster.api("GET", "/v1/runs").json()["runs"], "the runs of the push")
        assert len(runs) == case.pushed
        assert all(cluster.wait_for(run["id"])["conclusion"] == "success" for run in runs), cluster.lines(runs[0]["id"])

    # then
    assert files_below(place) == files_below(IMPORTS / case.system / "effect")


@pytest.mark.skipif(not IS_FULL, reason="installs ansible-core, in the nightly run only")
@pytest.mark.timeout(2 * INSTALL_S_MAX)
def test_ansible_itself_has_the_expected_effect(tmp_path: Path) -> None:
    """`ansible-playbook` with a local connection leaves the files that are expected of the imported playbook."""
    # given
    programs = tmp_path / "ansible"
    subprocess.run([sys.executable, "-m", "venv", programs], check=True, timeout=INSTALL_S_MAX)
    install = [str(programs / "bin/pip"), "install", "--quiet", "--disable-pip-version-check", ANSIBLE]
    if subprocess.run(install, timeout=INSTALL_S_MAX, check=False).returncode:
        pytest.skip(f"{ANSIBLE} cannot be installed")
    place, files = tmp_path / "place", tmp_path / "files"
    shutil.copytree(IMPORTS / "ansible/files", files)
    for name, text in originals("ansible", place).items():
        (files / name).write_text(text)
    place.mkdir()

    # when
    command = [
        str(programs / "bin/ansible-playbook"),
        "-i",
        "hosts",
        "-e",
        f"ansible_python_interpreter={sys.executable}",
        "site.yml",
    ]
    environment = {**os.environ, "HOME": str(tmp_path), "ANSIBLE_LOCALHOST_WARNING": "False", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(command, cwd=files, env=environment, capture_output=True, text=True, timeout=300, check=False)

    # then
    assert done.returncode == 0, done.stdout + done.stderr
    assert files_below(place) == files_below(IMPORTS / "ansible/effect")
