"""The files of the two packages, and those that only one format needs.

`/usr/lib/<name>` holds the interpreter, the libraries and the programs, `/usr/bin` links to the programs. The units are those
of `systemd/`, with the path of the private interpreter.
"""

from __future__ import annotations

import gzip
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import waterflow_agent.cli
import waterflow_agent.config
import waterflowd.app.cli
import waterflowd.app.config
import waterflowd.ctl.main
from builder import bill, cpython, environment, manuals, samples
from builder.cpython import Part
from builder.environment import Library
from builder.manuals import Program

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGING = REPOSITORY / "packaging"
UNITS = REPOSITORY / "systemd"
MAINTAINER = "Waterflow developers <developers@waterflow.invalid>"
_DOCUMENTATION = "Documentation: /usr/share/doc/{0}."
#: Paths of shell completions, by format and shell.
COMPLETIONS = {
    "deb": {
        "bash": "/usr/share/bash-completion/completions/{0}",
        "zsh": "/usr/share/zsh/vendor-completions/_{0}",
        "fish": "/usr/share/fish/vendor_completions.d/{0}.fish",
    },
    "rpm": {
        "bash": "/usr/share/bash-completion/completions/{0}",
        "zsh": "/usr/share/zsh/site-functions/_{0}",
        "fish": "/usr/share/fish/vendor_completions.d/{0}.fish",
    },
}


@dataclass(frozen=True, kw_only=True)
class Package:
    """The properties of one package."""

    name: str
    summary: str
    description: str
    #: The distribution and its extras.
    extras: frozenset[str]
    programs: dict[str, str]
    pages: tuple[Program, ...]
    units: tuple[str, ...]
    configuration: str
    render: Callable[[], str]
    documents: tuple[str, ...]
    unused: tuple[str, ...] = ()
    #: Additional files: source in the repository, target, mode.
    files: tuple[tuple[str, str, int], ...] = ()
    formats: dict[str, tuple[tuple[str, str, int], ...]] = field(default_factory=dict)

    @property
    def home(self) -> str:
        """The directory of the private interpreter and libraries."""
        return f"/usr/lib/{self.name}"


DAEMON = Package(
    name="waterflow",
    summary="Git-driven workflows on your own servers that survive any crash",
    description="The daemon and its command line. It watches Git repositories and runs\n"
    "their workflows on servers that run an agent (waterflow-agent).\n"
    "Every decision is an event in a log on disk, so runs continue after\n"
    "any crash. Includes its own Python interpreter; needs no database.",
    extras=frozenset({"speed"}),
    programs={"waterflowd": "waterflowd.__main__", "waterflowctl": "waterflowd.ctl.main"},
    pages=(
        Program(
            name="waterflowd",
            section=8,
            command=waterflowd.app.cli.main,
            see_also="waterflowctl(1), waterflow-agent(8). " + _DOCUMENTATION.format("waterflow"),
            files=(
                ("/etc/waterflow/waterflowd.toml", "Configuration, with every key."),
                ("/var/lib/waterflow/", "Data directory: event log, keys, and the output of steps."),
                (
                    "/run/waterflow/waterflowd.sock",
                    "API socket for administrators: root and members of the group waterflow.",
                ),
            ),
        ),
        Program(
            name="waterflowctl",
            section=1,
            command=waterflowd.ctl.main.cli,
            see_also="waterflowd(8). " + _DOCUMENTATION.format("waterflow"),
        ),
    ),
    units=("waterflowd.service",),
    configuration="waterflowd.toml",
    render=lambda: samples.render(
        waterflowd.app.config.Config,
        [
            "Configuration of waterflowd: every key with its default. Remove the # to change one.",
            "",
            "sudo -u waterflow waterflowd check-config     check this file",
            "sudo waterflowctl reload                      apply it, and list what needs a restart",
            "sudo systemctl restart waterflowd             apply all of it; running steps continue",
        ],
    ),
    documents=("README.md", "SECURITY.md", "ARCHITECTURE.md", "docs", "examples"),
    files=(
        ("packaging/files/waterflow.sysusers", "/usr/lib/sysusers.d/waterflow.conf", 0o644),
        ("packaging/files/waterflow.tmpfiles", "/usr/lib/tmpfiles.d/waterflow.conf", 0o644),
    ),
)
AGENT = Package(
    name="waterflow-agent",
    summary="Runs steps of Waterflow workflows on this server",
    description="The agent and its step runner. It opens one encrypted connection to\n"
    "the daemon (waterflow), so the server needs no open port and no SSH.\n"
    "Steps continue while the agent is restarted or upgraded. Includes its\n"
    "own Python interpreter.",
    extras=frozenset({"nodes"}),
    programs={"waterflow-agent": "waterflow_agent.cli"},
    pages=(
        Program(
            name="waterflow-agent",
            section=8,
            command=waterflow_agent.cli.main,
            see_also="waterflowctl(1), waterflowd(8). " + _DOCUMENTATION.format("waterflow-agent"),
            files=(
                ("/etc/waterflow/agent.toml", "Configuration, with every key."),
                ("/etc/waterflow/join-token", "Join token: the agent enrolls once this file exists."),
                ("/var/lib/waterflow-agent/", "Data directory: the agent's key, its journal, and job directories."),
                ("/var/lib/waterflow-step/", "Home directory of the steps."),
            ),
        ),
    ),
    units=("waterflow-agent.service", "waterflow-runner.service"),
    configuration="agent.toml",
    render=lambda: samples.render(
        waterflow_agent.config.Config,
        [
            "Configuration of waterflow-agent: every key with its default. Remove the # to change one.",
            "sudo systemctl restart waterflow-agent applies it; running steps continue.",
        ],
        {"join-token-file": "/etc/waterflow/join-token"},
    ),
    documents=("docs/installation.md", "docs/containers.md", "docs/operations.md", "SECURITY.md"),
    unused=cpython.UNUSED_BY_AGENT,
    files=(
        ("packaging/files/waterflow-agent.sysusers", "/usr/lib/sysusers.d/waterflow-agent.conf", 0o644),
        ("packaging/files/waterflow-agent.tmpfiles", "/usr/lib/tmpfiles.d/waterflow-agent.conf", 0o644),
        ("packaging/files/waterflow-agent.path", "/usr/lib/systemd/system/waterflow-agent.path", 0o644),
        (
            "packaging/files/waterflow-agent.conf",
            "/usr/lib/systemd/system/waterflow-agent.service.d/50-package.conf",
            0o644,
        ),
        ("packaging/files/await_token.py", "/usr/lib/waterflow-agent/bin/await-token", 0o755),
        *(
            (
                f"systemd/privileged/{unit}.d/privileged.conf",
                f"/usr/share/waterflow-agent/privileged/{unit}.d/privileged.conf",
                0o644,
            )
            for unit in ("waterflow-agent.service", "waterflow-runner.service")
        ),
        *(
            (f"systemd/docker/{file}", f"/usr/share/waterflow-agent/docker/{file}", 0o644)
            for file in ("systemd/system/waterflow-runner.service.d/docker.conf", "sysusers.d/waterflow-docker.conf")
        ),
    ),
    formats={"deb": (("packaging/files/needrestart.conf", "/etc/needrestart/conf.d/waterflow-agent.conf", 0o644),)},
)


class Tree:
    """The files of one package below `root`, for one format."""

    def __init__(self, package: Package, root: Path) -> None:
        self.package = package
        self.root = root

    def inside(self, path: str) -> Path:
        """The path of a package file in the tree. Creates its parent directories."""
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        return file

    def write(self, path: str, text: str | bytes, mode: int = 0o644) -> None:
        """Writes a file."""
        file = self.inside(path)
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        file.chmod(mode)

    def link(self, path: str, target: str) -> None:
        """Makes a symbolic link."""
        self.inside(path).symlink_to(target)

    @property
    def libraries(self) -> Path:
        """The directory of the Python distributions."""
        return self.root / self.package.home.lstrip("/") / cpython.DISTRIBUTIONS


def add_programs(tree: Tree, interpreter: Path, library: Library, patchelf: Path) -> None:
    """Adds the interpreter, the libraries, the programs, and their bytecode."""
    package = tree.package
    home = tree.inside(package.home)
    shutil.copytree(interpreter.parents[1], home, symlinks=True, ignore=shutil.ignore_patterns("all", "scratch"))
    cpython.drop(home / "lib" / f"python{cpython.VERSION}", package.unused)
    library.copy(library.closure(package.name, package.extras), tree.libraries)
    environment.strip(tree.libraries)
    environment.silence_scripts(home / "lib")
    tree.write(
        f"{package.home}/lib/python{cpython.VERSION}/sitecustomize.py",
        (PACKAGING / "files/sitecustomize.py").read_bytes(),
    )
    for program, module in package.programs.items():
        shebang = f"#!{package.home}/bin/python{cpython.VERSION} -I\n"
        tree.write(
            f"{package.home}/bin/{program}",
            f"{shebang}import sys\n\nfrom {module} import main\n\nsys.exit(main())\n",
            0o755,
        )
        tree.link(f"/usr/bin/{program}", f"../lib/{package.name}/bin/{program}")
    environment.compile_all(tree.root, package.home)
    cpython.settle(home / "bin" / interpreter.name, f"{package.home}/lib", patchelf)


def add_system_files(tree: Tree) -> None:
    """Adds units, users, directories and the configuration."""
    package = tree.package
    for unit in package.units:
        text = (UNITS / unit).read_text("utf-8")
        tree.write(
            f"/usr/lib/systemd/system/{unit}", text.replace("/usr/bin/python3 -P", f"{package.home}/bin/python3 -I")
        )
    tree.write(f"/etc/waterflow/{package.configuration}", package.render())
    for source, target, mode in package.files:
        text = (REPOSITORY / source).read_text("utf-8").replace("@HOME@", package.home)
        tree.write(target, text, mode)


def add_documents(tree: Tree, version: str, at_s: int, parts: list[Part], source: Path) -> None:
    """Adds documentation, licences, man pages, and the bill of materials."""
    package = tree.package
    folder = f"/usr/share/doc/{package.name}"
    for name in package.documents:
        entry = REPOSITORY / name
        for file in [entry] if entry.is_file() else sorted(entry.rglob("*.*")):
            tree.write(f"{folder}/{file.relative_to(REPOSITORY)}", file.read_bytes())
    tree.write(f"{folder}/changelog.gz", _packed((REPOSITORY / "CHANGELOG.md").read_bytes()))
    tree.write(f"{folder}/copyright", _copyright(package.name))
    bill.copy_licences(tree.inside(f"{folder}/licenses"), tree.libraries, source, parts)
    bill.write(tree.inside(f"{folder}/sbom.cdx.json"), package.name, version, tree.libraries, parts, at_s)
    for program in package.pages:
        page = manuals.page(program, version.partition("-")[0], at_s)
        tree.write(f"/usr/share/man/man{program.section}/{program.name}.{program.section}.gz", _packed(page.encode()))


def add_schemas(tree: Tree) -> None:
    """Adds the JSON Schemas of workflow files, for editors."""
    for kind in ("workflow", "step"):
        command = [sys.executable, "-m", "waterflowd.ctl", "schema", f"--kind={kind}"]
        text = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True).stdout
        tree.write(f"/usr/share/{tree.package.name}/{kind}.schema.json", text)


def add_format(tree: Tree, kind: str, release: str, at_s: int) -> None:
    """Adds the files that only this format has, or has elsewhere."""
    package = tree.package
    for program in package.pages:
        for shell, text in manuals.completions(program).items():
            tree.write(COMPLETIONS[kind][shell].format(program.name), text)
    for source, target, mode in package.formats.get(kind, ()):
        tree.write(target, (REPOSITORY / source).read_bytes(), mode)
    if kind == "deb":
        overrides = (PACKAGING / "files" / "lintian-overrides").read_text("utf-8").replace("@NAME@", package.name)
        tree.write(f"/usr/share/lintian/overrides/{package.name}", overrides)
        tree.write(
            f"/usr/share/doc/{package.name}/changelog.Debian.gz", _packed(_debian_changelog(package, release, at_s))
        )


def _debian_changelog(package: Package, release: str, at_s: int) -> bytes:
    from email.utils import formatdate

    text = (
        f"{package.name} ({release}) unstable; urgency=medium\n\n  * See changelog.gz.\n\n"
        f" -- {MAINTAINER}  {formatdate(at_s)}\n"
    )
    return text.encode()


def _copyright(name: str) -> str:
    licence = (REPOSITORY / "LICENSE").read_text("utf-8")
    return (
        f"Waterflow is under the MIT license, below. The package brings other software along: Python itself and libraries,\n"
        f"below /usr/lib/{name}. What each is licensed as is in /usr/share/doc/{name}/licenses; the list of all of it, with\n"
        f"versions, is /usr/share/doc/{name}/sbom.cdx.json.\n\n{licence}"
    )


def _packed(content: bytes) -> bytes:
    return gzip.compress(content, 9, mtime=0)


def settings_of(tree: Tree, kind: str) -> dict[str, Any]:
    """The files of the tree for nfpm: path, mode, and what they are."""
    entries = [entry for entry in sorted(tree.root.rglob("*")) if _is_ours(tree, entry)]
    return {"contents": [_entry(tree.root, entry, kind) for entry in entries]}


def _is_ours(tree: Tree, entry: Path) -> bool:
    """Files and links, and the directories that no other package has."""
    path = "/" + str(entry.relative_to(tree.root))
    if entry.is_symlink() or not entry.is_dir():
        return True
    name = tree.package.name
    own = (f"/usr/lib/{name}", f"/usr/share/doc/{name}", f"/usr/share/{name}")
    return (
        path in (*own, "/etc/waterflow")
        or path.endswith(f"/{name}.service.d")
        or path.startswith(tuple(f"{item}/" for item in own))
    )


def _entry(root: Path, entry: Path, kind: str) -> dict[str, Any]:
    path = "/" + str(entry.relative_to(root))
    if entry.is_symlink():
        return {"src": str(entry.readlink()), "dst": path, "type": "symlink"}
    information = {"owner": "root", "group": "root", "mode": entry.stat().st_mode & 0o777}
    if entry.is_dir():
        return {"dst": path, "type": "dir", "file_info": information | {"mode": 0o755}}
    # nfpm omits files of the type documentation from a deb.
    documentation = {"/usr/share/doc/": "doc", "/usr/share/man/": "doc"} if kind == "rpm" else {}
    types = {"/etc/": "config|noreplace", **documentation}
    found = next((name for start, name in types.items() if path.startswith(start)), "")
    return {"src": str(entry), "dst": path, "type": found, "file_info": information}
