"""The package files: reproducible, small enough, without common files, and accepted by lintian and rpmlint."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from packaged import PackagedRoot
from tools import need

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

PACKAGES = ("waterflow", "waterflow-agent")
AGENT_MIB_MAX = 25
PROGRAMS = {"waterflow": ("waterflowd", "waterflowctl"), "waterflow-agent": ("waterflow-agent",)}
COMPLETIONS = (
    "/usr/share/bash-completion/completions/{0}",
    "/usr/share/zsh/vendor-completions/_{0}",
    "/usr/share/fish/vendor_completions.d/{0}.fish",
)
IN_BOTH = (
    "/usr/lib/sysusers.d/@.conf",
    "/usr/share/doc/@/copyright",
    "/usr/share/doc/@/licenses/libssl3.txt",
    "/usr/share/doc/@/sbom.cdx.json",
    "/usr/share/doc/@/docs/installation.md",
    "/usr/share/doc/@/docs/operations.md",
)
IN_ONE = {
    "waterflow": (
        "/etc/waterflow/waterflowd.toml",
        "/usr/lib/systemd/system/waterflowd.service",
        "/usr/lib/tmpfiles.d/waterflow.conf",
        "/usr/share/waterflow/workflow.schema.json",
        "/usr/share/waterflow/step.schema.json",
    ),
    "waterflow-agent": (
        "/etc/waterflow/agent.toml",
        "/usr/lib/systemd/system/waterflow-agent.service",
        "/usr/lib/systemd/system/waterflow-agent.path",
        "/usr/lib/systemd/system/waterflow-runner.service",
        "/usr/lib/tmpfiles.d/waterflow-agent.conf",
        "/usr/share/waterflow-agent/docker/sysusers.d/waterflow-docker.conf",
        "/usr/share/waterflow-agent/docker/systemd/system/waterflow-runner.service.d/docker.conf",
        "/usr/share/waterflow-agent/privileged/waterflow-agent.service.d/privileged.conf",
        "/usr/share/waterflow-agent/privileged/waterflow-runner.service.d/privileged.conf",
    ),
}


def _listed(file: Path) -> set[str]:
    """The paths of files and links in a deb."""
    listed = subprocess.run(["dpkg-deb", "--contents", str(file)], capture_output=True, text=True, check=True).stdout
    return {line.split()[5] for line in listed.splitlines() if not line.startswith("d")}


def _deb(folder: Path, name: str) -> Path:
    (file,) = folder.glob(f"{name}_*.deb")
    return file


def test_two_builds_are_equal_to_the_byte(packages: Path, packages_again: Path) -> None:
    """Two builds of a commit are identical despite other folders, wheels, build time, umask, locale and time zone."""
    digests = [
        {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}
        for folder in (packages, packages_again)
    ]
    assert len(digests[0]) == 4
    assert digests[0] == digests[1]


def test_the_agent_is_small(packages: Path) -> None:
    """The agent's packages are below the size limit, because a server that only runs steps needs little."""
    assert all(file.stat().st_size < AGENT_MIB_MAX << 20 for file in packages.glob("waterflow-agent*"))


def test_the_packages_share_no_file(packages: Path) -> None:
    """No file is in both packages, so each can be removed without the other."""
    daemon, agent = (_listed(_deb(packages, name)) for name in PACKAGES)
    assert not daemon & agent


@pytest.mark.parametrize("name", PACKAGES)
def test_files_for_administrators_are_in_the_usual_places(packages: Path, name: str) -> None:
    """Units, users, configuration, man pages, completions, licences and the bill of materials are in place."""
    listed = _listed(_deb(packages, name))
    missing = [path for path in (*IN_BOTH, *IN_ONE[name]) if f".{path.replace('@', name)}" not in listed]
    assert missing == []
    for program in PROGRAMS[name]:
        assert f"./usr/bin/{program}" in listed
        assert {f".{location.format(program)}" for location in COMPLETIONS} <= listed
        assert any(path.startswith("./usr/share/man/man") and f"/{program}." in path for path in listed)


@pytest.mark.parametrize("name", PACKAGES)
def test_the_bill_of_materials_lists_everything_bundled(packages: Path, tmp_path: Path, name: str) -> None:
    """The bill of materials lists every Python distribution and the bundled OpenSSL, and the licences are included."""
    subprocess.run(["dpkg-deb", "--extract", str(_deb(packages, name)), str(tmp_path)], check=True)
    bill = json.loads((tmp_path / f"usr/share/doc/{name}/sbom.cdx.json").read_text())
    named = {component["name"] for component in bill["components"]}
    installed = {
        location.name.split("-")[0].replace("_", "-").lower() for location in tmp_path.glob("usr/lib/**/*.dist-info")
    }
    assert installed <= named
    assert "libssl3" in named
    licences = {location.stem for location in (tmp_path / f"usr/share/doc/{name}/licenses").iterdir()}
    assert len(licences) >= len(installed)


def test_lintian_finds_no_error(packages: Path) -> None:
    """lintian reports no error; each override in the package gives its reason."""
    need("lintian")
    command = ["lintian", "--allow-root", "--fail-on=error", *map(str, packages.glob("*.deb"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_rpmlint_finds_no_error(packages: Path) -> None:
    """rpmlint reports no error; each filter in rpmlint.toml gives its reason."""
    need("rpmlint", "rpm")
    settings = Path(__file__).parents[1] / "files" / "rpmlint.toml"
    command = ["rpmlint", f"--config={settings}", *map(str, packages.glob("*.rpm"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert " 0 errors," in done.stdout, done.stdout + done.stderr


def test_the_rpms_install_verify_and_uninstall(packages: Path, bookworm: PackagedRoot, tmp_path: Path) -> None:
    """dnf installs and removes the rpms with dependency checks; Debian and a stand-in package replace Fedora here."""
    need("dnf", "createrepo_c", "rpm", "rpmbuild")
    repository, root = tmp_path / "repository", bookworm.path
    repository.mkdir()
    for file in packages.glob("*.rpm"):
        shutil.copy(file, repository)
    _make_stand_in(tmp_path, repository)
    subprocess.run(["createrepo_c", "--quiet", str(repository)], check=True)
    dnf = [
        "dnf",
        "--quiet",
        "--assumeyes",
        f"--installroot={root}",
        f"--repofrompath=local,{repository}",
        "--repo=local",
    ]
    options = [
        "--nogpgcheck",
        "--releasever=1",
        "--setopt=reposdir=/nonexistent",
        f"--setopt=cachedir={tmp_path}/cache",
    ]
    done = subprocess.run([*dnf, *options, "install", *PACKAGES], capture_output=True, text=True, check=True)
    assert "scriptlet" not in done.stderr, done.stderr
    rpm = ["rpm", f"--root={root}"]
    subprocess.run([*rpm, "--verify", *PACKAGES], check=True)
    assert subprocess.run(["chroot", str(root), "waterflowctl", "version"], check=True, capture_output=True).stdout
    assert "waterflow-agent:" in (root / "etc/passwd").read_text()
    assert (root / "etc/systemd/system/multi-user.target.wants/waterflow-runner.service").is_symlink()
    subprocess.run([*dnf, *options, "remove", *PACKAGES], check=True)
    left = [str(location) for folder in ("usr", "etc") for location in (root / folder).rglob("*waterflow*")]
    # The key of the audit trail stays, like the data directory: without it the trail can no longer be verified.
    assert left == [str(root / "etc/waterflow")]
    assert [file.name for file in (root / "etc/waterflow").iterdir()] == ["audit.key"]


def _make_stand_in(folder: Path, repository: Path) -> None:
    """Builds a package that provides our dependencies, so that dnf can resolve them without a Fedora."""
    spec = folder / "stand-in.spec"
    provides = "\n".join(
        f"Provides: {item}"
        for item in ("glibc = 2.36", "libstdc++", "libgcc", "systemd = 251", "/bin/sh", "ca-certificates")
    )
    spec.write_text(
        f"Name: stand-in\nVersion: 1\nRelease: 1\nSummary: The system\nLicense: MIT\nBuildArch: noarch\n{provides}\n"
        "%description\nThe system.\n%files\n"
    )
    command = [
        "rpmbuild",
        "--quiet",
        "-bb",
        f"--define=_rpmdir {repository}",
        f"--define=_topdir {folder}/top",
        str(spec),
    ]
    subprocess.run(command, check=True)
